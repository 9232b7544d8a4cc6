//! Publishes revisions of reports: it takes rows from each report's outbox, appends them to REPORTS on
//! `report.<context>.<report>.<key>.<date>`, and removes them from the outbox.
//!
//! Each revision is published exactly once. It names the stream position in EVENTS that its report had reached. Before a revision is appended,
//! it is compared with the last message of its subject, and the append expects the sequence of that message. So nothing is published twice
//! after a crash between append and removal, by a second reporter, or after a rebuild from the first event, and a subject never returns to an
//! older revision. While a report is being built, none of its revisions are published.
//!
//! An open revision changes with nearly every event. Its states are published at intervals, the newest one each time, and a state is removed
//! from REPORTS when its subject has a later one. So REPORTS holds every sealed revision, but only the newest state of an open one. A sealed
//! revision does not wait for the interval. If REPORTS is full, it takes the room of the state that it replaces.

mod subject;

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Bound, ControlFlow},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    position::StreamPosition,
};
use millstream_domain::report::{OUTBOX, OutboxKey};
use millstream_jetstream::broker::{Broker, BrokerError};
use millstream_runtime::{file_work::end_of, health::ProgressWatch, metrics::Metrics};
use millstream_store::read_store::{Direction, KeyRange, ProjectionId, ReadStore, StoreError, TableName};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::subject::{Known, Pending, Summary};
use crate::{
    projection_runner::{ProjectionStatus, RemovalError, RowRemover, ViewDirectory, any_changed},
    read_side::file_failed,
};

/// The pause before rows that could not be published are tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two searches for sealed revisions while open ones wait for their interval. Each search skips the open ones.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// The part of a message's size that stays free for headers, including those of the append. It is twice that of an answer
/// (`query_service/view_query.rs`): a client without an answer can ask for less, but a revision that the server refuses would never be
/// published.
const FRAME_BYTES: usize = 4_096;
/// How many rows are read at once, whether they are wanted or not.
const ROWS_MAX: usize = 2_000;
/// The most subjects whose state is remembered. If there are more, all are forgotten.
const REMEMBERED_MAX: usize = 50_000;

/// Why publishing ends.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The file failed.
    #[error("{}", file_failed(.0))]
    Store(#[from] StoreError),
    /// REPORTS cannot be read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Failure for PublishError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Broker(error) => error.exit_code(),
        }
    }
}

/// Publishes the outboxes of a process.
pub struct ReportPublisher<B> {
    broker: B,
    store: ReadStore,
    remover: RowRemover,
    reports: Vec<Report>,
    metrics: Metrics,
    progress: ProgressWatch,
    told: Told,
    open_interval: Duration,
    /// When states of open revisions may be published again.
    open_due: Instant,
    /// Until when no replaced state is removed.
    removal_rests: Mutex<Instant>,
    /// What is known of each subject.
    remembered: HashMap<String, Known>,
    /// The reads of outboxes, which continue to their end when publishing stops.
    reads: TaskTracker,
}

struct Report {
    projection: ProjectionId,
    outbox: TableName,
    status: watch::Receiver<ProjectionStatus>,
}

/// The result of one pass over the outboxes.
#[derive(Debug, Default)]
struct Pass {
    /// Whether rows are left that cannot be published at the moment.
    left: bool,
    /// The server's reason, if it refused.
    trouble: Option<String>,
    /// Whether rows were skipped: states of open revisions before their interval is over, and everything that is not sealed while REPORTS is
    /// full.
    held: bool,
    /// Whether states of open revisions were handled, so that the next ones wait for their interval.
    opened: bool,
    /// Whether REPORTS was too full for a revision that is not sealed. The other unsealed ones then wait for the next pass.
    full: AtomicBool,
}

/// The last logged problem, if it is not over.
#[derive(Debug, Default)]
struct Told(Option<String>);

impl Told {
    /// Whether a problem has begun, changed or ended, and is not logged yet. A pass comes each second, and most passes find the same.
    fn lacks(&mut self, trouble: Option<&str>) -> bool {
        let lacks = self.0.as_deref() != trouble;
        self.0 = trouble.map(str::to_owned);
        lacks
    }
}

impl<B: Broker> ReportPublisher<B> {
    /// Publishes the reports that fill `views`.
    pub fn new(
        broker: B,
        store: ReadStore,
        views: &ViewDirectory,
        remover: RowRemover,
        metrics: Metrics,
        progress: ProgressWatch,
        open_interval: Duration,
    ) -> Self {
        let reports: BTreeMap<_, _> =
            views.iter().map(|view| (view.projection.clone(), view.status.clone())).collect();
        let reports = reports.into_iter().map(|(projection, status)| Report {
            outbox: TableName::new(&projection, OUTBOX),
            projection,
            status,
        });
        Self {
            broker,
            store,
            remover,
            reports: reports.collect(),
            metrics,
            progress,
            told: Told::default(),
            open_interval,
            open_due: Instant::now(),
            removal_rests: Mutex::new(Instant::now()),
            remembered: HashMap::new(),
            reads: TaskTracker::new(),
        }
    }

    /// Publishes until `stop`, or until the projection runner has ended.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PublishError> {
        let (stopped, reads) = (stop.clone(), self.reads.clone());
        let work = async {
            loop {
                let Ok(pass) = self.pass().await? else { return Ok(()) };
                self.tell(&pass);
                self.next_pass(&pass).await;
            }
        };
        let ended = tokio::select! {
            biased;
            () = stopped.cancelled() => Ok(()),
            ended = work => ended,
        };
        // They use the file, which may be opened again as soon as this returns.
        reads.close();
        reads.wait().await;
        ended
    }

    /// Logs why the server does not accept revisions.
    fn tell(&mut self, pass: &Pass) {
        match &pass.trouble {
            Some(trouble) => self.progress.held(trouble.clone()),
            None => self.progress.nothing_waits(),
        }
        if !self.told.lacks(pass.trouble.as_deref()) {
            return;
        }
        match &pass.trouble {
            Some(trouble) => {
                tracing::error!(trouble, "revisions of reports cannot be published; trying again");
            }
            None => tracing::info!("revisions of reports are published again"),
        }
    }

    /// Goes through all outboxes once.
    async fn pass(&mut self) -> Result<Result<Pass, RemovalError>, PublishError> {
        let wanted = if Instant::now() >= self.open_due { Wanted::All } else { Wanted::NotOpen };
        let mut pass = Pass::default();
        for index in 0..self.reports.len() {
            if let Err(RemovalError) = self.publish_report(index, wanted, &mut pass).await? {
                return Ok(Err(RemovalError));
            }
        }
        if pass.opened {
            self.open_due = Instant::now() + self.open_interval;
        }
        Ok(Ok(pass))
    }

    /// Waits until there is something to publish again.
    async fn next_pass(&mut self, pass: &Pass) {
        let due = self.open_due;
        if pass.left {
            tokio::time::sleep(RETRY_PAUSE).await;
        } else if pass.held {
            tokio::time::sleep(LOOK_PAUSE).await;
            // A change, or the end of the interval.
            let _whichever = tokio::time::timeout_at(due, self.changed()).await;
        } else {
            self.changed().await;
        }
    }

    /// Waits until any report has changed.
    async fn changed(&mut self) {
        any_changed(self.reports.iter_mut().map(|report| &mut report.status)).await;
    }

    /// Publishes what waits in one outbox, part by part. What cannot be published only delays what follows on its own subject, unless REPORTS
    /// is full: then everything that is not sealed waits.
    async fn publish_report(
        &mut self,
        index: usize,
        wanted: Wanted,
        pass: &mut Pass,
    ) -> Result<Result<(), RemovalError>, PublishError> {
        let Some(report) = self.reports.get_mut(index) else { return Ok(Ok(())) };
        if !report.status.borrow_and_update().is_complete() {
            return Ok(Ok(()));
        }
        let mut after = None;
        loop {
            let Some(report) = self.reports.get(index) else { return Ok(Ok(())) };
            let projection = report.projection.clone();
            // A full stream accepts a sealed revision in place of the state that it replaces, and nothing else.
            let wanted = if pass.full.load(Ordering::Relaxed) { Wanted::Sealed } else { wanted };
            let outbox = self.outbox(report, wanted);
            let read = self.reads.spawn_blocking(move || outbox.take(after.as_deref()));
            let Some(waiting) = end_of(read).await? else { return Ok(Ok(())) };
            pass.held |= waiting.passed_by;
            after = waiting.after.clone();
            let mut done = Vec::new();
            for outcome in self.publish_subjects(waiting, &pass.full).await? {
                pass.opened |= outcome.opened;
                pass.left |= outcome.left;
                pass.trouble = pass.trouble.take().or(outcome.trouble);
                done.extend(outcome.done);
                self.remember(outcome.subject, outcome.known);
            }
            if let Err(error) = self.remover.remove(&projection, OUTBOX, done).await {
                return Ok(Err(error));
            }
            if after.is_none() {
                return Ok(Ok(()));
            }
        }
    }

    fn outbox(&self, report: &Report, wanted: Wanted) -> Outbox {
        Outbox {
            store: self.store.clone(),
            projection: report.projection.clone(),
            table: report.outbox.clone(),
            stream: report.status.borrow().stream,
            wanted,
            bytes_max: self.broker.message_bytes_max().saturating_sub(FRAME_BYTES),
        }
    }

    fn remember(&mut self, subject: String, known: Known) {
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.clear();
        }
        match known.is_nothing() {
            true => self.remembered.remove(&subject),
            false => self.remembered.insert(subject, known),
        };
    }
}

/// Which rows of an outbox are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// No states of open revisions, because their interval is not over.
    NotOpen,
    /// Only sealed revisions, because REPORTS is full.
    Sealed,
}

/// An outbox, and what is wanted of it.
struct Outbox {
    store: ReadStore,
    projection: ProjectionId,
    table: TableName,
    /// The stream to which the rows' positions belong.
    stream: &'static str,
    wanted: Wanted,
    /// The largest body that is published as it is.
    bytes_max: usize,
}

/// The rows that wait in a part of an outbox, as of one moment.
struct Waiting {
    /// The stream position in EVENTS that the rows include.
    reached: StreamPosition,
    /// The rows by subject, in the order of their revisions.
    by_subject: BTreeMap<String, Vec<Pending>>,
    /// The key after which the outbox continues; `None` at its end.
    after: Option<String>,
    /// Whether rows were skipped that are not wanted.
    passed_by: bool,
}

impl Wanted {
    fn takes(self, summary: &Summary) -> bool {
        match self {
            Self::All => true,
            Self::NotOpen => !summary.is_open(),
            Self::Sealed => summary.is_sealed(),
        }
    }
}

impl Outbox {
    /// Reads the part after a key, which blocks. `None` as long as the report has no checkpoint.
    fn take(&self, after: Option<&str>) -> Result<Option<Waiting>, StoreError> {
        let snapshot = self.store.snapshot()?;
        let Some(checkpoint) = snapshot.checkpoint(&self.projection)? else { return Ok(None) };
        let reached = StreamPosition::new(self.stream, checkpoint.generation, checkpoint.sequence);
        let mut waiting = Waiting { reached, by_subject: BTreeMap::new(), after: None, passed_by: false };
        let range =
            KeyRange { lower: after.map_or(Bound::Unbounded, Bound::Excluded), upper: Bound::Unbounded };
        let mut count = 0;
        snapshot.visit(&self.table, range, Direction::Ascending, |key, value| {
            self.take_row(key, value, &mut waiting);
            count += 1;
            if count < ROWS_MAX {
                return ControlFlow::Continue(());
            }
            waiting.after = Some(key.to_owned());
            ControlFlow::Break(())
        })?;
        Ok(Some(waiting))
    }

    fn take_row(&self, key: &str, value: &[u8], waiting: &mut Waiting) {
        let parsed = match key.parse::<OutboxKey>() {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::error!(projection = %self.projection, %error, "a row of the outbox is skipped");
                return;
            }
        };
        // This is checked before anything is copied, because most rows in most searches are not wanted.
        let summary = Summary::of_row(&parsed, value);
        if !self.wanted.takes(&summary) {
            waiting.passed_by = true;
            return;
        }
        let row = Pending::new(&parsed, summary, key, value, self.bytes_max);
        waiting.by_subject.entry(parsed.subject()).or_default().push(row);
    }
}

#[cfg(test)]
mod tests;
