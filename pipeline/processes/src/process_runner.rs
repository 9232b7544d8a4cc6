//! Runs process managers. It folds EVENTS into the rows of each process and into an outbox, in one redb transaction with the checkpoint. Then
//! it carries out what the outbox holds: commands go to COMMANDS, schedules to TIMERS. It also puts commands that fall due on TIMERS onto
//! COMMANDS.
//!
//! Every replica folds, and the one that holds the lease carries out effects. Beside the leases, the server stores how far the effects of each
//! process have been carried out. So a replica that takes over, or that rebuilds its rows from the first event, repeats only what was in
//! flight, and under the same ids: the command handler answers a repeated id with the first outcome. The lease therefore only saves work.
//!
//! Deliberately absent: a clock. The server fires the timers, and the aggregate decides whether a command for later still matters.

mod carrier;
mod due;
mod outbox;
mod progress;
mod reaction;
mod sender;
mod turn;

use std::{collections::BTreeMap, num::NonZeroUsize, str::FromStr, sync::Arc, time::Duration};

use futures::future::{join, join_all};
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stream_names::{EVENTS, TIMERS},
};
use millstream_domain::{process::Process, projection::Projection};
use millstream_jetstream::{
    broker::{Broker, BrokerError, ReadError},
    id_source::IdSource,
};
use millstream_read_side::{
    projection_runner::{
        BATCH_MAX_DEFAULT, DURABLE_INTERVAL_DEFAULT, NameTaken, ProjectionRunner, ProjectionSet,
        ProjectionStatus, RunnerConfig, RunnerError,
    },
    read_side::{ProjectionProgress, file_failed},
};
use millstream_runtime::{
    health::{Condition, Readiness},
    metrics::Metrics,
    shutdown::Shutdown,
    stream_watch::watch_stream,
};
use millstream_store::read_store::{ProjectionId, ReadStore, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    progress::KnownProgress,
    reaction::Reaction,
    sender::{Seat, Sender},
    turn::Turns,
};

/// How long a process manager that has fallen silent keeps the lease, unless configured otherwise.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(3);

type Statuses = Vec<(ProjectionId, watch::Receiver<ProjectionStatus>)>;

/// The event from which a process that has never run carries out effects. Its rows are always folded from the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// From the first event.
    #[default]
    Start,
    /// Only the effects of events that come after its first start.
    Now,
    /// Only the effects of events after this sequence of EVENTS.
    After(u64),
}

/// A value that is not `start`, `now` or a sequence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no beginning; write start, now, or the sequence of EVENTS behind which to begin")]
pub struct BeginError {
    text: String,
}

impl FromStr for Begin {
    type Err = BeginError;

    fn from_str(text: &str) -> Result<Self, BeginError> {
        match text {
            "start" => Ok(Self::Start),
            "now" => Ok(Self::Now),
            _ => text.parse().map(Self::After).map_err(|_| BeginError { text: text.to_owned() }),
        }
    }
}

/// The settings of a runner.
#[derive(Debug, Clone)]
pub struct ProcessRunnerConfig {
    /// The name of the process, which is also the name of its consumer of EVENTS.
    pub name: String,
    /// The name of this run, which must be unique among all runs that ever were.
    pub run: String,
    /// How long a process manager that has fallen silent keeps the lease.
    pub lease_time_to_live: Duration,
    /// Messages a transaction applies at most.
    pub batch_max: NonZeroUsize,
    /// How often the file is synced while it changes.
    pub durable_interval: Duration,
    /// Where processes that have never run begin, by name; at the first event if nothing is set.
    pub begins: BTreeMap<String, Begin>,
}

impl ProcessRunnerConfig {
    /// The defaults for a process of this name.
    pub fn new(name: &str, run: &str) -> Self {
        Self {
            name: name.to_owned(),
            run: run.to_owned(),
            lease_time_to_live: LEASE_DEFAULT,
            batch_max: NonZeroUsize::new(BATCH_MAX_DEFAULT).expect("the default is not 0"),
            durable_interval: DURABLE_INTERVAL_DEFAULT,
            begins: BTreeMap::new(),
        }
    }
}

/// Why the runner ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ProcessRunnerError {
    /// Two processes have the same name.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// Folding failed.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The file failed.
    #[error("{}", file_failed(.0))]
    Store(#[from] StoreError),
    /// The commands that are due cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The server refused a question for good.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A process that has never run is configured to begin after an event that does not exist.
    #[error(
        "process {process} is to begin behind EVENTS {named}, but EVENTS ends at {last}; mend begin in the configuration"
    )]
    BeginsBehindEnd {
        /// The process.
        process: String,
        /// Where it is to begin.
        named: u64,
        /// Where EVENTS ends.
        last: u64,
    },
    /// Effects of events that EVENTS does not have were carried out: the server has lost messages.
    #[error(
        "effects of process {process} are recorded as carried out up to EVENTS {named}, but EVENTS ends at {last}: the server has lost its tail; restore EVENTS from a backup or a replica before going on"
    )]
    LostTail {
        /// The process.
        process: String,
        /// The recorded sequence.
        named: u64,
        /// Where EVENTS ends.
        last: u64,
    },
}

impl Failure for ProcessRunnerError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NameTaken(_) => ExitCode::Software,
            Self::Runner(error) => error.exit_code(),
            Self::Store(error) => error.exit_code(),
            Self::Read(error) => error.exit_code(),
            Self::Broker(error) => error.exit_code(),
            Self::BeginsBehindEnd { .. } => ExitCode::Configuration,
            Self::LostTail { .. } => ExitCode::Data,
        }
    }
}

/// Processes over one file and one broker, ready to run.
pub struct ProcessRunner<B> {
    broker: B,
    runner: ProjectionRunner<B>,
    turns: Turns<B>,
    condition: Condition,
    folding: Vec<ProjectionProgress>,
}

impl<B: Broker> ProcessRunner<B> {
    /// Prepares to run `processes`. Nothing is read or written yet.
    ///
    /// # Errors
    /// [`ProcessRunnerError::NameTaken`].
    pub fn new(
        broker: B,
        store: ReadStore,
        processes: Vec<Box<dyn Process>>,
        config: ProcessRunnerConfig,
        metrics: Metrics,
        readiness: &Readiness,
    ) -> Result<Self, ProcessRunnerError> {
        let mut known = Vec::new();
        let mut projections: Vec<Box<dyn Projection>> = Vec::new();
        for process in processes {
            let progress = Arc::new(KnownProgress::default());
            known.push((process.name(), Arc::clone(&progress)));
            projections.push(Box::new(Reaction::new(process, progress)));
        }
        let set = ProjectionSet::new(projections, Vec::new(), &[])?;
        let mut runner_config = RunnerConfig::new(&config.name);
        runner_config.batch_max = config.batch_max.get();
        runner_config.durable_interval = config.durable_interval;
        runner_config.metrics = metrics.clone();
        let runner = ProjectionRunner::new(broker.clone(), store.clone(), set, runner_config);
        let seats =
            known.into_iter().zip(runner.statuses()).map(|((process, progress), (projection, status))| {
                let begin = config.begins.get(process).copied().unwrap_or_default();
                Seat::new(process, projection, status, progress, begin, &metrics, readiness)
            });
        let ids = IdSource::new(config.run);
        let sender = Sender::new(broker.clone(), store, runner.row_remover(), seats.collect(), ids.clone());
        let turns = Turns::new(broker.clone(), ids, config.lease_time_to_live, sender, &metrics, readiness);
        let statuses: Vec<_> = runner.statuses().into_iter().map(|(_, status)| status).collect();
        let folding = ProjectionProgress::of(&statuses, &[EVENTS], readiness);
        Ok(Self { broker, runner, turns, condition: readiness.condition("processes"), folding })
    }

    /// Runs until `shutdown`. It folds all the time, and carries out effects while it holds the lease. At the end it applies what was read,
    /// syncs the file and gives the lease back.
    ///
    /// # Errors
    /// [`ProcessRunnerError`].
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ProcessRunnerError> {
        let Self { broker, runner, mut turns, condition, folding } = self;
        let stop = shutdown.token().child_token();
        // This comes before anything is folded, because effects that have already been carried out must not enter the outbox again.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            learnt = turns.learn() => learnt?,
        }
        let statuses = runner.statuses();
        // Ready while no process has halted, whether this replica is active or not.
        let watch = condition.follow(&stop, || halts(&statuses));
        let due = turns.due_progress();
        let watched = async {
            // Without processes there is nothing to fold, but commands may still fall due.
            let folded = join_all(folding.iter().map(|each| each.watch(&broker)));
            let watches = [&due];
            let due = watch_stream(&broker, TIMERS, due::FILTER, &watches, None);
            tokio::select! {
                _never = join(folded, due) => {}
                () = stop.cancelled() => {}
            }
        };
        let fold = ending(&stop, runner.run(stop.clone()));
        let turns = ending(&stop, turns.run(stop.clone()));
        let (fold, turns, (), ()) = tokio::join!(fold, turns, watch, watched);
        fold?;
        turns
    }
}

/// Ends everything else when `work` has ended.
async fn ending<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> T {
    let ended = work.await;
    stop.cancel();
    ended
}

/// Why processes no longer react.
fn halts(statuses: &Statuses) -> Vec<String> {
    statuses.iter().filter_map(|(process, status)| status.borrow().halt_of(process)).collect()
}
