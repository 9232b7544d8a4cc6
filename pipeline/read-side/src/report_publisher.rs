//! Publishes revisions of reports: takes rows out of each report's outbox, appends them to REPORTS on
//! `report.<context>.<report>.<key>.<date>`, and removes them.
//!
//! The effect is exactly once. Every published revision names the position of EVENTS that its report had reached. Before a
//! revision is appended, it is compared with the last message of its subject, and the append expects the sequence of that
//! message. So nothing is published twice after a crash between append and removal, by a second reporter, or after a rebuild from
//! the first event, and a subject never goes back to an older revision. While a report is being built, nothing of it is published.

mod decision;

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Bound, ControlFlow},
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
use millstream_runtime::metrics::Metrics;
use millstream_store::read_store::{Direction, KeyRange, ProjectionId, ReadStore, StoreError, TableName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::decision::{Decision, Pending, Published, decide};
use crate::projection_runner::{ProjectionStatus, RemovalError, RowRemover, ViewDirectory};

/// How many rows are taken out of an outbox at once.
const ROWS_MAX: usize = 2_000;
/// To how many subjects revisions are published at the same time.
const SUBJECTS_AT_ONCE: usize = 64;
/// The pause before rows that could not be published are tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
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
    /// The last message of each subject, as far as it is known.
    remembered: HashMap<String, Option<Published>>,
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
}

/// The result of one pass over the outboxes.
#[derive(Debug, Clone, Copy, Default)]
struct Pass {
    /// Whether rows were done with, so that there may be more after them.
    progressed: bool,
    /// Whether rows are left that cannot be published at the moment.
    left: bool,
}

impl Pass {
    fn and(self, other: Self) -> Self {
        Self { progressed: self.progressed || other.progressed, left: self.left || other.left }
    }
}

/// What was done with the rows of one subject.
struct Outcome {
    subject: String,
    /// The last message of the subject afterwards; `None` when it has to be read again.
    last: Option<Option<Published>>,
    /// The rows that are done with.
    done: Vec<(String, Vec<u8>)>,
    /// Whether rows are left for later.
    left: bool,
}

impl<B: Broker> ReportPublisher<B> {
    /// Publishes the reports that fill `views`.
    pub fn new(
        broker: B,
        store: ReadStore,
        views: &ViewDirectory,
        remover: RowRemover,
        metrics: Metrics,
    ) -> Self {
        let reports: BTreeMap<_, _> =
            views.iter().map(|view| (view.projection.clone(), view.status.clone())).collect();
        let reports = reports.into_iter().map(|(projection, status)| Report {
            outbox: TableName::new(&projection, OUTBOX),
            projection,
            status,
        });
        Self { broker, store, remover, reports: reports.collect(), metrics, remembered: HashMap::new() }
    }

    /// Publishes until `stop`, or until the projection runner has ended.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PublishError> {
        let stopped = stop.clone();
        let work = async {
            loop {
                let mut pass = Pass::default();
                for index in 0..self.reports.len() {
                    match self.publish_report(index).await? {
                        Ok(of_report) => pass = pass.and(of_report),
                        Err(RemovalError) => return Ok(()),
                    }
                }
                match pass {
                    Pass { progressed: true, .. } => {}
                    Pass { left: true, .. } => tokio::time::sleep(RETRY_PAUSE).await,
                    _ => self.changed().await,
                }
            }
        };
        tokio::select! {
            biased;
            () = stopped.cancelled() => Ok(()),
            ended = work => ended,
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

    /// Publishes what waits in one outbox.
    async fn publish_report(&mut self, index: usize) -> Result<Result<Pass, RemovalError>, PublishError> {
        let Some(report) = self.reports.get_mut(index) else { return Ok(Ok(Pass::default())) };
        if !report.status.borrow_and_update().is_complete() {
            return Ok(Ok(Pass::default()));
        }
        let Some(waiting) = take(&self.store, report)? else { return Ok(Ok(Pass::default())) };
        let projection = report.projection.clone();
        let mut pass = Pass::default();
        let mut done = Vec::new();
        for outcome in self.publish_subjects(waiting).await? {
            pass = pass.and(Pass { progressed: !outcome.done.is_empty(), left: outcome.left });
            done.extend(outcome.done);
            self.remember(outcome.subject, outcome.last);
        }
        Ok(self.remover.remove(&projection, OUTBOX, done).await.map(|()| pass))
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
        let mut outcome = Outcome { subject, last: None, done: Vec::new(), left: false };
        for row in rows {
            let (published, after) = match self.publish(reached, &outcome.subject, &row, last).await {
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::debug!(
                        subject = outcome.subject,
                        operation,
                        detail,
                        "publishing a report waits"
                    );
                    (false, None)
                }
                other => other?,
            };
            last = after;
            if !published {
                outcome.left = true;
                break;
            }
            outcome.done.push((row.key, row.value));
        }
        outcome.last = last;
        Ok(outcome)
    }

    /// Publishes one revision, unless it was published before. Returns whether the row is done with, and the last message of the
    /// subject if it is known.
    async fn publish(
        &self,
        reached: &Position,
        subject: &str,
        row: &Pending,
        mut last: Option<Option<Published>>,
    ) -> Result<(bool, Option<Option<Published>>), BrokerError> {
        for _ in 0..TRIES_MAX {
            let known = match last {
                Some(known) => known,
                None => self.look(subject).await?,
            };
            match decide(reached, row, known.as_ref()) {
                Decision::Done => return Ok((true, Some(known))),
                Decision::Later => return Ok((false, None)),
                Decision::Publish => {}
            }
            let expected = known.as_ref().map_or(0, |published| published.sequence);
            match self.append(reached, subject, row, expected).await {
                Ok(sequence) => {
                    self.count(row);
                    return Ok((true, Some(Some(row.published(reached, sequence)))));
                }
                Err(AppendError::Conflict { .. } | AppendError::Unclear { .. }) => last = None,
                Err(error @ (AppendError::Full { .. } | AppendError::Refused { .. })) => {
                    tracing::error!(subject, %error, "a revision cannot be published; trying again");
                    return Ok((false, None));
                }
            }
        }
        Ok((false, None))
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
            payload: row.value.clone().into(),
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

/// Reads what waits in an outbox.
fn take(store: &ReadStore, report: &Report) -> Result<Option<Waiting>, StoreError> {
    let snapshot = store.snapshot()?;
    let stream = report.status.borrow().stream;
    let Some(checkpoint) = snapshot.checkpoint(&report.projection)? else { return Ok(None) };
    let reached = Position::new(stream, checkpoint.generation, checkpoint.sequence);
    let everything = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
    let mut by_subject: BTreeMap<String, Vec<Pending>> = BTreeMap::new();
    let mut count = 0;
    snapshot.visit(&report.outbox, everything, Direction::Ascending, |key, value| {
        match key.parse::<OutboxKey>() {
            Ok(parsed) => {
                let row = Pending::new(&parsed, key, value);
                by_subject.entry(parsed.subject()).or_default().push(row);
            }
            Err(error) => {
                tracing::error!(projection = %report.projection, %error, "a row of the outbox is skipped")
            }
        }
        count += 1;
        if count < ROWS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(Some(Waiting { reached, by_subject }))
}
