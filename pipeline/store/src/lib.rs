//! Rows and checkpoints in one redb file, written in one transaction.
//!
//! Deliberately absent: where events come from and what a row means.

#![deny(missing_docs)]

pub mod read_store;
pub mod side_by_side;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text_key;
