//! Runs projections: reads EVENTS (and OUTCOMES, for projections of outcomes) in order, applies whatever waits in one
//! transaction, and publishes how far each projection has come.
//!
//! ```text
//! Source (EVENTS)   ──┐
//!                     ├── decoded messages ──▶ Writer, one thread per file ──▶ Applier ──▶ rows and checkpoints
//! Source (OUTCOMES) ──┘
//! ```
//!
//! Projections that are close to each other share a reader. One that is far behind, because it is rebuilt or had halted, catches up beside the
//! others with a second reader, and then joins them (docs/adr/0034-nobody-waits-for-another-on-the-read-side.md).
//!
//! When many messages wait, the writer's thread shares the work with others, by projection or table. Every projection has its own checkpoint:
//! one that cannot continue halts and says so, and the others continue. If a checkpoint does not belong to the current stream, the projection
//! is rebuilt, and the log says so. No event is skipped. Only syncing the file depends on a timer.

mod applier;
mod changed_rows;
mod checkpoint_check;
mod decoding;
mod follower;
mod pace;
mod past_views;
mod projection_set;
mod reader_lane;
mod source;
mod status;
mod sweep;
mod sync_schedule;
mod writer;

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::{
    changed_rows::{ChangedRows, ToTell},
    follower::{FollowError, RowFollower},
    pace::{Hurry, InHurry},
    past_views::{FoldError, PastViews},
    projection_set::{NameTaken, ProjectionSet, view_name},
    status::{Halt, ProjectionStatus, View, ViewDirectory, any_changed},
    sweep::SweepPace,
    writer::{RemovalError, RowRemover},
};
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stream_names::{EVENTS, OUTCOMES},
};
use millstream_jetstream::broker::{Broker, BrokerError, ReadError};
use millstream_runtime::metrics::Metrics;
use millstream_store::read_store::{ProjectionId, ReadStore, StoreError};

use crate::read_side::file_failed;

use self::{
    applier::Applier,
    follower::ApplyError,
    reader_lane::{ByLane, Distance},
    source::{Source, SourceConfig},
    sweep::Sweep,
    writer::{Writer, WriterTask, WriterThread},
};

/// The most messages that a transaction applies, unless configured otherwise. Far behind the end of the stream, a large transaction writes a
/// page of the file once for many rows. Near the end, a transaction takes whatever waits.
pub const BATCH_MAX_DEFAULT: usize = 16_000;
/// How often the file is synced while it changes, unless configured otherwise. After a crash, everything since the last sync is read again.
pub const DURABLE_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// How often the source asks for the stream's end and generation, unless configured otherwise.
pub const STREAM_CHECK_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// How many messages apart projections may be and still share a reader, unless configured otherwise. It is fewer than one transaction applies,
/// so those ahead only wait for a moment.
pub const LANE_DISTANCE_DEFAULT: u64 = 10_000;

/// How many batches may wait for the writer, however small they are. What is read while one transaction is applied goes into the
/// next, so transactions grow with the distance to the stream's end.
const BATCHES_WAITING_MAX: usize = 64;
/// The most messages that are read at once.
const READ_MAX: usize = 2_000;
/// How many bytes may wait for the writer, in units of [`MEMORY_UNIT`].
pub(crate) const MEMORY_UNITS_MAX: u32 = 64 * 1024;
/// How many more bytes may wait for projections that catch up beside the others, in the same units. It is less, because the newest messages
/// wait behind them: they make up at most one transaction.
const MEMORY_UNITS_BEHIND_MAX: u32 = 16 * 1024;
/// The unit in which the memory of waiting messages is counted: a KiB.
pub(crate) const MEMORY_UNIT: usize = 1024;

/// The settings of a runner.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// The name of the consumer of EVENTS. It is fixed and belongs to this process alone, because a second reader with the same name ends this
    /// one.
    pub events_consumer: String,
    /// The name of the consumer of OUTCOMES.
    pub outcomes_consumer: String,
    /// The description of the process in `nats consumer ls`.
    pub description: String,
    /// The most messages that a transaction applies.
    pub batch_max: usize,
    /// The longest time until a change is synced; it is shorter while few messages wait.
    pub durable_interval: Duration,
    /// How often the source asks for the stream's end and generation.
    pub stream_check_interval: Duration,
    /// How many messages a projection may be behind the foremost one and still share its reader. A projection further behind catches up with a
    /// reader of its own.
    pub lane_distance: u64,
    /// How fast rows are removed that are about commands whose records OUTCOMES no longer has.
    pub sweep: SweepPace,
    /// The metrics of readers and file.
    pub metrics: Metrics,
}

impl RunnerConfig {
    /// How many messages are read at once: no more than a transaction applies.
    fn read_max(&self) -> usize {
        self.batch_max.min(READ_MAX)
    }

    fn distance(&self) -> Distance {
        Distance(self.lane_distance)
    }

    /// The defaults for a process of this name.
    pub fn new(name: &str) -> Self {
        Self {
            events_consumer: name.to_owned(),
            outcomes_consumer: format!("{name}-outcomes"),
            description: format!("millstream {name}"),
            batch_max: BATCH_MAX_DEFAULT,
            durable_interval: DURABLE_INTERVAL_DEFAULT,
            stream_check_interval: STREAM_CHECK_INTERVAL_DEFAULT,
            lane_distance: LANE_DISTANCE_DEFAULT,
            sweep: SweepPace::default(),
            metrics: Metrics::new(),
        }
    }
}

/// Why the runner ended without being asked to. Rows and checkpoints still agree, because each transaction has both.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The file failed.
    #[error("{}", file_failed(.0))]
    Store(#[from] StoreError),
    /// The follower, which keeps the rows elsewhere as well, cannot continue.
    #[error(transparent)]
    Follower(#[from] FollowError),
    /// A stream cannot be read any further.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The writer thread could not be started, or panicked.
    #[error("the writer thread of the read store failed: {0}")]
    Writer(String),
}

impl From<BrokerError> for RunnerError {
    fn from(error: BrokerError) -> Self {
        Self::Read(ReadError::Broker(error))
    }
}

impl From<ApplyError> for RunnerError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Store(error) => Self::Store(error),
            ApplyError::Follower(error) => Self::Follower(error),
        }
    }
}

impl Failure for RunnerError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Follower(error) => error.exit_code(),
            Self::Read(error) => error.exit_code(),
            Self::Writer(_) => ExitCode::Software,
        }
    }
}

/// Projections over one file and one broker, ready to run.
pub struct ProjectionRunner<B> {
    broker: B,
    store: ReadStore,
    set: Arc<ProjectionSet>,
    config: RunnerConfig,
    statuses: status::StatusBoard,
    changed: ChangedRows,
    follower: Option<Arc<dyn RowFollower>>,
    inbox: mpsc::Sender<WriterTask>,
    work: mpsc::Receiver<WriterTask>,
}

impl<B: Broker> ProjectionRunner<B> {
    /// Prepares to run `set`. Nothing is read or written yet.
    pub fn new(broker: B, store: ReadStore, set: ProjectionSet, config: RunnerConfig) -> Self {
        let (inbox, work) = mpsc::channel(BATCHES_WAITING_MAX);
        let statuses = status::StatusBoard::new(&set, &config.metrics);
        let changed = ChangedRows::new(&set, &statuses);
        Self { broker, store, set: Arc::new(set), config, statuses, changed, follower: None, inbox, work }
    }

    /// The same, with a follower that keeps the rows elsewhere as well.
    #[must_use]
    pub fn followed_by(self, follower: Arc<dyn RowFollower>) -> Self {
        Self { follower: Some(follower), ..self }
    }

    /// The views that the projections fill, to be queried while it runs.
    pub fn views(&self) -> ViewDirectory {
        ViewDirectory::new(&self.set, &self.statuses)
    }

    /// How far each projection has come, for callers that need no views.
    pub fn statuses(&self) -> Vec<(ProjectionId, watch::Receiver<ProjectionStatus>)> {
        let statuses = (0..).zip(&self.set.members);
        statuses.map(|(member, each)| (each.id.clone(), self.statuses.subscribe(member))).collect()
    }

    /// The changes of the views, for those who watch them.
    pub fn changed_rows(&self) -> ChangedRows {
        self.changed.clone()
    }

    /// A handle that removes rows, such as those of an outbox, while the runner runs.
    pub fn row_remover(&self) -> RowRemover {
        RowRemover::new(Arc::clone(&self.set), &self.inbox)
    }

    /// Runs until `shutdown`, then applies what was read, syncs the file and returns.
    ///
    /// # Errors
    /// [`RunnerError`] when the file fails, a stream is missing or forbidden, or another process has taken the name over.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunnerError> {
        self.run_with(WriterThread::start, shutdown).await
    }

    /// As [`Self::run`], but without a thread of its own, for simulations, which do everything on one thread.
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "testing")]
    pub async fn run_on_one_thread(self, shutdown: CancellationToken) -> Result<(), RunnerError> {
        self.run_with(|writer| Ok(WriterThread::start_as_task(writer)), shutdown).await
    }

    async fn run_with(
        self,
        start: impl FnOnce(Writer) -> Result<WriterThread, RunnerError>,
        shutdown: CancellationToken,
    ) -> Result<(), RunnerError> {
        let Self { broker, store, set, config, statuses, changed, follower, inbox, work } = self;
        let applier = Applier::new(store.clone(), Arc::clone(&set), statuses.clone(), &config.metrics)
            .noting(changed)
            .followed_by(follower.clone());
        let writer = Writer::new(applier, &config, work, statuses.hurry());
        let writer = start(writer)?;
        // When one source fails, this ends the other one as well.
        let stop = shutdown.child_token();
        let memory = Arc::new(ByLane {
            ahead: Arc::new(Semaphore::new(MEMORY_UNITS_MAX as usize)),
            behind: Arc::new(Semaphore::new(MEMORY_UNITS_BEHIND_MAX as usize)),
        });
        let source = |stream: &'static str, consumer: &str, members: Vec<usize>| {
            let source = Source::new(
                broker.clone(),
                store.clone(),
                Arc::clone(&set),
                statuses.clone(),
                SourceConfig {
                    stream,
                    consumer: consumer.to_owned(),
                    members,
                    runner: config.clone(),
                    follower: follower.clone(),
                },
                inbox.clone(),
                Arc::clone(&memory),
            );
            let stop = stop.clone();
            async move {
                let ended = source.run(&stop).await;
                stop.cancel();
                ended
            }
        };
        let remover = RowRemover::new(Arc::clone(&set), &inbox);
        let sweeps = set.members_of_outcomes().into_iter().map(|member| {
            Sweep::new(broker.clone(), store.clone(), &set, member, &statuses, remover.clone(), config.sweep)
                .run(stop.clone())
        });
        let sweeps = join_all(sweeps);
        let events = source(EVENTS, &config.events_consumer, set.members_of_events());
        let outcomes = source(OUTCOMES, &config.outcomes_consumer, set.members_of_outcomes());
        drop(inbox);
        let writer = writer.ended(stop.clone());
        let (writer, events, outcomes, _) = tokio::join!(writer, events, outcomes, sweeps);
        // If the writer fails, the sources end only because nobody takes their messages. So the writer's error is the cause.
        writer.and(events).and(outcomes)
    }
}
