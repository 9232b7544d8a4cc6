//! Which shapes events have had, and whether this release still keeps to them.
//!
//! A folder has a folder for each aggregate, `<context>/<aggregate>/`, and in it a golden file for each event type and
//! version, `<type>.v<version>.json`: one body that fills every field, added once and never edited. Beside them,
//! `recorded.json` says what each golden file is (a digest) and which shape the version has, so that a file that is edited
//! or deleted, and a type that changes its shape, are found out. [`check`] compares the model with all of it; [`record`] adds
//! what is new, golden files included, and changes nothing that is there.
//!
//! A version has one shape for ever. To change it, raise the version in `events!`, give an upcaster from the old one, and add
//! a golden file.

mod comparison;
mod files;
mod json_schema;
mod recorded;
mod sample;
mod shape;

pub use self::{
    comparison::{Problem, check, record},
    files::{GoldenFiles, GoldenFilesError},
    json_schema::{fields_of_record, json_schema_of},
    recorded::{AggregateRecord, RECORD_FILE, VersionRecord},
    sample::{SAMPLE_TEXTS, sample_of, sampled_shape_of},
    shape::{Field, Shape, shape_of},
};

#[cfg(test)]
mod tests;
