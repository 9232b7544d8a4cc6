//! CSV rows to commands, by a typed mapping in TOML; each row ends accepted, or refused with its reason.

pub(crate) mod input;
pub(crate) mod mapping;
pub(crate) mod rejects;
pub(crate) mod run;
mod template;
