//! Acts that set a message of EVENTS aside which is no commit, so that its readers may go on behind it.
//!
//! Such an act is a commit itself: of the aggregate `millstream/set-aside/<sequence>`, whose event names the message by its
//! subject and its content. Whoever meets a message that is no commit asks for the last act of its sequence. An act for a commit
//! changes nothing, because nobody asks for it: what was recorded is never passed over.

use serde::{Deserialize, Serialize};

use super::{
    commit::{StoredCommit, content_digest},
    message_pack,
    stored_message::StoredMessage,
    subject::EVENT_PREFIX,
};

/// The context of what Millstream itself records. No application may have it.
pub const CONTEXT: &str = "millstream";
/// The aggregate of the acts for one message; its id is the message's sequence in EVENTS.
pub const AGGREGATE: &str = "set-aside";
/// The command that asks for an act.
pub const COMMAND: &str = "set-aside";
/// The event that is an act.
pub const EVENT_TYPE: &str = "message-set-aside";

/// A message of EVENTS that is no commit was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSetAside {
    /// The subject of the message.
    pub subject: String,
    /// [`content_digest`] of its body.
    pub digest: String,
    /// Why, in words.
    pub reason: String,
}

impl MessageSetAside {
    /// The act that `message`, a message of the subject [`act_subject`], records; none when it records none.
    pub fn from_stored(message: &StoredMessage) -> Option<Self> {
        let stored = StoredCommit::from_stored(message).ok()?;
        let event = stored.commit.events.iter().rfind(|event| event.event_type == EVENT_TYPE)?;
        message_pack::from_slice(&event.data).ok()
    }

    /// Whether it is about this message: a message elsewhere, or with another body, is not set aside by it.
    pub fn names(&self, message: &StoredMessage) -> bool {
        self.is_about(&message.subject, &content_digest(&message.payload))
    }

    /// As [`Self::names`], of the message with this subject and the [`content_digest`] `digest`.
    pub fn is_about(&self, subject: &str, digest: &str) -> bool {
        self.subject == subject && self.digest == digest
    }
}

/// The subject of EVENTS that holds the acts for the message at `sequence`.
pub fn act_subject(sequence: u64) -> String {
    format!("{EVENT_PREFIX}.{CONTEXT}.{AGGREGATE}.{sequence}")
}

/// The sequence whose acts are on `subject`; none for a subject of anything else.
pub fn acted_on(subject: &str) -> Option<u64> {
    let (_, sequence) = subject.rsplit_once('.')?;
    let sequence = sequence.parse().ok()?;
    (act_subject(sequence) == subject).then_some(sequence)
}

/// What an operator can do about the message at `sequence`, for whoever cannot go on behind it.
pub fn way_out(sequence: u64) -> String {
    format!(
        "`millstream events show {sequence}` shows it, `millstream events set-aside {sequence}` lets readers go on behind it"
    )
}
