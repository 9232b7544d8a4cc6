//! Each change of an event that breaks what is stored is found, told by event and field, and no other change is.

use std::{fs, path::Path};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::decider::AggregateRegistry;

/// A release of an aggregate `thing` of the context `shop`.
macro_rules! release {
    ($name:ident = $version:literal $(upcasts $old:literal => $upcast:path)?; $($fields:tt)*) => {
        mod $name {
            #![allow(dead_code, unused_imports, reason = "a release writes what the test needs of it")]

            use serde::{Deserialize, Serialize};

            use crate::decider::{AggregateRegistry, Decider, DecisionContext, Rejection};

            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            #[serde(rename_all = "kebab-case")]
            pub(super) enum Size { Small, Large }

            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            pub(super) struct Line { pub(super) sku: String, pub(super) quantity: i64 }

            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            pub(super) struct Asked {}

            $($fields)*

            crate::commands! { pub(super) enum ThingCommand { Ask(Asked) = "ask" } }

            crate::events! {
                pub(super) enum ThingEvent of "thing" {
                    Added(Added) = "added" v $version $(upcasts { $old => $upcast })?,
                    Removed(Asked) = "removed" v 1,
                }
            }

            struct Thing;

            impl Decider for Thing {
                type Command = ThingCommand;
                type Event = ThingEvent;
                type State = ();

                const CONTEXT: &'static str = "shop";
                const AGGREGATE: &'static str = "thing";

                fn decide(
                    _: &(),
                    _: &ThingCommand,
                    _: &DecisionContext<'_>,
                ) -> Result<Vec<ThingEvent>, Rejection> {
                    Ok(vec![])
                }

                fn evolve(_: &mut (), _: &ThingEvent) {}
            }

            pub(super) fn registry() -> AggregateRegistry {
                AggregateRegistry::new().with::<Thing>()
            }
        }
    };
}

macro_rules! added {
    ($($(#[$meta:meta])* $field:ident: $kind:ty),* $(,)?) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub(super) struct Added { $($(#[$meta])* pub(super) $field: $kind),* }
    };
}

release!(first = 1; added! { name: String, size: Size, note: Option<String>, lines: Vec<Line> });
release!(without_name = 1; added! { size: Size, note: Option<String>, lines: Vec<Line> });
release!(without_note = 1; added! { name: String, size: Size, lines: Vec<Line> });
release!(renamed = 1; added! { title: String, size: Size, note: Option<String>, lines: Vec<Line> });
release!(renamed_note = 1; added! { name: String, size: Size, remark: Option<String>, lines: Vec<Line> });
release!(retyped = 1; added! { name: i64, size: Size, note: Option<String>, lines: Vec<Line> });
release!(with_required = 1; added! { name: String, size: Size, note: Option<String>, lines: Vec<Line>, unit: String });
release!(with_optional = 1; added! { name: String, size: Size, note: Option<String>, lines: Vec<Line>, unit: Option<String> });
release!(with_default = 1; added! { name: String, size: Size, note: Option<String>, lines: Vec<Line>, #[serde(default)] unit: u32 });
release!(note_required = 1; added! { name: String, size: Size, note: String, lines: Vec<Line> });
release!(name_optional = 1; added! { name: Option<String>, size: Size, note: Option<String>, lines: Vec<Line> });
release!(less_of_a_line = 1;
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(super) struct Short { pub(super) sku: String }
    added! { name: String, size: Size, note: Option<String>, lines: Vec<Short> });
release!(fewer_sizes = 1;
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub(super) enum OneSize { Small }
    added! { name: String, size: OneSize, note: Option<String>, lines: Vec<Line> });
release!(second = 2 upcasts 1 => upcast;
added! { title: String, size: Size, lines: Vec<Line> }
fn upcast(data: &[u8]) -> Result<Added, rmp_serde::decode::Error> {
    let super::first::Added { name, lines, .. } = crate::decider::decode_event(data)?;
    Ok(Added { title: name, size: Size::Large, lines: lines.into_iter().map(|line| Line { sku: line.sku, quantity: line.quantity }).collect() })
});
release!(second_otherwise = 2 upcasts 1 => upcast;
added! { title: String, size: Size, lines: Vec<Line> }
fn upcast(data: &[u8]) -> Result<Added, rmp_serde::decode::Error> {
    let super::first::Added { name, .. } = crate::decider::decode_event(data)?;
    Ok(Added { title: name, size: Size::Small, lines: vec![] })
});
release!(second_without_upcaster = 2; added! { title: String, size: Size, lines: Vec<Line> });

fn golden() -> serde_json::Value {
    json!({ "name": "Gin", "size": "small", "note": "x", "lines": [{ "sku": "a", "quantity": 1 }] })
}

fn write(folder: &Path, name: &str, text: &str) {
    let folder = folder.join("shop/thing");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

fn problems(registry: &AggregateRegistry, folder: &Path) -> Vec<String> {
    let files = GoldenFiles::read(folder).unwrap();
    check(registry, &files).iter().map(ToString::to_string).collect()
}

fn recorded_anew(registry: &AggregateRegistry, folder: &Path) -> Vec<String> {
    let mut files = GoldenFiles::read(folder).unwrap();
    let added = record(registry, &mut files).unwrap();
    files.write_records().unwrap();
    added
}

/// A folder in which the first release is recorded.
fn released() -> TempDir {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "added.v1.json", &golden().to_string());
    write(folder.path(), "removed.v1.json", "{}");
    assert_eq!(
        recorded_anew(&first::registry(), folder.path()),
        ["shop/thing/added.v1", "shop/thing/removed.v1"]
    );
    assert_eq!(problems(&first::registry(), folder.path()), Vec::<String>::new());
    folder
}

#[track_caller]
fn assert_found(registry: &AggregateRegistry, starts: &[&str]) {
    let folder = released();
    let found = problems(registry, folder.path());
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (problem, start) in found.iter().zip(starts) {
        assert!(problem.starts_with(&format!("shop/thing/added.v1: {start}")), "{problem}");
        assert!(problem.contains("make it version 2") && problem.contains("added.v2.json"), "{problem}");
    }
    let mut files = GoldenFiles::read(folder.path()).unwrap();
    assert_eq!(record(registry, &mut files).unwrap_err().len(), starts.len(), "recording solves it not");
}

#[test]
fn removed_field_is_found() {
    assert_found(&without_name::registry(), &["field name is gone"]);
    assert_found(&without_note::registry(), &["field note is gone"]);
    assert_found(&less_of_a_line::registry(), &["field lines[].quantity is gone"]);
}

#[test]
fn renamed_field_is_found_under_both_names() {
    let old_events = "field title is new, and old events do not have it";
    assert_found(&renamed::registry(), &["field name is gone", old_events]);
    assert_found(&renamed_note::registry(), &["field note is gone", "field remark is new"]);
}

#[test]
fn changed_type_is_found() {
    assert_found(&retyped::registry(), &["field name was text and is i64"]);
    assert_found(&fewer_sizes::registry(), &["field size was one of small | large and is one of small"]);
}

#[test]
fn new_field_is_found_whether_required_or_not() {
    assert_found(&with_required::registry(), &["field unit is new, and old events do not have it"]);
    assert_found(&with_optional::registry(), &["field unit is new;"]);
    assert_found(&with_default::registry(), &["field unit is new;"]);
}

#[test]
fn field_that_becomes_required_or_optional_is_found() {
    assert_found(&note_required::registry(), &["field note was text? and is text;"]);
    assert_found(&name_optional::registry(), &["field name was text and is text?"]);
}

#[test]
fn deleted_golden_file_is_found() {
    let folder = released();
    fs::remove_file(folder.path().join("shop/thing/added.v1.json")).unwrap();
    let found = problems(&first::registry(), folder.path());
    assert_eq!(found, ["shop/thing/added.v1: its golden file is gone; restore it from version control"]);
    fs::remove_dir_all(folder.path().join("shop/thing")).unwrap();
    let found = problems(&first::registry(), folder.path());
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn edited_golden_file_is_found_and_its_blanks_do_not_matter() {
    let folder = released();
    write(folder.path(), "added.v1.json", &serde_json::to_string_pretty(&golden()).unwrap());
    assert_eq!(problems(&first::registry(), folder.path()), Vec::<String>::new());
    write(folder.path(), "added.v1.json", &golden().to_string().replace("Gin", "Rum"));
    let found = problems(&first::registry(), folder.path());
    assert_eq!(found, ["shop/thing/added.v1: its golden file was edited; restore it from version control"]);
}

#[test]
fn event_type_or_aggregate_that_is_gone_is_found() {
    let folder = released();
    write(folder.path(), "lost.v1.json", "{}");
    let found = problems(&first::registry(), folder.path());
    assert!(found.len() == 1 && found[0].starts_with("shop/thing/lost.v1: the model does not know it"));
    let found = problems(&AggregateRegistry::new(), folder.path());
    assert!(found.len() == 1 && found[0].starts_with("shop/thing: the model has no such aggregate"));
}

#[test]
fn new_event_needs_a_golden_file_that_fills_everything_and_a_record() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "removed.v1.json", "{}");
    let found = problems(&first::registry(), folder.path());
    assert!(
        found[0].starts_with("shop/thing/added.v1: it has no golden file; run millstream schema record"),
        "{found:?}"
    );
    for (body, text) in [
        (
            json!({ "name": "Gin", "size": "small", "note": null, "lines": [{ "sku": "a", "quantity": 1 }] }),
            "field note is empty",
        ),
        (json!({ "name": "Gin", "size": "small", "note": "x", "lines": [] }), "field lines[] is empty"),
        (
            json!({ "name": "Gin", "size": "small", "lines": [{ "sku": "a", "quantity": 1 }] }),
            "field note is missing",
        ),
        (
            json!({ "name": "G", "size": "small", "note": "x", "lines": [{ "sku": "a", "quantity": 1 }], "odd": 1 }),
            "field odd is in the golden file and not in the event",
        ),
    ] {
        write(folder.path(), "added.v1.json", &body.to_string());
        let found = problems(&first::registry(), folder.path());
        assert!(found[0].contains(text), "{found:?}");
        let mut files = GoldenFiles::read(folder.path()).unwrap();
        assert!(record(&first::registry(), &mut files).is_err());
    }
    write(folder.path(), "added.v1.json", &golden().to_string());
    let found = problems(&first::registry(), folder.path());
    assert_eq!(found[0], "shop/thing/added.v1: it is not recorded; run millstream schema record");
}

#[test]
fn new_version_with_an_upcaster_is_recorded_and_its_meaning_kept() {
    let folder = released();
    let v2 = json!({ "title": "Gin", "size": "small", "lines": [{ "sku": "a", "quantity": 1 }] });
    let found = problems(&second::registry(), folder.path());
    assert!(found.iter().any(|problem| problem.starts_with("shop/thing/added.v2: it has no golden file")));
    write(folder.path(), "added.v2.json", &v2.to_string());
    assert_eq!(
        recorded_anew(&second::registry(), folder.path()),
        ["shop/thing/added.v1", "shop/thing/added.v2"]
    );
    assert_eq!(problems(&second::registry(), folder.path()), Vec::<String>::new());
    let found = problems(&second_otherwise::registry(), folder.path());
    assert!(found.len() == 1 && found[0].contains("mend the upcaster from version 1"), "{found:?}");
    let found = problems(&second_without_upcaster::registry(), folder.path());
    assert!(found.len() == 1 && found[0].contains("not read any more"), "{found:?}");
}

#[test]
fn golden_file_that_is_missing_is_made_up_once_and_never_after_it_was_recorded() {
    let folder = TempDir::new().unwrap();
    let added = recorded_anew(&first::registry(), folder.path());
    assert_eq!(added, ["shop/thing/added.v1", "shop/thing/removed.v1"]);
    assert_eq!(problems(&first::registry(), folder.path()), Vec::<String>::new());
    let path = folder.path().join("shop/thing/added.v1.json");
    let body: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        body,
        json!({ "name": "name", "size": "small", "note": "note", "lines": [{ "sku": "sku", "quantity": 1 }] })
    );
    fs::remove_file(&path).unwrap();
    let mut files = GoldenFiles::read(folder.path()).unwrap();
    let refused = record(&first::registry(), &mut files).unwrap_err();
    assert!(refused[0].text.contains("its golden file is gone"), "{refused:?}");
}

#[test]
fn recording_changes_nothing_that_is_recorded() {
    let folder = released();
    let path = folder.path().join("shop/thing").join(RECORD_FILE);
    let before = fs::read(&path).unwrap();
    assert_eq!(recorded_anew(&first::registry(), folder.path()), Vec::<String>::new());
    assert_eq!(fs::read(&path).unwrap(), before);
}
