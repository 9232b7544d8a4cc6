//! Rows of files to commands, by a typed mapping in TOML; each row ends accepted, or refused with its reason.

mod condition;
mod decode;
pub(crate) mod dry_run;
mod file_form;
mod filter;
mod identity;
pub(crate) mod input;
mod join;
mod map_check;
pub(crate) mod map_file;
pub(crate) mod mapping;
mod node;
mod number;
mod progress;
mod reject_columns;
pub(crate) mod rejects;
mod repeated;
pub(crate) mod run;
mod shared;
mod sheet;
pub(crate) mod source;
pub(crate) mod start;
mod template;
mod text;
mod units;
mod watch;
