//! JetStream as command queue and event store. Every question to the server goes through this crate.
//!
//! [`broker`] is the trait of everything that the engine asks; [`nats_broker`] and [`stream_reader`] implement it on the wire.
//! The feature `testing` adds a twin of the server in memory; one suite of scenarios runs over the twin and over a real server.
//! On top of the trait, [`event_store`] appends and loads commits, [`group_append`] appends many messages together,
//! [`provision`] creates and verifies the streams, [`dead_letters`] finds what was set aside, and [`lease`] keeps a lease. [`retry`] asks until the server answers, and
//! [`lost_tail`] decides when to believe that a stream has lost its tail.
//!
//! Deliberately absent: what a command, a row or a report is for; decisions; redb.

pub mod backoff;
pub mod broker;
pub mod dead_letter_store;
pub mod dead_letters;
pub mod event_store;
pub mod group_append;
pub mod id_source;
pub mod intake;
pub mod lease;
pub mod line;
pub mod lost_tail;
pub mod nats_broker;
pub mod nats_server;
pub mod position_at_moment;
pub mod provision;
pub mod retry;
pub mod set_aside;
pub mod stream_feed;
pub mod stream_reader;
#[cfg(feature = "testing")]
pub mod testing;
