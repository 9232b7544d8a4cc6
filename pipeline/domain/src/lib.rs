//! What an application implements: a [`decider`] for each aggregate, a [`projection`] for each view, a [`report`] for each
//! ledger and a [`process`] for each process manager. [`schema`] records the shapes of events and refuses incompatible changes.
//!
//! Everything here is plain functions over plain data. Time and ids are arguments, so that a decision or a fold can be repeated with the
//! same result. The feature `testing` adds the kit for testing rules, views, reports and processes.
//!
//! Deliberately absent: async, clocks, randomness, the NATS client and redb.

pub mod application;
pub mod async_api;
pub mod by_name;
pub mod command_view;
pub mod content_digest;
pub mod decider;
pub mod process;
pub mod process_rejections;
pub mod projection;
pub mod report;
pub mod row_watch;
pub mod schema;
pub mod set_aside;
#[cfg(feature = "testing")]
pub mod testing;

/// The contracts, for the macros of this crate.
#[doc(hidden)]
pub use millstream_contract as contract;

/// Types of rows describe their shape with it ([`projection::RowShape`]).
pub use schemars;
