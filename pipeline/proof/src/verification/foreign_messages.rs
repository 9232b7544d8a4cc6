//! Messages of EVENTS that are not commits. Each breaks a guarantee, unless a later act sets it aside.

use std::collections::BTreeMap;

use millstream_contract::{
    commit::{CommitError, content_digest},
    error_text::one_line,
    set_aside::{MessageSetAside, acted_on},
    stored_message::StoredMessage,
    stream_names::EVENTS,
};

use super::{Check, Violation};

/// The messages found so far, by sequence.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<u64, Stranger>);

/// A message that is no commit.
#[derive(Debug)]
struct Stranger {
    subject: String,
    /// The digest of its body.
    digest: String,
    /// A description of what it is instead.
    detail: String,
    /// Whether the last act about it sets it aside. Readers only ask for the last act.
    set_aside: bool,
}

impl Strangers {
    /// Takes a message that is not a commit.
    pub(super) fn meet(&mut self, message: &StoredMessage, error: &CommitError) {
        self.look(message);
        let stranger = Stranger {
            subject: message.subject.clone(),
            digest: content_digest(&message.payload),
            detail: one_line(error),
            set_aside: false,
        };
        self.0.insert(message.sequence, stranger);
    }

    /// Takes any message. It may be an act about one of them, or stand where the last act would.
    pub(super) fn look(&mut self, message: &StoredMessage) {
        let stranger = acted_on(&message.subject).and_then(|sequence| self.0.get_mut(&sequence));
        if let Some(stranger) = stranger {
            let act = MessageSetAside::from_stored(message);
            stranger.set_aside = act.is_some_and(|act| act.is_about(&stranger.subject, &stranger.digest));
        }
    }

    /// The violations that remain when EVENTS has been read to its end.
    pub(super) fn violations(self) -> impl Iterator<Item = Violation> {
        let left = self.0.into_iter().filter(|(_, stranger)| !stranger.set_aside);
        left.map(|(sequence, stranger)| Violation::new(Check::Whole, EVENTS, sequence, stranger.detail))
    }
}
