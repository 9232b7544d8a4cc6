//! Rows and checkpoints in one redb file, written in one transaction.
//!
//! Because a checkpoint is committed together with the rows that it describes, a crash takes back both or neither, and reading
//! on from the checkpoint never skips or repeats an event. Start with [`read_store`].
//!
//! Deliberately absent: where events come from, and what a row means.

pub mod error;
pub mod file;
pub mod parallel;
pub mod read_store;
pub mod sealed;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text_key;
