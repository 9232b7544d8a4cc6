//! The contracts on which the stages meet: subjects, headers, commands, commits, outcomes, positions.
//! Pure types and codecs. No async, no clock, no randomness, no NATS client and no redb below this module.

pub mod command;
pub mod commit;
pub mod dead_letter;
pub mod header;
mod header_block;
pub mod header_check;
pub mod moment;
pub mod outcome;
pub mod position;
pub mod share;
pub mod stored_message;
pub mod stream_names;
pub mod subject;
