//! docs/contexts.md lists every command, every code with which one is refused, and every view.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{collections::BTreeSet, fs};

use millstream_model::orders::order::status::REFUSALS;

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/contexts.md")).unwrap()
}

#[test]
fn every_code_is_on_the_page() {
    let mut codes = BTreeSet::new();
    for aggregate in millstream_model::aggregates().iter() {
        codes.extend(aggregate.rejections().into_iter().map(|(_, code)| code));
    }
    assert!(codes.len() > 40, "only {} codes are declared", codes.len());
    let page = page();
    let shown = |code: &str| page.contains(&format!("`{code}`"));
    // One row of the page stands for every step that is refused because of an order's state.
    let steps: BTreeSet<&str> = REFUSALS.iter().map(|(_, _, code)| *code).collect();
    let missing: Vec<_> = codes.difference(&steps).filter(|code| !shown(code)).collect();
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
    for aggregate in millstream_model::aggregates().iter() {
        for command in aggregate.command_names() {
            assert!(page.contains(&format!("`{command}")), "docs/contexts.md lacks the command {command}");
        }
    }
}
