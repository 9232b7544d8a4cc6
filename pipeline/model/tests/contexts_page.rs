//! docs/contexts.md lists every command, every code with which one is refused, and every view.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{collections::BTreeSet, fs, path::Path};

use millstream_engine::decider::CommandSet as _;
use millstream_model::{
    comments::comment::CommentCommand,
    orders::order::{OrderCommand, status::REFUSALS},
    retail::{
        business_day::BusinessDayCommand, delivery::DeliveryCommand, product::ProductCommand,
        stock::StockCommand, till::TillCommand,
    },
};

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/contexts.md")).unwrap()
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// The texts that stand first behind `opening` in the sources.
fn first_texts(opening: &str) -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files);
    let behind = |file: &String| {
        let starts: Vec<String> = file
            .match_indices(opening)
            .filter_map(|(at, _)| {
                file.get(at + opening.len()..)?.trim_start().strip_prefix('"')?.split_once('"')
            })
            .map(|(text, _)| text.to_owned())
            .collect();
        starts
    };
    files.iter().flat_map(behind).filter(|text| text.contains('-')).collect()
}

#[test]
fn every_code_is_on_the_page() {
    let mut codes = BTreeSet::new();
    for opening in ["Rejection::new(", "check_reference(", "check_label(", "differs("] {
        codes.extend(first_texts(opening));
    }
    assert!(codes.len() > 40, "only {} codes were found: the sources look different now", codes.len());
    let page = page();
    let missing: Vec<&String> = codes.iter().filter(|code| !page.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/contexts.md lacks {missing:?}");
}

#[test]
fn steps_that_the_page_allows_are_not_refused() {
    let page = page();
    for (command, state, code) in REFUSALS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{state}` |")));
        let allowed = row.unwrap_or_else(|| panic!("there is no row for {state}"));
        assert!(!allowed.contains(&format!("`{command}`")), "{code}, but the page says: {allowed}");
    }
}

#[test]
fn every_view_is_on_the_page() {
    let page = page();
    for projection in millstream_model::projections() {
        for view in projection.views() {
            let listed =
                page.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{view}`")));
            assert!(listed, "docs/contexts.md lacks the view {view}");
        }
    }
}

#[test]
fn every_command_is_on_the_page() {
    let page = page();
    let names = [
        ProductCommand::NAMES,
        DeliveryCommand::NAMES,
        TillCommand::NAMES,
        BusinessDayCommand::NAMES,
        StockCommand::NAMES,
        OrderCommand::NAMES,
        CommentCommand::NAMES,
    ];
    assert_eq!(names.len(), millstream_model::aggregates().iter().count(), "an aggregate is missing here");
    for command in names.into_iter().flatten() {
        assert!(page.contains(&format!("`{command}")), "docs/contexts.md lacks the command {command}");
    }
}
