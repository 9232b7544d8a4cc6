//! What people implement who put a domain of their own on Millstream: a [`decider`] for each aggregate, a [`projection`] for
//! each view, a [`report`] for each ledger, a [`process`] for each policy; and [`schema`], which records the shape of events.
//!
//! Plain functions over plain data. Deliberately absent: async, clocks, randomness, the NATS client and redb; time and ids
//! arrive as arguments. The feature `testing` adds the kit with which rules, views, reports and processes are tested.

#![deny(missing_docs)]

pub mod application;
pub mod command_view;
pub mod content_digest;
pub mod decider;
pub mod process;
pub mod projection;
pub mod report;
pub mod row_watch;
pub mod schema;
#[cfg(feature = "testing")]
pub mod testing;

/// The contracts, for the macros of this crate.
#[doc(hidden)]
pub use millstream_contract as contract;
