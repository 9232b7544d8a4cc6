//! The subcommands, one file each.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod deadletters;
pub(crate) mod decode;
#[cfg(feature = "reference")]
pub(crate) mod demo;
pub(crate) mod docs;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod keys;
pub(crate) mod new;
pub(crate) mod query;
pub(crate) mod ready;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod send;
pub(crate) mod setup;
pub(crate) mod sql;
pub(crate) mod stage;
pub(crate) mod up;
pub(crate) mod verify;
