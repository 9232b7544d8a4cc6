//! The events of every release: whether the model still reads and writes them as it is recorded ([`crate::schema`]).

use std::path::Path;

use crate::{
    decider::AggregateRegistry,
    schema::{GoldenFiles, check},
};

/// Demands that `millstream schema check` finds nothing in a folder of golden files.
///
/// # Panics
/// When it does, with everything it finds.
pub fn assert_compatible(registry: &AggregateRegistry, folder: &Path) {
    let files = GoldenFiles::read(folder).unwrap_or_else(|error| panic!("{error}"));
    let problems: Vec<String> = check(registry, &files).iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
