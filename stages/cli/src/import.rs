//! CSV rows to commands, by a typed mapping in TOML; each row ends accepted, or refused with its reason.

pub(crate) mod dry_run;
mod identity;
pub(crate) mod input;
mod map_check;
pub(crate) mod mapping;
mod node;
mod progress;
pub(crate) mod rejects;
pub(crate) mod run;
mod shared;
mod template;
mod text;
mod watch;
