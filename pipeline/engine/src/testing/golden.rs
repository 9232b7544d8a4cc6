//! Golden files: one event of each type and schema version, as first released. Added, never edited: events that are
//! stored stay as they are, and every later release must read them.

use std::{collections::BTreeSet, fs, path::Path};

use crate::decider::EventSet;

/// Checks the golden files `<folder>/<event-type>.v<schema>.json` of an aggregate's events:
/// every type of [`EventSet::TYPES`] has a file for each version from 1 to the current one, every file is of such a type,
/// each decodes, and the current version is written again as it was read.
///
/// # Panics
/// When one is missing, does not decode or comes out differently; the text says what to do.
pub fn check<E: EventSet>(folder: &Path) {
    let mut expected = BTreeSet::new();
    for (event_type, schema) in E::TYPES {
        for version in 1..=*schema {
            let name = format!("{event_type}.v{version}.json");
            check_file::<E>(folder, &name, event_type, version, version == *schema);
            expected.insert(name);
        }
    }
    let found = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in found {
        let name = entry.expect("the folder can be listed").file_name().to_string_lossy().into_owned();
        assert!(
            expected.contains(&name),
            "{}/{name} belongs to no event type; events that were released stay known for ever",
            folder.display()
        );
    }
}

fn check_file<E: EventSet>(folder: &Path, name: &str, event_type: &str, version: u16, current: bool) {
    let path = folder.join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}. Each event type and schema version has one golden file: write the event's fields there as \
             JSON, every optional field filled, once, and never edit it again. To change the shape of a released event, \
             raise its version in `events!`, add an upcaster from the old one, and add a file for the new one.",
            path.display()
        )
    });
    let golden: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{} is not JSON: {error}", path.display()));
    let bytes = rmp_serde::to_vec_named(&golden).expect("JSON is always expressible in MessagePack");
    let event = E::decode(event_type, version, &bytes)
        .unwrap_or_else(|error| panic!("{} does not decode any more: {error:?}", path.display()));
    if current {
        let written: serde_json::Value =
            rmp_serde::from_slice(&event.encode()).expect("events are plain data with named fields");
        assert_eq!(
            written,
            golden,
            "{} is written differently now: raise the version of {event_type} in `events!` and add an upcaster",
            path.display()
        );
    }
}
