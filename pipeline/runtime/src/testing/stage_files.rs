//! Makes sure that `config/<stage>.toml` and the tables of docs/configuration.md equal what a stage's sections say about their keys.

use std::{fs, path::PathBuf};

use crate::config::{Origins, Section, load};

/// Checks the file and the table of a stage. `S` is the stage's own section.
///
/// # Panics
/// When one of them is missing or differs. The message contains the expected text.
pub fn check<S: Section>(stage: &str) {
    let defaults = load::<S>(&Origins::default()).expect("the defaults are a valid configuration");
    let path = repository().join(format!("config/{stage}.toml"));
    let expected = defaults.reference_file(stage);
    let found = read(&path);
    assert!(
        found == expected,
        "config/{stage}.toml is not what the stage explains; write `{stage} --reference-config` there:\n\n{expected}"
    );
    let origins = Origins { file: Some(path), ..Origins::default() };
    let loaded = load::<S>(&origins).unwrap_or_else(|error| panic!("config/{stage}.toml: {error}"));
    assert_eq!(loaded.entries, defaults.entries, "config/{stage}.toml changes something");
    let tables = defaults.reference_tables();
    let own = tables.find(&format!("### [{}]", S::NAME)).and_then(|start| tables.get(start..));
    let table = own.expect("the stage's section has keys").trim_end();
    assert!(
        read(&repository().join("docs/configuration.md")).contains(table),
        "docs/configuration.md lacks this table:\n\n{table}"
    );
}

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: &std::path::Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
