//! Publishes revisions of reports: takes rows out of each report's outbox, appends them to REPORTS on
//! `report.<context>.<report>.<key>.<date>`, and removes them.
//!
//! The effect is exactly once. Every published revision names the position of EVENTS that its report had reached. Before a
//! revision is appended, it is compared with the last message of its subject, and the append expects the sequence of that
//! message. So nothing is published twice after a crash between append and removal, by a second reporter, or after a rebuild from
//! the first event, and a subject never goes back to an older revision. While a report is being built, nothing of it is published.
//!
//! An open revision changes with nearly every event. Its states are published at intervals, the newest each time, and a state is
//! removed from REPORTS when a later one of its subject is there. So REPORTS holds every sealed revision, and of what is not sealed
//! only the newest state. A sealed revision waits for no interval, and takes the room of the state that it replaces when REPORTS is
//! full.

mod decision;

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Bound, ControlFlow},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    header,
    position::Position,
    stored_message::{Headers, StoredMessage},
    stream_names::REPORTS,
};
use millstream_domain::report::{OUTBOX, OutboxKey};
use millstream_jetstream::broker::{AppendError, Broker, BrokerError, NewMessage};
use millstream_runtime::{health::ProgressWatch, metrics::Metrics};
use millstream_store::read_store::{Direction, KeyRange, ProjectionId, ReadStore, StoreError, TableName};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::decision::{Decision, Pending, Published, decide};
use crate::projection_runner::{ProjectionStatus, RemovalError, RowRemover, ViewDirectory};

/// How many rows are taken out of an outbox at once.
const ROWS_MAX: usize = 2_000;
/// To how many subjects revisions are published at the same time.
const SUBJECTS_AT_ONCE: usize = 64;
/// The pause before rows that could not be published are tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two looks for sealed revisions while open ones wait for their interval. Each look passes those by.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long nothing is removed after a removal that failed.
const REMOVAL_PAUSE: Duration = Duration::from_secs(60);
/// How often the states of open revisions are published unless configured otherwise.
pub const OPEN_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
/// The part of a message's size that is kept free for subject and headers.
const FRAME_BYTES: usize = 4_096;
/// How often a revision is tried when another reporter publishes to the same subject at the same time. Then others have their turn.
const TRIES_MAX: usize = 5;
/// For how many subjects the last message is remembered. When there are more, all are forgotten.
const REMEMBERED_MAX: usize = 50_000;

/// Why publishing ends.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The file failed.
    #[error(transparent)]
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
    open_interval: Duration,
    /// When states of open revisions may be published again.
    open_due: Instant,
    /// Until when no replaced state is removed.
    removal_rests: Mutex<Instant>,
    /// The last message of each subject, as far as it is known.
    remembered: HashMap<String, Option<Published>>,
}

/// Which rows of an outbox a pass publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// No states of open revisions, because their interval is not over.
    NotOpen,
}

struct Report {
    projection: ProjectionId,
    outbox: TableName,
    status: watch::Receiver<ProjectionStatus>,
}

/// The rows that wait in an outbox, as of one moment.
struct Waiting {
    /// The position of EVENTS up to which the rows count.
    reached: Position,
    /// The rows by subject, in the order of their revisions.
    by_subject: BTreeMap<String, Vec<Pending>>,
    /// Where the outbox goes on; `None` at its end.
    after: Option<String>,
    /// Whether states of open revisions were passed by.
    held: bool,
}

/// The result of one pass over the outboxes.
#[derive(Debug, Clone, Default)]
struct Pass {
    /// Whether rows are left that cannot be published at the moment.
    left: bool,
    /// What the server said against it, if it did.
    trouble: Option<String>,
    /// Whether states of open revisions wait for their interval.
    held: bool,
    /// Whether states of open revisions were published.
    opened: bool,
}

/// What was done with the rows of one subject.
#[derive(Default)]
struct Outcome {
    subject: String,
    /// The last message of the subject afterwards; `None` when it has to be read again.
    last: Option<Option<Published>>,
    /// The rows that are done with.
    done: Vec<(String, Vec<u8>)>,
    /// Whether rows are left for later.
    left: bool,
    /// What the server said against them, if it did.
    trouble: Option<String>,
    /// Whether states of open revisions are among the rows that are done with.
    opened: bool,
}

/// What became of one revision.
enum Tried {
    Done,
    /// It is tried again; the server said this, if anything.
    Later(Option<String>),
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
            open_interval,
            open_due: Instant::now(),
            removal_rests: Mutex::new(Instant::now()),
            remembered: HashMap::new(),
        }
    }

    /// Publishes until `stop`, or until the projection runner has ended.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PublishError> {
        let stopped = stop.clone();
        let work = async {
            loop {
                let Ok(pass) = self.pass().await? else { return Ok(()) };
                match &pass.trouble {
                    Some(trouble) => self.progress.held(trouble.clone()),
                    None => self.progress.nothing_waits(),
                }
                self.next_pass(&pass).await;
            }
        };
        tokio::select! {
            biased;
            () = stopped.cancelled() => Ok(()),
            ended = work => ended,
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
        let changes: Vec<_> =
            self.reports.iter_mut().map(|report| Box::pin(report.status.changed())).collect();
        if changes.is_empty() || futures::future::select_all(changes).await.0.is_err() {
            // There are no reports, or the runner has ended: nothing will ever change again.
            std::future::pending::<()>().await;
        }
    }

    /// Publishes what waits in one outbox, a part after the other. What cannot be published holds up nothing behind it.
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
        let bytes_max = self.broker.message_bytes_max().saturating_sub(FRAME_BYTES);
        let mut after = None;
        loop {
            let Some(report) = self.reports.get(index) else { return Ok(Ok(())) };
            let projection = report.projection.clone();
            let Some(waiting) = take(&self.store, report, wanted, after.take(), bytes_max)? else {
                return Ok(Ok(()));
            };
            pass.held |= waiting.held;
            after.clone_from(&waiting.after);
            let mut done = Vec::new();
            for outcome in self.publish_subjects(waiting).await? {
                pass.opened |= outcome.opened;
                pass.left |= outcome.left;
                pass.trouble = pass.trouble.take().or(outcome.trouble);
                done.extend(outcome.done);
                self.remember(outcome.subject, outcome.last);
            }
            if let Err(error) = self.remover.remove(&projection, OUTBOX, done).await {
                return Ok(Err(error));
            }
            if after.is_none() {
                return Ok(Ok(()));
            }
        }
    }

    async fn publish_subjects(&self, waiting: Waiting) -> Result<Vec<Outcome>, BrokerError> {
        let reached = &waiting.reached;
        let subjects = stream::iter(waiting.by_subject)
            .map(|(subject, rows)| self.publish_subject(reached, subject, rows))
            .buffer_unordered(SUBJECTS_AT_ONCE);
        let outcomes: Vec<_> = subjects.collect().await;
        outcomes.into_iter().collect()
    }

    /// Publishes the revisions of one key and date, in order.
    async fn publish_subject(
        &self,
        reached: &Position,
        subject: String,
        rows: Vec<Pending>,
    ) -> Result<Outcome, BrokerError> {
        let mut last = self.remembered.get(&subject).cloned();
        let mut outcome = Outcome { subject, ..Outcome::default() };
        for row in rows {
            let (tried, after) = match self.publish(reached, &outcome.subject, &row, last).await {
                Err(error @ BrokerError::Unavailable { .. }) => {
                    tracing::debug!(subject = outcome.subject, %error, "publishing a report waits");
                    (Tried::Later(Some(error.to_string())), None)
                }
                other => other?,
            };
            last = after;
            if let Tried::Later(trouble) = tried {
                (outcome.left, outcome.trouble) = (true, trouble);
                break;
            }
            outcome.opened |= row.summary.is_open();
            outcome.done.push((row.key, row.value));
        }
        outcome.last = last;
        Ok(outcome)
    }

    /// Publishes one revision, unless it was published before. Returns what became of it, and the last message of the subject if it
    /// is known.
    async fn publish(
        &self,
        reached: &Position,
        subject: &str,
        row: &Pending,
        mut last: Option<Option<Published>>,
    ) -> Result<(Tried, Option<Option<Published>>), BrokerError> {
        let mut trouble = None;
        for _ in 0..TRIES_MAX {
            let known = match last {
                Some(known) => known,
                None => self.look(subject).await?,
            };
            match decide(reached, row, known.as_ref()) {
                Decision::Done => return Ok((Tried::Done, Some(known))),
                Decision::Later => return Ok((Tried::Later(None), None)),
                Decision::Publish => {}
            }
            let expected = known.as_ref().map_or(0, |published| published.sequence);
            let passing = known.as_ref().filter(|published| published.is_passing());
            match self.append(reached, subject, row, expected).await {
                Ok(sequence) => {
                    self.count(row);
                    if let Some(passing) = passing {
                        self.remove(passing).await;
                    }
                    return Ok((Tried::Done, Some(Some(row.published(reached, sequence)))));
                }
                Err(error @ AppendError::Full { .. }) if row.summary.is_sealed() && passing.is_some() => {
                    trouble = Some(error.to_string());
                    // The sealed revision takes the room of the state that it replaces.
                    if let Some(passing) = passing {
                        self.remove(passing).await;
                    }
                    last = None;
                }
                Err(AppendError::Conflict { .. } | AppendError::Unclear { .. }) => last = None,
                Err(error @ (AppendError::Full { .. } | AppendError::Refused { .. })) => {
                    tracing::error!(subject, %error, "a revision cannot be published; trying again");
                    return Ok((Tried::Later(Some(error.to_string())), None));
                }
            }
        }
        Ok((Tried::Later(trouble), None))
    }

    /// Removes a state that a later one has replaced. One that stays, as after a crash, takes room and does no other harm. After a
    /// failure it is not tried for a while: a server that does not let this user remove anything lets each attempt wait for its answer.
    async fn remove(&self, replaced: &Published) {
        if Instant::now() < *self.removal_rests() {
            return;
        }
        if let Err(error) = self.broker.remove(REPORTS, replaced.sequence).await {
            tracing::warn!(sequence = replaced.sequence, %error, "replaced states of reports stay on REPORTS for now");
            *self.removal_rests() = Instant::now() + REMOVAL_PAUSE;
        }
    }

    fn removal_rests(&self) -> MutexGuard<'_, Instant> {
        self.removal_rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self, subject: &str) -> Result<Option<Published>, BrokerError> {
        let message: Option<StoredMessage> = self.broker.last(REPORTS, subject).await?;
        Ok(message.as_ref().map(Published::from_stored))
    }

    async fn append(
        &self,
        reached: &Position,
        subject: &str,
        row: &Pending,
        expected: u64,
    ) -> Result<u64, AppendError> {
        let mut headers = Headers::new();
        headers.push(header::POSITION, reached.to_string());
        headers.push(header::CONTENT_TYPE, header::JSON);
        let message = NewMessage {
            subject: subject.to_owned(),
            expected_last: Some(expected),
            headers,
            payload: row.body.clone(),
        };
        Ok(self.broker.append(REPORTS, message).await?.sequence)
    }

    fn count(&self, row: &Pending) {
        let metrics = self.metrics.report(&row.report);
        if row.summary.is_sealed() {
            metrics.sealed.inc()
        } else {
            metrics.open.inc()
        };
    }

    fn remember(&mut self, subject: String, last: Option<Option<Published>>) {
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.clear();
        }
        match last {
            Some(last) => self.remembered.insert(subject, last),
            None => self.remembered.remove(&subject),
        };
    }
}

/// Reads what waits in an outbox behind a key: no more rows than [`ROWS_MAX`].
fn take(
    store: &ReadStore,
    report: &Report,
    wanted: Wanted,
    after: Option<String>,
    bytes_max: usize,
) -> Result<Option<Waiting>, StoreError> {
    let snapshot = store.snapshot()?;
    let stream = report.status.borrow().stream;
    let Some(checkpoint) = snapshot.checkpoint(&report.projection)? else { return Ok(None) };
    let reached = Position::new(stream, checkpoint.generation, checkpoint.sequence);
    let mut waiting = Waiting { reached, by_subject: BTreeMap::new(), after: None, held: false };
    let lower = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let range = KeyRange { lower, upper: Bound::Unbounded };
    let mut count = 0;
    snapshot.visit(&report.outbox, range, Direction::Ascending, |key, value| {
        match key.parse::<OutboxKey>() {
            Ok(parsed) => {
                let row = Pending::new(&parsed, key, value, bytes_max);
                if wanted == Wanted::NotOpen && row.summary.is_open() {
                    waiting.held = true;
                    return ControlFlow::Continue(());
                }
                waiting.by_subject.entry(parsed.subject()).or_default().push(row);
            }
            Err(error) => {
                tracing::error!(projection = %report.projection, %error, "a row of the outbox is skipped")
            }
        }
        count += 1;
        if count < ROWS_MAX {
            return ControlFlow::Continue(());
        }
        waiting.after = Some(key.to_owned());
        ControlFlow::Break(())
    })?;
    Ok(Some(waiting))
}
