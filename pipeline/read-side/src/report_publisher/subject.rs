//! Publishes the revisions of one subject of REPORTS, in order, each with the expectation of the message before it.

use std::sync::{
    MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use futures::{StreamExt, stream};
use millstream_contract::{
    header,
    position::Position,
    stored_message::{Headers, StoredMessage},
    stream_names::REPORTS,
};
use millstream_jetstream::broker::{AppendError, Broker, BrokerError, NewMessage};
use tokio::time::{Duration, Instant};

use super::{
    ReportPublisher,
    decision::{Decision, Pending, Published, decide},
    outbox::Waiting,
};

/// To how many subjects revisions are published at the same time.
const SUBJECTS_AT_ONCE: usize = 64;
/// How often a revision is tried when another reporter publishes to the same subject at the same time. Then others have their turn.
const TRIES_MAX: usize = 5;
/// How long nothing is removed after a removal that failed.
const REMOVAL_PAUSE: Duration = Duration::from_secs(60);

/// What is known of a subject.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Its last message, if it has one; `None` when that must be read.
    last: Option<Option<Published>>,
    /// The sequence of a state that was not sealed when an append that would replace it got no answer. It is removed when a later
    /// message of the subject is seen.
    replaced: Option<u64>,
}

/// What was done with the rows of one subject.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) subject: String,
    /// What is known of the subject afterwards.
    pub(super) known: Known,
    /// The rows that are done with.
    pub(super) done: Vec<(String, Vec<u8>)>,
    /// Whether rows are left for later.
    pub(super) left: bool,
    /// What the server said against them, or that it said nothing.
    pub(super) trouble: Option<String>,
    /// Whether states of open revisions are among the rows that are done with.
    pub(super) opened: bool,
}

/// What became of one revision.
enum Tried {
    Done,
    /// It is tried again; the server said this, if anything.
    Later(Option<String>),
}

impl Known {
    pub(super) fn is_nothing(&self) -> bool {
        self.last.is_none() && self.replaced.is_none()
    }
}

impl<B: Broker> ReportPublisher<B> {
    /// Publishes what waits, `SUBJECTS_AT_ONCE` subjects at a time. `full` is set when REPORTS is too full for a revision that is not
    /// sealed; from then on only sealed ones are tried.
    pub(super) async fn publish_subjects(
        &self,
        waiting: Waiting,
        full: &AtomicBool,
    ) -> Result<Vec<Outcome>, BrokerError> {
        let reached = &waiting.reached;
        let subjects = stream::iter(waiting.by_subject)
            .map(|(subject, rows)| self.publish_subject(reached, subject, rows, full))
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
        full: &AtomicBool,
    ) -> Result<Outcome, BrokerError> {
        let known = self.remembered.get(&subject).cloned().unwrap_or_default();
        let mut outcome = Outcome { subject, known, ..Outcome::default() };
        for row in rows {
            if !row.summary.is_sealed() && full.load(Ordering::Relaxed) {
                outcome.left = true;
                break;
            }
            let tried = match self.publish(reached, &outcome.subject, &row, &mut outcome.known, full).await {
                Err(error @ BrokerError::Unavailable { .. }) => Tried::Later(Some(error.to_string())),
                other => other?,
            };
            if let Tried::Later(trouble) = tried {
                if let Some(trouble) = &trouble {
                    // Now and not after the pass: where the server does not answer, a pass takes long.
                    self.progress.held(trouble.clone());
                }
                (outcome.left, outcome.trouble) = (true, trouble);
                break;
            }
            outcome.opened |= row.summary.is_open();
            outcome.done.push((row.key, row.value));
        }
        Ok(outcome)
    }

    /// Publishes one revision, unless it was published before.
    async fn publish(
        &self,
        reached: &Position,
        subject: &str,
        row: &Pending,
        known: &mut Known,
        full: &AtomicBool,
    ) -> Result<Tried, BrokerError> {
        let mut trouble = None;
        for _ in 0..TRIES_MAX {
            let last = self.last(subject, known).await?;
            match decide(reached, row, last.as_ref()) {
                Decision::Done => {
                    known.last = Some(last);
                    return Ok(Tried::Done);
                }
                Decision::Later => return Ok(Tried::Later(None)),
                Decision::Publish => {}
            }
            let expected = last.as_ref().map_or(0, |published| published.sequence);
            let passing =
                last.as_ref().filter(|published| published.is_passing()).map(|state| state.sequence);
            match (self.append(reached, subject, row, expected).await, passing) {
                (Ok(sequence), _) => {
                    self.count(row);
                    if let Some(passing) = passing {
                        self.remove(passing).await;
                    }
                    *known = Known { last: Some(Some(row.published(reached, sequence))), replaced: None };
                    return Ok(Tried::Done);
                }
                (Err(AppendError::Conflict { .. }), _) => {}
                (Err(error @ AppendError::Unclear { .. }), _) => {
                    known.replaced = known.replaced.or(passing);
                    return Ok(Tried::Later(Some(error.to_string())));
                }
                (Err(error @ AppendError::Full { .. }), Some(passing)) if row.summary.is_sealed() => {
                    trouble = Some(error.to_string());
                    // The sealed revision takes the room of the state that it replaces.
                    self.remove(passing).await;
                }
                (Err(error @ (AppendError::Full { .. } | AppendError::Refused { .. })), _) => {
                    if matches!(error, AppendError::Full { .. }) && !row.summary.is_sealed() {
                        full.store(true, Ordering::Relaxed);
                    }
                    known.last = Some(last);
                    return Ok(Tried::Later(Some(error.to_string())));
                }
            }
        }
        Ok(Tried::Later(trouble))
    }

    /// The last message of a subject, which is not known any more afterwards.
    async fn last(&self, subject: &str, known: &mut Known) -> Result<Option<Published>, BrokerError> {
        if let Some(last) = known.last.take() {
            return Ok(last);
        }
        let message: Option<StoredMessage> = self.broker.last(REPORTS, subject).await?;
        let last = message.as_ref().map(Published::from_stored);
        if let (Some(last), Some(replaced)) = (&last, known.replaced)
            && last.sequence > replaced
        {
            self.remove(replaced).await;
            known.replaced = None;
        }
        Ok(last)
    }

    /// Removes a state that a later one has replaced. One that stays, as after a crash, takes room and does no other harm. After a
    /// failure it is not tried for a while: a server that does not let this user remove anything lets each attempt wait for its answer.
    async fn remove(&self, replaced: u64) {
        if Instant::now() < *self.removal_rests() {
            return;
        }
        if let Err(error) = self.broker.remove(REPORTS, replaced).await {
            tracing::warn!(sequence = replaced, %error, "replaced states of reports stay on REPORTS for now");
            *self.removal_rests() = Instant::now() + REMOVAL_PAUSE;
        }
    }

    fn removal_rests(&self) -> MutexGuard<'_, Instant> {
        self.removal_rests.lock().unwrap_or_else(PoisonError::into_inner)
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
}
