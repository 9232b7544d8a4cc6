//! What travels together, and how far that has come.

use super::*;
use crate::process_runner::outbox::key;

fn row(sequence: u64, text: &str) -> Waiting {
    let row = match text.strip_prefix("cancel ") {
        Some(name) => serde_json::json!({ "effect": "cancel-timer", "name": name }),
        None => serde_json::json!({ "effect": "send", "command": {
            "id": format!("p:{sequence}.1.0"), "address": format!("test.valley.{text}.answer"), "body": "{}",
            "actor": "process:p", "correlation_id": "c", "causation_id": "e",
        }}),
    };
    Waiting {
        key: key(sequence, 1, 0),
        value: row.to_string().into_bytes(),
        row: serde_json::from_value(row).unwrap(),
    }
}

fn sequences<'w>(rows: impl IntoIterator<Item = &'w Waiting>) -> Vec<u64> {
    rows.into_iter().filter_map(|waiting| sequence(&waiting.key)).collect()
}

#[test]
fn only_commands_of_aggregates_that_have_several_need_each_other() {
    let rows = ["a", "b", "cancel x", "c", "b", "cancel x", "cancel y", "b"];
    let sorted = Sorted::new((1..).zip(rows).map(|(sequence, text)| row(sequence, text)).collect());
    assert_eq!(sequences(&sorted.flat), [1, 4]);
    assert_eq!(sorted.deep.iter().flatten().map(sequences).collect::<Vec<_>>(), [[2, 5, 8]]);
    assert_eq!(sorted.timers.iter().map(sequences).collect::<Vec<_>>(), [vec![3, 6], vec![7]]);
    assert!(sorted.postponed.is_empty());
}

#[test]
fn groups_hold_what_a_batch_takes_and_never_part_of_an_aggregate_before_its_beginning() {
    let long = (1..=GROUP_MAX as u64 + 5).map(|sequence| row(sequence, "long"));
    let others = (2_000..2_900).map(|sequence| row(sequence, &format!("other-{}", sequence / 3)));
    let sorted = Sorted::new(long.chain(others).collect());
    assert_eq!(
        sequences(&sorted.postponed),
        (GROUP_MAX as u64 + 1..=GROUP_MAX as u64 + 5).collect::<Vec<_>>()
    );
    assert_eq!(sorted.deep.len(), 2);
    for group in &sorted.deep {
        assert!(group.iter().map(Vec::len).sum::<usize>() <= GROUP_MAX);
        assert!(group.iter().all(|lane| sequences(lane).is_sorted()));
    }
    let sent: usize = sorted.deep.iter().flatten().map(Vec::len).sum();
    assert_eq!(sent + sorted.flat.len(), GROUP_MAX + 900);
}

#[test]
fn progress_ends_before_the_first_event_of_which_something_is_left() {
    let mut carried = Carried::default();
    carried.leave(&row(9, "a"));
    carried.leave(&row(7, "b"));
    let mut all = Carried::default();
    all.leave(&row(8, "c"));
    all.add(carried);
    assert_eq!((all.first_left, all.left), (Some(7), 3));
}
