//! Checks that the model still reads and writes the events of every release as they are recorded ([`crate::schema`]).

use std::path::Path;

use crate::{
    decider::AggregateRegistry,
    schema::{GoldenFiles, check},
};

/// Demands that `millstream schema check` finds no problem in a folder of golden files.
///
/// # Panics
/// When there are problems. The message has all of them.
pub fn assert_compatible(registry: &AggregateRegistry, folder: &Path) {
    let files = GoldenFiles::read(folder).unwrap_or_else(|error| panic!("{error}"));
    let problems: Vec<String> = check(registry, &files).iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
