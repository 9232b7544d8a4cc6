//! The changes that a bug makes to a message.

use millstream_contract::{
    commit::StoredCommit,
    outcome::OutcomeRecord,
    stored_message::{Headers, StoredMessage},
};
use millstream_jetstream::broker::NewMessage;

/// A message without some of its headers.
pub(super) fn strip(message: &mut StoredMessage, names: &[&str]) {
    message.headers = message.headers.iter().filter(|(name, _)| !names.contains(name)).collect();
}

/// Records without the ids of their commands.
pub(super) fn forget_ids(messages: &mut [StoredMessage]) {
    for message in messages {
        if let Ok(mut record) = OutcomeRecord::from_stored(message) {
            for line in &mut record.outcomes {
                line.id = None;
            }
            message.payload = record.encode().into();
        }
    }
}

/// A commit that does not say which commands caused its events.
pub(super) fn without_positions(message: StoredMessage) -> StoredMessage {
    let Ok(mut stored) = StoredCommit::from_stored(&message) else { return message };
    for command in &mut stored.commit.commands {
        command.position = 0;
    }
    StoredMessage { payload: stored.commit.encode().into(), ..message }
}

/// Whether a message is the commit of an aggregate that was changed by a command to another aggregate.
pub(super) fn is_of_partner(message: &NewMessage) -> bool {
    // It is read as if it were stored already; the sequence does not matter.
    let stored = StoredMessage {
        subject: message.subject.clone(),
        sequence: 0,
        stored_at: jiff::Timestamp::UNIX_EPOCH,
        headers: Headers::new(),
        payload: message.payload.clone(),
    };
    StoredCommit::from_stored(&stored)
        .is_ok_and(|stored| stored.commit.commands.iter().any(|command| command.partner_of.is_some()))
}
