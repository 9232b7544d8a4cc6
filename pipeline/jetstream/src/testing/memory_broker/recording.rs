//! Records the questions to the twin's server in the order of their arrival, and its answers, so that the same sequence can be put to a real
//! server. Only answers that a real server would give are recorded, not the twin's own faults.

use std::collections::BTreeMap;

use millstream_contract::{header, stored_message::Headers};

use super::world::Sent;
use crate::{
    broker::{AppendError, Appended, NewMessage},
    testing::operation::{AGAIN, Operation, told_append},
};

/// A question and its answer, as texts of [`crate::testing::operation`].
pub type Recorded = (Operation, String);

#[derive(Debug, Default)]
pub(super) struct Recording {
    operations: Vec<Recorded>,
    /// How often each message id of each stream was stored.
    stored: BTreeMap<(String, String), u32>,
}

impl Recording {
    pub(super) fn take(&self) -> Vec<Recorded> {
        self.operations.clone()
    }

    pub(super) fn note(&mut self, operation: Operation, answer: String) {
        self.operations.push((operation, answer));
    }

    pub(super) fn note_append(&mut self, stream: &str, sent: &Sent, answer: &Result<Appended, AppendError>) {
        if matches!(answer, Err(AppendError::Full { .. })) {
            return;
        }
        if matches!(answer, Ok(Appended { duplicate: false, .. })) {
            for id in sent.messages().iter().filter_map(message_id) {
                *self.stored.entry((stream.to_owned(), id.to_owned())).or_default() += 1;
            }
        }
        let operation = match sent {
            Sent::Single(message) => {
                Operation::Append { stream: stream.to_owned(), message: self.told_apart(stream, message) }
            }
            Sent::Batch(messages) => {
                let messages = messages.iter().map(|message| self.told_apart(stream, message)).collect();
                Operation::AppendAtomically { stream: stream.to_owned(), messages }
            }
        };
        self.note(operation, told_append(answer));
    }

    /// The message, whose id is followed by how often the server has stored this id. So a repeat has the same id as what it repeats.
    fn told_apart(&self, stream: &str, message: &NewMessage) -> NewMessage {
        let Some(id) = message_id(message) else { return message.clone() };
        let times = self.stored.get(&(stream.to_owned(), id.to_owned())).copied().unwrap_or(0);
        let alias = format!("{id}{AGAIN}{times}");
        let mut headers = Headers::new();
        for (name, value) in message.headers.iter() {
            headers.push(name, if name == header::NATS_MESSAGE_ID { alias.as_str() } else { value });
        }
        NewMessage { headers, ..message.clone() }
    }
}

fn message_id(message: &NewMessage) -> Option<&str> {
    message.headers.get(header::NATS_MESSAGE_ID)
}
