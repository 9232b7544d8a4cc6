//! How far a projection has come, with enough information to recognise whether the stream is still the same one.

use serde::{Deserialize, Serialize};

/// A checkpoint: everything up to `sequence` has been applied. It is stored together with the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The generation of the stream.
    pub generation: String,
    /// The last applied sequence; 0 before the first.
    pub sequence: u64,
    /// The id of the message at `sequence`: the commit id, the record id, or a hash if the message has neither. Empty at 0. If the stream has
    /// another message there, it has lost its tail and has grown again.
    pub message_id: String,
    /// The version of the projection that wrote the rows.
    pub version: u32,
    /// The last sequence of the stream when building the rows began. Before it, the rows are incomplete and not shown.
    pub complete_from: u64,
}

impl Checkpoint {
    /// The checkpoint before the first message.
    pub fn start(generation: &str, version: u32, complete_from: u64) -> Self {
        Self {
            generation: generation.to_owned(),
            sequence: 0,
            message_id: String::new(),
            version,
            complete_from,
        }
    }

    /// Whether the rows contain everything that was in the stream when building them began.
    pub fn is_complete(&self) -> bool {
        self.sequence >= self.complete_from
    }
}
