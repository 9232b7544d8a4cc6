//! Acts that set aside a message of EVENTS that is not a commit, so that readers may continue after it.
//!
//! Such an act is itself a commit, of the aggregate `millstream/set-aside/<sequence>`. Its event names the message by subject and content.
//! A reader that meets a message that is not a commit asks for the last act for its sequence. An act for a real commit has no effect,
//! because nobody asks for it: recorded events are never passed over.

use serde::{Deserialize, Serialize};

use super::{
    commit::{StoredCommit, content_digest},
    message_pack,
    stored_message::StoredMessage,
    subject::EVENT_PREFIX,
};

/// The context of what Millstream itself records. No application may use it.
pub const CONTEXT: &str = "millstream";
/// The aggregate that holds the acts for one message. Its id is the message's sequence in EVENTS.
pub const AGGREGATE: &str = "set-aside";
/// The command that records an act.
pub const COMMAND: &str = "set-aside";
/// The event that records an act.
pub const EVENT_TYPE: &str = "message-set-aside";

/// A message of EVENTS that is not a commit was set aside.
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
    /// The act that `message` records, a message on the subject [`act_subject`]; `None` if it records none.
    pub fn from_stored(message: &StoredMessage) -> Option<Self> {
        let stored = StoredCommit::from_stored(message).ok()?;
        let event = stored.commit.events.iter().rfind(|event| event.event_type == EVENT_TYPE)?;
        message_pack::from_slice(&event.data).ok()
    }

    /// Whether the act is about this message. It does not set aside a message with another subject or another body.
    pub fn names(&self, message: &StoredMessage) -> bool {
        self.is_about(&message.subject, &content_digest(&message.payload))
    }

    /// The same as [`Self::names`], for a message with this subject and with the [`content_digest`] `digest`.
    pub fn is_about(&self, subject: &str, digest: &str) -> bool {
        self.subject == subject && self.digest == digest
    }
}

/// The subject of EVENTS that holds the acts for the message at `sequence`.
pub fn act_subject(sequence: u64) -> String {
    format!("{EVENT_PREFIX}.{CONTEXT}.{AGGREGATE}.{sequence}")
}

/// The sequence whose acts are stored on `subject`; `None` if the subject is for something else.
pub fn acted_on(subject: &str) -> Option<u64> {
    let (_, sequence) = subject.rsplit_once('.')?;
    let sequence = sequence.parse().ok()?;
    (act_subject(sequence) == subject).then_some(sequence)
}

/// What an operator can do about the message at `sequence` if a reader cannot continue after it.
pub fn way_out(sequence: u64) -> String {
    format!(
        "`millstream events show {sequence}` shows it, `millstream events set-aside {sequence}` lets readers go on behind it"
    )
}
