//! How far a reader has come.

use jiff::Timestamp;
use millstream_contract::stored_message::StoredMessage;

/// The last message that was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    pub(super) sequence: u64,
    /// `None` before the first message.
    pub(super) stored_at: Option<Timestamp>,
    /// Whether a consumer can deliver it.
    pub(super) readable: bool,
}

impl Reached {
    pub(super) fn at(message: &StoredMessage) -> Self {
        let readable = message.headers.unreadable().is_none() && message.subject.is_ascii();
        Self { sequence: message.sequence, stored_at: Some(message.stored_at), readable }
    }

    /// The sequence at which a new consumer begins.
    pub(super) fn first(self) -> u64 {
        if self.stored_at.is_some() && self.readable { self.sequence } else { self.sequence + 1 }
    }
}
