//! Publishes the revisions of one subject of REPORTS, in order. Each append expects the sequence of the message before it. Only the last
//! message of the subject determines whether a revision is to be published; that decision, [`decide`], is pure.

use std::{
    mem,
    sync::{
        MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use millstream_contract::{
    header,
    position::StreamPosition,
    stored_message::{Headers, StoredMessage},
    stream_names::REPORTS,
};
use millstream_domain::report::{OutboxKey, RevisionStatus};
use millstream_jetstream::broker::{AppendError, Broker, BrokerError, NewMessage};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Duration, Instant};

use super::{ReportPublisher, Waiting};

/// To how many subjects revisions are published at the same time.
const SUBJECTS_AT_ONCE: usize = 64;
/// How often a revision is tried if another reporter publishes to the same subject at the same time. After that, other subjects have their
/// turn.
const TRIES_MAX: usize = 5;
/// How long nothing is removed after a removal has failed.
const REMOVAL_PAUSE: Duration = Duration::from_secs(60);

/// What is known of a subject.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    last: LastMessage,
    /// The sequence of an unsealed state whose replacement was appended without a clear answer. It is removed when a later message of the
    /// subject is found.
    replaced: Option<u64>,
}

/// The last message of a subject, as far as it is known.
#[derive(Debug, Clone, Default)]
enum LastMessage {
    /// It must be read first.
    #[default]
    Unread,
    /// The message, or that the subject has none.
    Read(Option<Published>),
}

/// The result for the rows of one subject.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) subject: String,
    /// What is known of the subject afterwards.
    pub(super) known: Known,
    /// The rows that are done with.
    pub(super) done: Vec<(String, Vec<u8>)>,
    /// Whether rows are left for later.
    pub(super) left: bool,
    /// Why the server refused them, or that it did not answer.
    pub(super) trouble: Option<String>,
    /// Whether states of open revisions are among the rows that are done with.
    pub(super) opened: bool,
}

/// The result for one revision.
enum Tried {
    Done,
    /// It will be tried again. This is the server's reason, if there is one.
    Later(Option<String>),
}

impl Known {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.last, LastMessage::Unread) && self.replaced.is_none()
    }
}

impl<B: Broker> ReportPublisher<B> {
    /// Publishes what waits, `SUBJECTS_AT_ONCE` subjects at a time. `full` is set when REPORTS is too full for an unsealed revision; from then
    /// on, only sealed ones are tried.
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
        reached: &StreamPosition,
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
                    // This happens now instead of after the pass, because a pass takes long if the server does not answer.
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
        reached: &StreamPosition,
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
                    known.last = LastMessage::Read(last);
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
                    *known = Known {
                        last: LastMessage::Read(Some(row.published(reached, sequence))),
                        replaced: None,
                    };
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
                    known.last = LastMessage::Read(last);
                    return Ok(Tried::Later(Some(error.to_string())));
                }
            }
        }
        Ok(Tried::Later(trouble))
    }

    /// Takes the last message of a subject, which is then no longer known.
    async fn last(&self, subject: &str, known: &mut Known) -> Result<Option<Published>, BrokerError> {
        if let LastMessage::Read(last) = mem::take(&mut known.last) {
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

    /// Removes a state that a later one has replaced. A state that stays, for example after a crash, takes room and does no other harm. After a
    /// failure, no removal is tried for a while: if the server does not permit this user to remove anything, each attempt waits until its
    /// time-out.
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
        reached: &StreamPosition,
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

/// The fields that distinguish the revisions of one subject. Bodies have more fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    revision: u32,
    status: RevisionStatus,
}

impl Summary {
    pub(super) fn is_sealed(&self) -> bool {
        self.status == RevisionStatus::Sealed
    }

    pub(super) fn is_open(&self) -> bool {
        self.status == RevisionStatus::Open
    }

    /// The revision of a row of an outbox. If the row has no status, it is published as it is, and its key gives the revision.
    pub(super) fn of_row(key: &OutboxKey, row: &[u8]) -> Self {
        let status =
            serde_json::from_slice::<Self>(row).map_or(RevisionStatus::Open, |summary| summary.status);
        Self { revision: key.revision, status }
    }

    /// The body for a revision that no message can hold: which revision it is, and its size.
    fn too_large(&self, bytes: usize, bytes_max: usize) -> Bytes {
        let Self { revision, status } = self;
        let too_large = json!({ "bytes": bytes, "bytes_max": bytes_max });
        json!({ "revision": revision, "status": status, "too_large": too_large }).to_string().into()
    }
}

/// A row of an outbox.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    key: String,
    value: Vec<u8>,
    /// What is published: the row, or a substitute for one that no message can hold.
    body: Bytes,
    report: String,
    summary: Summary,
}

impl Pending {
    pub(super) fn new(
        parsed: &OutboxKey,
        summary: Summary,
        key: &str,
        value: &[u8],
        bytes_max: usize,
    ) -> Self {
        let body = match value.len() <= bytes_max {
            true => Bytes::copy_from_slice(value),
            false => summary.too_large(value.len(), bytes_max),
        };
        Self { key: key.to_owned(), value: value.to_vec(), body, report: parsed.report.clone(), summary }
    }

    /// The row as the last message of its subject, once REPORTS has stored it.
    fn published(&self, reached: &StreamPosition, sequence: u64) -> Published {
        Published {
            sequence,
            position: Some(reached.clone()),
            summary: Some(self.summary.clone()),
            body: self.body.clone(),
        }
    }
}

/// The last message of a subject.
#[derive(Debug, Clone)]
struct Published {
    sequence: u64,
    /// The stream position in EVENTS that its report had reached.
    position: Option<StreamPosition>,
    summary: Option<Summary>,
    body: Bytes,
}

impl Published {
    fn from_stored(message: &StoredMessage) -> Self {
        Self {
            sequence: message.sequence,
            position: message.headers.get(header::POSITION).and_then(|text| text.parse().ok()),
            summary: serde_json::from_slice(&message.payload).ok(),
            body: message.payload.clone(),
        }
    }

    /// Whether it is an unsealed state. When a later one is published, nobody needs it any more.
    fn is_passing(&self) -> bool {
        self.summary.as_ref().is_some_and(|summary| !summary.is_sealed())
    }
}

/// What to do with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// Append it.
    Publish,
    /// Remove it, because it or a later revision has been published.
    Done,
    /// Wait until its report has caught up with what was published, for example after a rebuild, or if another reporter is ahead.
    Later,
}

/// Decides about a row that was read from its outbox when its report had reached `reached`.
fn decide(reached: &StreamPosition, row: &Pending, last: Option<&Published>) -> Decision {
    let Some(last) = last else {
        // A revision that was never published need not be withdrawn.
        return match row.summary.status {
            RevisionStatus::Withdrawn => Decision::Done,
            _ => Decision::Publish,
        };
    };
    if last.body == row.body {
        return Decision::Done;
    }
    let (Some(position), Some(summary)) = (&last.position, &last.summary) else { return Decision::Publish };
    if position.stream != reached.stream || position.generation != reached.generation {
        // It was published from a stream that has been made again since, so it says nothing about the current one.
        return Decision::Publish;
    }
    if summary.revision > row.summary.revision {
        return Decision::Done;
    }
    if position.sequence > reached.sequence {
        return Decision::Later;
    }
    Decision::Publish
}

#[cfg(test)]
mod tests;
