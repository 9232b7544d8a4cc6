//! Millstream's engine: event sourcing and CQRS on NATS JetStream.
//!
//! Pure contracts and traits ([`contract`], [`decider`], [`projection`]) on which models are written, and the shell that
//! performs their I/O. No business word occurs here.

pub mod aggregate_state;
pub mod broker;
pub mod command_handler;
pub mod config;
pub mod connection;
pub mod content_digest;
pub mod contract;
pub mod dead_letter_store;
pub mod decider;
pub mod error_text;
pub mod event_store;
pub mod exit_code;
pub mod group_append;
pub mod health;
pub mod id_index;
pub mod intake;
mod lease;
pub mod metrics;
pub mod nats_broker;
pub mod nats_server;
pub mod outcome_journal;
pub mod past;
pub mod process;
pub mod process_runner;
pub mod projection;
pub mod projection_runner;
pub mod provision;
pub mod query_service;
pub mod read_side;
pub mod read_store;
pub mod report;
pub mod report_publisher;
pub mod retry;
pub mod round;
pub mod row_watch;
pub mod schema;
pub mod seeded_bug;
pub mod settlement;
pub mod share_layout;
pub mod shutdown;
mod side_by_side;
pub mod stage;
pub mod stage_check;
pub mod stage_needs;
pub mod state_cache;
pub mod state_snapshots;
pub mod status_service;
pub mod stream_feed;
pub mod stream_reader;
pub mod submit_service;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod text_key;
pub mod verification;
