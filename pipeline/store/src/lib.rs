//! Rows and checkpoints in one redb file, written in one transaction.
//!
//! A checkpoint is committed together with the rows that it describes, so a crash undoes both or neither. Reading on from the checkpoint
//! therefore never skips or repeats an event. Start with [`read_store`].
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
