//! JetStream as command queue and event store: all that is asked of the server goes through here.
//!
//! [`broker`] is the trait of everything that is asked; [`nats_broker`] and [`stream_reader`] implement it on the wire, and
//! the in-memory twin behind the feature `testing` is checked against the real server by one suite of scenarios.
//! Deliberately absent: what a command, a row or a report is for; decisions; redb.

#![deny(missing_docs)]

pub mod broker;
pub mod event_store;
pub mod group_append;
pub mod intake;
pub mod lease;
pub mod nats_broker;
pub mod nats_server;
pub mod past;
pub mod provision;
pub mod retry;
pub mod stream_feed;
pub mod stream_reader;
#[cfg(feature = "testing")]
pub mod testing;
