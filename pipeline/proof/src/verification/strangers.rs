//! Messages of EVENTS that are no commits: each breaks a promise, unless an act behind it sets it aside.

use std::collections::BTreeMap;

use millstream_contract::{
    commit::{CommitError, StoredCommit},
    error_text::one_line,
    set_aside::{self, MessageSetAside},
    stored_message::StoredMessage,
    stream_names::EVENTS,
};

use super::{Check, Violation};

/// Those that no act has set aside so far, with what they are instead.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<u64, (StoredMessage, String)>);

impl Strangers {
    /// Takes a message that is no commit.
    pub(super) fn meet(&mut self, message: &StoredMessage, error: &CommitError) {
        self.0.insert(message.sequence, (message.clone(), one_line(error)));
    }

    /// Takes a commit, which may be the act for one of them.
    pub(super) fn look(&mut self, stored: &StoredCommit, message: &StoredMessage) {
        let stream_id = &stored.stream_id;
        if (stream_id.context(), stream_id.aggregate()) != (set_aside::CONTEXT, set_aside::AGGREGATE) {
            return;
        }
        let Ok(sequence) = stream_id.id().parse::<u64>() else { return };
        let Some(act) = MessageSetAside::from_stored(message) else { return };
        if self.0.get(&sequence).is_some_and(|(stranger, _)| act.names(stranger)) {
            self.0.remove(&sequence);
        }
    }

    /// What is left when EVENTS has been read to its end.
    pub(super) fn violations(self) -> impl Iterator<Item = Violation> {
        let left = self.0.into_iter();
        left.map(|(sequence, (_, detail))| Violation::new(Check::Whole, EVENTS, sequence, detail))
    }
}
