//! Millstream for applications: the one crate that an application names.
//!
//! A crate with the rules of a domain depends on it without default features and uses what is listed here: aggregates ([`decider`],
//! [`commands!`], [`events!`], [`rejections!`]), views ([`projection`]), reports ([`report`], [`report_tables!`]) and processes ([`process`]),
//! all of them pure. The feature `testing` adds the kit for testing them (`testing`). The program of the application depends on it with default
//! features and consists of one line, `millstream::main::<Gym>()`: this program is every stage and every command.
//!
//! ```
//! use millstream::prelude::*;
//!
//! struct Gym;
//!
//! impl Application for Gym {
//!     const NAME: &'static str = "gym";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     const ABOUT: &'static str = "Memberships of a chain of gyms";
//!
//!     fn contexts() -> Vec<Context> {
//!         vec![Context::new("gym")]
//!     }
//! }
//!
//! assert!(Model::of::<Gym>().is_ok());
//! ```
//!
//! Deliberately absent: code of its own. An application may rely on exactly what is named here.

#[cfg(feature = "cli")]
mod program;

pub use jiff;
pub use millstream_contract as contract;
pub use millstream_domain::{
    application, commands, content_digest, data, decider, events, process, projection, rejections, report,
    report_tables, schema, schemars,
};
pub use millstream_values as values;
pub use rmp_serde;
pub use serde;
pub use serde_json;

#[cfg(feature = "cli")]
pub use self::program::main;

/// Small messages mean many allocations, for which this allocator is faster than the system's.
#[cfg(feature = "allocator")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The names that most files of a domain use.
pub mod prelude {
    pub use jiff::{SignedDuration, Timestamp};
    pub use millstream_contract::commit::EventEnvelope;
    pub use millstream_domain::{
        application::{Application, Context, DefaultSettings, Model, SettingKeys},
        commands, data,
        decider::{Decider, DecisionContext, EventSet, Rejection},
        events,
        process::{AggregateProcess, Effect, Process, ProcessCommand, ProcessError, Timer},
        projection::{AggregateView, Projection, ProjectionError, RowShape, Rows},
        rejections,
        report::{Column, ColumnKind, Entry, Posting, Report, ReportTables, SmolStr},
        report_tables,
    };
    pub use millstream_values::{business_date::BusinessDate, context::InContext, money::Currency};
}

/// The kit for testing an application, with or without a server.
#[cfg(feature = "testing")]
pub mod testing {
    pub use millstream_contract::testing::dice;
    pub use millstream_domain::testing::{
        given_when_then, golden, in_memory_system, memory_rows, sequential_handler,
    };
    pub use millstream_jetstream::testing::test_server;

    /// Tests of projections and reports: a history made by hand, and the rows that result from it.
    pub mod project {
        pub use millstream_domain::testing::project::{History, apply, command_at, rows_of};
        pub use millstream_store::testing::batchings::assert_repeatable;
    }
}
