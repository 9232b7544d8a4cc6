//! What the stages meet on: subjects, headers, commands, commits, outcomes, positions, names and exit codes.
//!
//! Pure types and codecs. Deliberately absent: async, clocks, randomness, the NATS client, redb, and any other crate of
//! Millstream. Start with [`subject`], then [`command`], [`commit`] and [`outcome`], the three things that streams hold.

pub mod command;
pub mod commit;
pub mod dead_letter;
pub mod error_text;
pub mod exit_code;
pub mod header;
pub mod leases;
pub mod moment;
pub mod outcome;
pub mod position;
#[doc(hidden)]
pub mod seeded_bug;
pub mod stored_message;
pub mod stream_names;
pub mod subject;
#[cfg(feature = "testing")]
pub mod testing;
