//! Power cuts at every single write, sync and change of length of a workload: checkpoint and rows always agree, and
//! nothing that was committed durably is gone.

use millstream_domain::projection::Rows as _;

use super::{super::*, CACHE};
use crate::testing::crash_storage::{CrashStorage, Survivors};

const TRANSACTIONS: u64 = 24;
const DURABLE_EVERY: u64 = 5;
const PROJECTIONS: [&str; 2] = ["stock", "sales"];

fn id(name: &str) -> ProjectionId {
    ProjectionId::of_context("retail", name)
}

/// What message `sequence` does to the rows of every projection.
fn apply(sequence: u64, rows: &mut ProjectionRows<'_>) {
    rows.put("t", &format!("slot-{}", sequence % 7), sequence.to_string().into_bytes());
    rows.put("t", &format!("row-{sequence:04}"), vec![b'7'; 700]);
    if sequence.is_multiple_of(3) {
        rows.delete("t", &format!("row-{:04}", sequence - 2));
    }
}

/// The rows after the messages up to `sequence`, worked out from nothing.
fn expected(sequence: u64) -> Vec<(String, Vec<u8>)> {
    let store = ReadStore::with_backend(redb::backends::InMemoryBackend::new(), CACHE).unwrap();
    let snapshot = store.snapshot().unwrap();
    let mut rows = ProjectionRows::new(&snapshot, &id("x"), ["t"]);
    for each in 1..=sequence {
        apply(each, &mut rows);
    }
    rows.scan("t", "").unwrap()
}

/// Commits one message a transaction until the disk fails; says which was the last durable and which the last begun.
fn work(storage: &CrashStorage) -> (u64, u64) {
    let Ok(store) = ReadStore::with_backend(storage.clone(), CACHE) else { return (0, 0) };
    let mut durable = 0;
    for sequence in 1..=TRANSACTIONS {
        let Ok(snapshot) = store.snapshot() else { return (durable, sequence) };
        let changes = PROJECTIONS.map(|name| {
            let mut rows = ProjectionRows::new(&snapshot, &id(name), ["t"]);
            apply(sequence, &mut rows);
            let checkpoint = Checkpoint { sequence, ..Checkpoint::start("g", 1, 0) };
            Changes { projection: id(name), rows, checkpoint: Some(checkpoint) }
        });
        let durability = match sequence % DURABLE_EVERY {
            0 => Durability::Durable,
            _ => Durability::Volatile,
        };
        if store.commit(changes.into(), durability).is_err() {
            return (durable, sequence);
        }
        if durability == Durability::Durable {
            durable = sequence;
        }
    }
    (durable, TRANSACTIONS)
}

fn check(image: Vec<u8>, durable: u64, begun: u64, story: &str) {
    let store = match ReadStore::with_backend(CrashStorage::new(image, None), CACHE) {
        Ok(store) => store,
        // The power went while redb made the file, which `ReadStore::open` does under another name.
        Err(error) if durable == 0 && error.is_damage() => return,
        Err(error) => panic!("{story}: does not open again: {error}"),
    };
    let snapshot = store.snapshot().unwrap();
    let reached = PROJECTIONS.map(|name| {
        let sequence = snapshot.checkpoint(&id(name)).unwrap().map_or(0, |checkpoint| checkpoint.sequence);
        let rows = ProjectionRows::new(&snapshot, &id(name), ["t"]).scan("t", "").unwrap();
        assert_eq!(
            rows,
            expected(sequence),
            "{story}: rows of {name} are not those of its checkpoint {sequence}"
        );
        sequence
    });
    assert_eq!(reached[0], reached[1], "{story}: one transaction, two checkpoints");
    assert!((durable..=begun).contains(&reached[0]), "{story}: at {}, durable {durable}", reached[0]);
}

#[test]
fn rows_and_checkpoint_agree_after_a_power_cut_at_any_operation() {
    let whole = CrashStorage::default();
    assert_eq!(work(&whole), (TRANSACTIONS - TRANSACTIONS % DURABLE_EVERY, TRANSACTIONS));
    let operations = whole.operations();
    assert!(operations > 100, "only {operations} crash points: the workload is too small to say anything");
    for at in 1..=operations {
        let storage = CrashStorage::new(Vec::new(), Some(at));
        let (durable, begun) = work(&storage);
        let survivors = [Survivors::None, Survivors::All, Survivors::Some { seed: at * 0x9e37_79b9 }];
        for survivors in survivors {
            let story = format!("operation {at} of {operations}, {survivors:?}");
            check(storage.after_power_cut(survivors), durable, begun, &story);
        }
    }
}

#[test]
fn full_disk_is_named_and_nothing_is_half_written() {
    let storage = CrashStorage::default();
    let operations_of_opening = {
        drop(ReadStore::with_backend(storage.clone(), CACHE).unwrap());
        storage.operations()
    };
    let image = storage.after_power_cut(Survivors::All);
    let failing = CrashStorage::new(image, Some(operations_of_opening));
    let store = ReadStore::with_backend(failing.clone(), CACHE).unwrap();
    let error = (1..=1_000)
        .find_map(|sequence| {
            let snapshot = store.snapshot().unwrap();
            let mut rows = ProjectionRows::new(&snapshot, &id("stock"), ["t"]);
            apply(sequence, &mut rows);
            let checkpoint = Some(Checkpoint { sequence, ..Checkpoint::start("g", 1, 0) });
            store
                .commit(vec![Changes { projection: id("stock"), rows, checkpoint }], Durability::Durable)
                .err()
        })
        .expect("the disk is full at some point");
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
}
