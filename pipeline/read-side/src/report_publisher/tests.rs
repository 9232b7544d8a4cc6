//! What of the outboxes is looked at, and what the log tells of trouble.

use millstream_contract::stream_names::EVENTS;
use millstream_domain::projection::Rows as _;
use millstream_store::read_store::{Changes, Checkpoint, Durability, ProjectionRows};

use super::*;

/// Open rows of 3,000 keys, and behind them a sealed one.
fn outbox(folder: &std::path::Path) -> Outbox {
    let store = ReadStore::open(&folder.join("rows.redb"), 1024 * 1024).unwrap();
    let projection = ProjectionId::of_context("test", "tally");
    let snapshot = store.snapshot().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &projection, [OUTBOX]);
    for number in 0..3_000 {
        let key = format!("test/tally/2012-01-31/{number:05}#000001");
        rows.put(OUTBOX, &key, br#"{"revision":1,"status":"open"}"#.to_vec());
    }
    let sealed = br#"{"revision":1,"status":"sealed"}"#.to_vec();
    rows.put(OUTBOX, "test/tally/2012-01-31/last#000001", sealed);
    let checkpoint = Some(Checkpoint::start("generation", 1, 0));
    let changes = Changes { projection: projection.clone(), rows, checkpoint };
    store.commit(vec![changes], Durability::Durable).unwrap();
    let table = TableName::new(&projection, OUTBOX);
    Outbox { store, projection, table, stream: EVENTS, wanted: Wanted::NotOpen, bytes_max: 1_000 }
}

/// Rows that were passed by did not count, so that one look went through the whole outbox.
#[test]
fn look_ends_after_so_many_rows_whether_they_are_wanted_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = outbox(folder.path());
    let first = outbox.take(None).unwrap().unwrap();
    assert!(first.by_subject.is_empty() && first.passed_by);
    assert_eq!(first.after.as_deref(), Some("test/tally/2012-01-31/01999#000001"));
    let second = outbox.take(first.after.as_deref()).unwrap().unwrap();
    let subjects: Vec<_> = second.by_subject.into_keys().collect();
    assert_eq!((subjects, second.after), (vec!["report.test.tally.last.2012-01-31".to_owned()], None));
    outbox.wanted = Wanted::All;
    assert_eq!(outbox.take(None).unwrap().unwrap().by_subject.len(), ROWS_MAX);
    outbox.wanted = Wanted::Sealed;
    assert!(outbox.take(None).unwrap().unwrap().by_subject.is_empty());
}

/// While REPORTS was full, the log had one ERROR a second.
#[test]
fn trouble_is_told_when_it_begins_changes_and_ends() {
    let mut told = Told::default();
    let passes = [None, Some("full"), Some("full"), Some("gone"), None, None];
    assert_eq!(passes.map(|trouble| told.lacks(trouble)), [false, true, false, true, true, false]);
}
