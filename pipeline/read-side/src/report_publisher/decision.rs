//! Decides whether to publish a revision, given the last message of its subject. Pure.

use bytes::Bytes;
use millstream_contract::{header, position::Position, stored_message::StoredMessage};
use millstream_domain::report::{OutboxKey, RevisionStatus};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The fields that distinguish the revisions of one subject. Bodies have more fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) revision: u32,
    pub(super) status: RevisionStatus,
}

impl Summary {
    pub(super) fn is_sealed(&self) -> bool {
        self.status == RevisionStatus::Sealed
    }

    pub(super) fn is_open(&self) -> bool {
        self.status == RevisionStatus::Open
    }

    /// Which revision a row of an outbox has. One that does not say its status is published as it is; its key says the revision.
    pub(super) fn of_row(key: &OutboxKey, row: &[u8]) -> Self {
        let status =
            serde_json::from_slice::<Self>(row).map_or(RevisionStatus::Open, |summary| summary.status);
        Self { revision: key.revision, status }
    }

    /// The body of a revision that no message can hold: which one it is, and its size.
    fn too_large(&self, bytes: usize, bytes_max: usize) -> Bytes {
        let Self { revision, status } = self;
        let too_large = json!({ "bytes": bytes, "bytes_max": bytes_max });
        json!({ "revision": revision, "status": status, "too_large": too_large }).to_string().into()
    }
}

/// A row of an outbox.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    /// What is published: the row, or a mark in place of one that no message can hold.
    pub(super) body: Bytes,
    pub(super) report: String,
    pub(super) summary: Summary,
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
    pub(super) fn published(&self, reached: &Position, sequence: u64) -> Published {
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
pub(super) struct Published {
    pub(super) sequence: u64,
    /// The position of EVENTS that its report had reached.
    position: Option<Position>,
    summary: Option<Summary>,
    body: Bytes,
}

impl Published {
    pub(super) fn from_stored(message: &StoredMessage) -> Self {
        Self {
            sequence: message.sequence,
            position: message.headers.get(header::POSITION).and_then(|text| text.parse().ok()),
            summary: serde_json::from_slice(&message.payload).ok(),
            body: message.payload.clone(),
        }
    }

    /// Whether it is a state that has not been sealed. When a later one is published, nobody needs it any more.
    pub(super) fn is_passing(&self) -> bool {
        self.summary.as_ref().is_some_and(|summary| !summary.is_sealed())
    }
}

/// What to do with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Append it.
    Publish,
    /// Remove it: it, or a later revision, has been published.
    Done,
    /// Wait until its report has caught up with what was published, as after a rebuild or behind another reporter.
    Later,
}

/// Decides about a row that was read from its outbox when its report had reached `reached`.
pub(super) fn decide(reached: &Position, row: &Pending, last: Option<&Published>) -> Decision {
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
        // It was published from a stream that has been made again since, so it says nothing about this one.
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
mod tests {
    use millstream_contract::{stored_message::Headers, stream_names::EVENTS};

    use super::*;

    fn body(revision: u32, status: &str, units: u32) -> Vec<u8> {
        format!(r#"{{"revision":{revision},"status":"{status}","units":{units}}}"#).into_bytes()
    }

    fn pending(key: &str, value: &[u8], bytes_max: usize) -> Pending {
        let parsed = key.parse().unwrap();
        Pending::new(&parsed, Summary::of_row(&parsed, value), key, value, bytes_max)
    }

    fn row(revision: u32, status: &str, units: u32) -> Pending {
        let text = format!("retail/store-daily/2012-01-31/2506#{revision:06}");
        pending(&text, &body(revision, status, units), 1_000)
    }

    fn at(sequence: u64) -> Position {
        Position::new(EVENTS, "g", sequence)
    }

    fn published(position: &Position, body: Vec<u8>) -> Published {
        let mut headers = Headers::new();
        headers.push(header::POSITION, position.to_string());
        Published::from_stored(&StoredMessage {
            subject: "report.retail.store-daily.2506.2012-01-31".into(),
            sequence: 9,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            headers,
            payload: body.into(),
        })
    }

    #[test]
    fn first_revision_is_published_unless_it_was_withdrawn_unseen() {
        assert_eq!(decide(&at(5), &row(1, "open", 1), None), Decision::Publish);
        assert_eq!(decide(&at(5), &row(1, "withdrawn", 0), None), Decision::Done);
    }

    #[test]
    fn newer_state_is_published_and_the_same_one_is_not() {
        let last = published(&at(5), body(1, "open", 1));
        assert_eq!(decide(&at(6), &row(1, "open", 2), Some(&last)), Decision::Publish);
        assert_eq!(decide(&at(6), &row(1, "sealed", 1), Some(&last)), Decision::Publish);
        assert_eq!(decide(&at(6), &row(1, "withdrawn", 0), Some(&last)), Decision::Publish);
        assert_eq!(decide(&at(6), &row(1, "open", 1), Some(&last)), Decision::Done);
    }

    #[test]
    fn report_that_is_behind_waits() {
        let last = published(&at(5), body(1, "open", 2));
        assert_eq!(decide(&at(4), &row(1, "open", 1), Some(&last)), Decision::Later);
        assert_eq!(decide(&at(4), &row(2, "open", 1), Some(&last)), Decision::Later);
    }

    #[test]
    fn several_revisions_of_one_look_follow_each_other() {
        let first = row(1, "sealed", 3).published(&at(7), 1);
        assert_eq!(decide(&at(7), &row(2, "open", 4), Some(&first)), Decision::Publish);
        let second = row(2, "open", 4).published(&at(7), 2);
        assert_eq!(decide(&at(7), &row(1, "sealed", 3), Some(&second)), Decision::Done);
    }

    #[test]
    fn revision_that_no_message_can_hold_is_published_as_a_mark_and_once() {
        let text = "retail/store-daily/2012-01-31/2506#000001";
        let value = body(1, "sealed", 7);
        let row = pending(text, &value, 10);
        assert!(row.body.len() < 100 && row.summary.is_sealed() && row.value == value);
        let last = published(&at(5), row.body.to_vec());
        assert_eq!(decide(&at(6), &row, Some(&last)), Decision::Done);
        assert!(!last.is_passing());
    }

    #[test]
    fn other_generation_does_not_count() {
        let last = published(&Position::new(EVENTS, "old", 900), body(3, "sealed", 9));
        assert_eq!(decide(&at(5), &row(1, "open", 1), Some(&last)), Decision::Publish);
    }
}
