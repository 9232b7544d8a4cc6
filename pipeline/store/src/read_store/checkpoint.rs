//! How far a projection has come, and enough to recognise whether the stream is still the one it came along.

use serde::{Deserialize, Serialize};

/// Everything up to `sequence` has been applied. Stored with the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which incarnation of the stream.
    pub generation: String,
    /// The last applied sequence; 0 before the first.
    pub sequence: u64,
    /// What stands at `sequence`: commit id, record id, or a hash where there is neither. Empty at 0. When the stream
    /// holds something else there, it lost its tail and grew again.
    pub message_id: String,
    /// The version of the projection that wrote the rows.
    pub version: u32,
    /// Where the stream ended when the rows were last begun from nothing: below it they are incomplete and not shown.
    pub complete_from: u64,
}

impl Checkpoint {
    /// Before the first message.
    pub fn start(generation: &str, version: u32, complete_from: u64) -> Self {
        Self {
            generation: generation.to_owned(),
            sequence: 0,
            message_id: String::new(),
            version,
            complete_from,
        }
    }

    /// Whether the rows hold everything that was in the stream when they were begun.
    pub fn is_complete(&self) -> bool {
        self.sequence >= self.complete_from
    }
}
