//! The read store over real files. Crashes are in [`crash`].

mod crash;

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    os::unix::fs::FileExt as _,
};

use millstream_domain::projection::{ProjectionError, Rows};
use proptest::prelude::*;

use super::*;

const CACHE: usize = 1024 * 1024;

fn open(folder: &tempfile::TempDir) -> ReadStore {
    ReadStore::open(&folder.path().join("rows.redb"), CACHE).unwrap()
}

fn stock() -> ProjectionId {
    ProjectionId::of_context("retail", "stock")
}

fn checkpoint(sequence: u64) -> Checkpoint {
    Checkpoint { sequence, message_id: format!("commit-{sequence}"), ..Checkpoint::start("g", 1, 0) }
}

fn write(
    store: &ReadStore,
    sequence: u64,
    durability: Durability,
    change: impl FnOnce(&mut ProjectionRows<'_>),
) {
    let snapshot = store.snapshot().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &stock(), ["stock", "outbox"]);
    change(&mut rows);
    let changes = Changes { projection: stock(), rows, checkpoint: Some(checkpoint(sequence)) };
    store.commit(vec![changes], durability).unwrap();
}

fn get(store: &ReadStore, key: &str) -> Option<Vec<u8>> {
    store.snapshot().unwrap().get(&TableName::new(&stock(), "stock"), key).unwrap()
}

fn dump(store: &ReadStore) -> String {
    let mut text = Vec::new();
    store.snapshot().unwrap().dump(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn rows_and_checkpoint_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 7, Durability::Durable, |rows| rows.put("stock", "a", b"1".to_vec()));
    drop(store);
    let store = open(&folder);
    assert_eq!(get(&store, "a"), Some(b"1".to_vec()));
    assert_eq!(store.snapshot().unwrap().checkpoint(&stock()).unwrap(), Some(checkpoint(7)));
}

#[test]
fn snapshot_does_not_see_later_commits() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 1, Durability::Volatile, |rows| rows.put("stock", "a", b"1".to_vec()));
    let before = store.snapshot().unwrap();
    write(&store, 2, Durability::Volatile, |rows| rows.put("stock", "a", b"2".to_vec()));
    assert_eq!(before.get(&TableName::new(&stock(), "stock"), "a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(before.checkpoint(&stock()).unwrap(), Some(checkpoint(1)));
}

#[test]
fn reset_removes_all_rows_of_the_projection_and_of_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 5, Durability::Volatile, |rows| rows.put("stock", "a", b"1".to_vec()));
    // Its id starts with the same letters.
    let other = ProjectionId::of_context("retail", "stock-taking");
    let snapshot = store.snapshot().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &other, ["t"]);
    rows.put("t", "k", b"2".to_vec());
    let changes = Changes { projection: other.clone(), rows, checkpoint: Some(checkpoint(5)) };
    store.commit(vec![changes], Durability::Volatile).unwrap();

    store.reset(&stock(), &Checkpoint::start("h", 2, 9)).unwrap();
    assert_eq!(get(&store, "a"), None);
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.checkpoint(&stock()).unwrap(), Some(Checkpoint::start("h", 2, 9)));
    assert_eq!(snapshot.get(&TableName::new(&other, "t"), "k").unwrap(), Some(b"2".to_vec()));
}

#[test]
fn kept_row_is_what_a_written_one_would_be() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 1, Durability::Volatile, |rows| {
        let rows: &mut dyn Rows = rows;
        rows.write("stock", "before", &vec![0]);
        rows.write_decoded("stock", "a", vec![1, 2]);
        assert_eq!(rows.read_decoded("stock", "a").unwrap(), Some(vec![1, 2]));
        assert_eq!(rows.read("stock", "a").unwrap(), Some(vec![1, 2]));
        assert_eq!(rows.read_decoded::<(u8, u8)>("stock", "a").unwrap(), Some((1, 2)), "as another type");
        assert_eq!(rows.read_decoded("stock", "before").unwrap(), Some(vec![0]));
        assert_eq!(rows.scan("stock", "a").unwrap(), [("a".to_owned(), b"[1,2]".to_vec())]);
        assert!(rows.read_decoded::<String>("stock", "a").unwrap_err().to_string().contains("decode"));
        rows.write_decoded("stock", "b", "gone");
        rows.delete("stock", "b");
        assert_eq!(rows.read_decoded::<String>("stock", "b").unwrap(), None);
        rows.write("stock", "count", &1);
        for _ in 0..2 {
            rows.update("stock", "count", |count: &mut i64| *count += 1).unwrap();
            rows.update("stock", "absent", |count: &mut i64| *count += 1).unwrap();
        }
    });
    assert_eq!((get(&store, "count"), get(&store, "absent")), (Some(b"3".to_vec()), Some(b"2".to_vec())));
    assert_eq!((get(&store, "a"), get(&store, "b")), (Some(b"[1,2]".to_vec()), None));
    write(&store, 2, Durability::Volatile, |rows| {
        let rows: &mut dyn Rows = rows;
        assert_eq!(rows.read_decoded("stock", "a").unwrap(), Some(vec![1, 2]));
        rows.write_decoded("stock", "a", 3);
        rows.write("stock", "a", &4);
        assert_eq!(rows.read_decoded("stock", "a").unwrap(), Some(4));
    });
    assert_eq!(get(&store, "a"), Some(b"4".to_vec()));
}

#[test]
fn many_rows_of_many_tables_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let tables = ["stock", "low", "negative", "outbox"];
    let snapshot = store.snapshot().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &stock(), tables);
    for number in 0..4_000 {
        for table in tables {
            rows.put(table, &format!("{:04}", number * 7_919 % 4_000), table.as_bytes().to_vec());
        }
    }
    let changes = Changes { projection: stock(), rows, checkpoint: Some(checkpoint(3)) };
    store.commit(vec![changes], Durability::Durable).unwrap();
    drop((snapshot, store));
    let snapshot = open(&folder).snapshot().unwrap();
    for table in tables {
        let mut expected = 0;
        let all = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
        let name = TableName::new(&stock(), table);
        let visited = snapshot.visit(&name, all, Direction::Ascending, |key, value| {
            assert_eq!((key, value), (format!("{expected:04}").as_str(), table.as_bytes()));
            expected += 1;
            ControlFlow::Continue(())
        });
        visited.unwrap();
        assert_eq!(expected, 4_000, "{table}");
    }
    assert_eq!(snapshot.checkpoint(&stock()).unwrap(), Some(checkpoint(3)));
}

#[test]
fn row_that_is_on_its_way_is_not_altered_by_the_next_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let snapshot = store.snapshot().unwrap();
    let mut beneath = None;
    let mut uncommitted = Vec::new();
    for _ in 0..3 {
        let mut rows = ProjectionRows::above(&snapshot, beneath.as_ref(), &stock(), ["stock"]);
        (&mut rows as &mut dyn Rows).update("stock", "a", |count: &mut u64| *count += 1).unwrap();
        let changes = Uncommitted::new(vec![Changes { projection: stock(), rows, checkpoint: None }]);
        uncommitted.extend(beneath.replace(changes));
    }
    uncommitted.extend(beneath);
    for (changes, count) in uncommitted.iter().zip(1..) {
        store.commit_prepared(changes, Durability::Volatile).unwrap();
        assert_eq!(get(&store, "a"), Some(format!("{count}").into_bytes()));
    }
}

#[test]
fn undeclared_table_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let snapshot = store.snapshot().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &stock(), ["stock"]);
    assert!(rows.get("prices", "a").unwrap_err().to_string().contains("prices"));
    assert_eq!(rows.undeclared_table(), None);
    rows.put("prices", "a", b"1".to_vec());
    assert_eq!(rows.undeclared_table(), Some("prices"));
}

fn keys(
    snapshot: &Snapshot,
    lower: Bound<&str>,
    upper: Bound<&str>,
    direction: Direction,
    limit: usize,
) -> String {
    let mut keys = String::new();
    let range = KeyRange { lower, upper };
    let visited = snapshot.visit(&TableName::new(&stock(), "stock"), range, direction, |key, value| {
        assert_eq!(key.as_bytes(), value);
        keys.push_str(key);
        if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    visited.unwrap();
    keys
}

#[test]
fn ranges_are_visited_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 1, Durability::Volatile, |rows| {
        for key in ["a", "b", "c", "d", "e"] {
            rows.put("stock", key, key.as_bytes().to_vec());
        }
    });
    let snapshot = store.snapshot().unwrap();
    let (up, down) = (Direction::Ascending, Direction::Descending);
    assert_eq!(keys(&snapshot, Bound::Unbounded, Bound::Unbounded, up, 9), "abcde");
    assert_eq!(keys(&snapshot, Bound::Unbounded, Bound::Unbounded, down, 2), "ed");
    assert_eq!(keys(&snapshot, Bound::Excluded("a"), Bound::Excluded("d"), up, 9), "bc");
    assert_eq!(keys(&snapshot, Bound::Included("b"), Bound::Included("d"), down, 9), "dcb");
    assert_eq!(keys(&snapshot, Bound::Included("d"), Bound::Excluded("b"), up, 9), "");
    assert_eq!(keys(&snapshot, Bound::Excluded("b"), Bound::Excluded("b"), up, 9), "");
}

#[test]
fn dump_is_sorted_and_leaves_out_work_in_hand() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 3, Durability::Volatile, |rows| {
        rows.put("stock", "b\"", b"{\"n\":2}".to_vec());
        rows.put("stock", "a", b"1".to_vec());
        rows.put("outbox", "x", b"0".to_vec());
    });
    assert_eq!(
        dump(&store),
        concat!(
            "{\"table\":\"retail.stock.stock\",\"key\":\"a\",\"value\":1}\n",
            "{\"table\":\"retail.stock.stock\",\"key\":\"b\\\"\",\"value\":{\"n\":2}}\n",
            "{\"checkpoint\":\"retail.stock\",\"sequence\":3,\"message_id\":\"commit-3\",\"version\":1}\n",
        )
    );
}

#[test]
fn second_opening_of_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(&folder);
    let error = ReadStore::open(&folder.path().join("rows.redb"), CACHE).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[test]
fn foreign_file_is_refused_and_can_be_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    std::fs::write(&path, b"this is a letter, not a database").unwrap();
    let error = ReadStore::open(&path, CACHE).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("rows.redb is damaged"), "{error}");

    let aside = crate::file::set_aside(&path).unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), b"this is a letter, not a database");
    assert_eq!(dump(&open(&folder)), "");
}

#[test]
fn truncated_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 1, Durability::Durable, |rows| {
        for number in 0..1_000 {
            rows.put("stock", &format!("{number:04}"), vec![b'1'; 100]);
        }
    });
    drop(store);
    let path = folder.path().join("rows.redb");
    let length = std::fs::metadata(&path).unwrap().len();
    for share in [0.9, 0.5, 0.01] {
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a small file"
        )]
        file.set_len((length as f64 * share) as u64).unwrap();
        drop(file);
        let error = ReadStore::open(&path, CACHE).unwrap_err();
        assert!(error.is_damage(), "{share}: {error:?}");
    }
}

/// A change to a table, and whether the transaction ends after it.
fn any_change() -> impl Strategy<Value = (String, Option<Vec<u8>>, bool)> {
    ("[ab]{0,3}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3)), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_read_as_last_written_within_and_across_transactions(
        changes in proptest::collection::vec(any_change(), 1..40),
        prefix in "[ab]{0,2}",
        ahead: bool,
    ) {
        let storage = redb::backends::InMemoryBackend::new();
        let store = ReadStore::with_backend(storage, CACHE).unwrap();
        let mut model = BTreeMap::new();
        let mut changes = changes.into_iter().peekable();
        let mut beneath: Option<Uncommitted> = None;
        let write = |changes: &Uncommitted| store.commit_prepared(changes, Durability::Volatile).unwrap();
        while changes.peek().is_some() {
            let snapshot = store.snapshot().unwrap();
            let mut rows = ProjectionRows::above(&snapshot, beneath.as_ref(), &stock(), ["stock"]);
            for (key, value, last) in changes.by_ref() {
                match &value {
                    Some(value) => {
                        rows.put("stock", &key, value.clone());
                        model.insert(key.clone(), value.clone());
                    }
                    None => {
                        rows.delete("stock", &key);
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(rows.get("stock", &key).unwrap(), value);
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                prop_assert_eq!(rows.scan("stock", &prefix).unwrap(), expected);
                if last {
                    break;
                }
            }
            let changes = Uncommitted::new(vec![Changes { projection: stock(), rows, checkpoint: None }]);
            match ahead {
                true => beneath.replace(changes).iter().for_each(write),
                false => write(&changes),
            }
        }
        beneath.iter().for_each(write);
        let everything = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
        let table = TableName::new(&stock(), "stock");
        let mut rows = Vec::new();
        let visited = store.snapshot().unwrap().visit(&table, everything, Direction::Ascending, |key, value| {
            rows.push((key.to_owned(), value.to_vec()));
            ControlFlow::Continue(())
        });
        visited.unwrap();
        prop_assert_eq!(rows, model.into_iter().collect::<Vec<_>>());
    }
}

/// One bit of a row that flipped on the disk was served as data.
#[test]
fn row_that_changed_on_the_disk_is_not_served_and_the_file_is_damaged_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let marker = br#"{"quantity":7777}"#;
    write(&store, 1, Durability::Durable, |rows| rows.put("stock", "apples", marker.to_vec()));
    drop(store);
    let path = folder.path().join("rows.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<_> = bytes.windows(marker.len()).enumerate().filter(|(_, it)| it == marker).collect();
    let places: Vec<_> = places.into_iter().map(|(place, _)| place).collect();
    for place in places {
        // 7777 becomes 7767.
        *bytes.get_mut(place + 14).unwrap() ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();

    let store = open(&folder);
    assert!(store.damage().is_none());
    let table = TableName::new(&stock(), "stock");
    let error = store.snapshot().unwrap().get(&table, "apples").unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("apples"), "{error}");
    assert_eq!(store.damage().unwrap().to_string(), error.to_string());
    drop(store);
    assert!(ReadStore::open(&path, CACHE).unwrap_err().is_damage());
    let (store, aside) = ReadStore::open_or_begin_anew(&path, CACHE).unwrap();
    assert!(aside.is_some());
    assert_eq!(dump(&store), "");
}

/// redb panics on a page of a kind that it does not know; in the thread that writes, such a panic once ended the stage, at every start,
/// without a word about the file, and in a projection that looks up a row it halted the projection for ever.
#[test]
fn damaged_page_that_anybody_meets_is_damage_of_the_file() {
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.redb");
    let keys: Vec<String> = (0..500).map(|number| format!("{number:04}")).collect();
    let put_all = |rows: &mut ProjectionRows<'_>| {
        for key in &keys {
            rows.put("stock", key, vec![b'1'; 100]);
        }
    };
    let commit = |store: &ReadStore, snapshot: &Snapshot| {
        let mut rows = ProjectionRows::new(snapshot, &stock(), ["stock", "outbox"]);
        put_all(&mut rows);
        store.commit(vec![Changes { projection: stock(), rows, checkpoint: None }], Durability::Volatile)
    };
    let of_store = |error| match error {
        ProjectionError::Store(error) => *error.downcast::<StoreError>().unwrap(),
        other => panic!("{other}"),
    };
    let get = |_: &ReadStore, snapshot: &Snapshot| {
        let rows = ProjectionRows::new(snapshot, &stock(), ["stock"]);
        keys.iter().try_for_each(|key| rows.get("stock", key).map(drop)).map_err(of_store)
    };
    let scan = |_: &ReadStore, snapshot: &Snapshot| {
        let rows = ProjectionRows::new(snapshot, &stock(), ["stock"]);
        rows.scan("stock", "").map(drop).map_err(of_store)
    };
    let list = |_: &ReadStore, snapshot: &Snapshot| snapshot.dump(&mut std::io::sink());
    type Work<'w> = &'w dyn Fn(&ReadStore, &Snapshot) -> Result<(), StoreError>;
    let works: [(&str, Work<'_>); 4] = [("commit", &commit), ("get", &get), ("scan", &scan), ("dump", &list)];
    let store = open(&folder);
    write(&store, 1, Durability::Durable, put_all);
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    let pages = bytes.chunks(PAGE).enumerate().skip(1);
    let used = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0)).map(|(page, _)| page);
    let used: Vec<_> = used.collect();
    for (what, work) in works {
        let mut met = 0;
        for page in &used {
            std::fs::write(&path, &bytes).unwrap();
            // redb keeps no page in memory, and sees what changes on the disk.
            let store = ReadStore::open(&path, 0).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0xee; PAGE], (page * PAGE) as u64).unwrap();
            let done = store.snapshot().and_then(|snapshot| work(&store, &snapshot));
            if let Err(error) = done {
                met += 1;
                assert!(error.is_damage(), "{what}, page {page}: {error:?}");
                assert!(store.damage().is_some(), "{what}, page {page}");
                drop(store);
                assert!(ReadStore::open(&path, CACHE).unwrap_err().is_damage(), "{what}, page {page}");
                std::fs::remove_file(&path).unwrap();
                drop(ReadStore::open(&path, CACHE).unwrap());
            }
        }
        assert!(met > 0, "no {what} has met a damaged page");
    }
}

/// With `rebuild`, one query that our own code panics over made the stage build all rows anew.
#[test]
fn panic_of_whoever_looks_at_rows_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    write(&store, 1, Durability::Volatile, |rows| rows.put("stock", "a", b"1".to_vec()));
    let snapshot = store.snapshot().unwrap();
    let all = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
    let visited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let table = TableName::new(&stock(), "stock");
        snapshot.visit(&table, all, Direction::Ascending, |_, _| panic!("a mistake of ours"))
    }));
    assert!(visited.is_err());
    assert!(store.damage().is_none(), "{:?}", store.damage());
}
