//! The contracts on which the stages meet: subjects, headers, commands, commits, outcomes, positions, names and exit codes.
//!
//! This crate has only types and codecs. Start with [`subject`], which says how everything is addressed. Then read
//! [`command`], [`commit`] and [`outcome`], the three things that streams hold.
//!
//! Deliberately absent: async, clocks, randomness, the NATS client, redb, and any other crate of Millstream.

pub mod api_key;
pub mod audit;
pub mod command;
pub mod commit;
pub mod configured_query;
pub mod dead_letter;
pub mod error_text;
pub mod event_json;
pub mod exit_code;
pub mod header;
pub mod header_block;
pub mod header_check;
pub mod leases;
pub mod letter_service;
pub mod message_pack;
pub mod moment;
pub mod near_name;
pub mod outcome;
pub mod position;
pub mod set_aside;
pub mod stored_message;
pub mod stream_names;
pub mod subject;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token_issuer;
pub mod unique_fields;
pub mod version_conflict;
pub mod view_change;
