//! Records the shapes that events have had, and checks that this release still keeps to them.
//!
//! The folder of golden files has a folder `<context>/<aggregate>/` for each aggregate. It holds one golden file for each event type and
//! version, `<type>.v<version>.json`: a body that fills every field, added once and never edited. Beside them, `recorded.json` has a digest
//! of each golden file and the shape of the version. It reveals a golden file that was edited or deleted, and a type whose shape has
//! changed. [`check`] compares the model with all of it. [`record`] adds what is new, golden files included, and changes nothing that
//! exists.
//!
//! The shape of a version never changes. To change an event, raise the version in `events!`, name an upcaster from the old version, and add
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
