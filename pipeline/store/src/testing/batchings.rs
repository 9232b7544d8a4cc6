//! Folds the same history through the real read store, cut into transactions in several ways. Some messages are read again, as if a reader had
//! been made anew; what an earlier batch already holds is then skipped because of its checkpoint. Each batch is applied once after the previous
//! one was written, and once before.

use millstream_contract::commit::StoredCommit;
use millstream_domain::{
    projection::{Projection, Rows},
    testing::{
        memory_rows::MemoryRows,
        project::{History, apply, assert_resumable},
    },
};
use redb::backends::InMemoryBackend;

use crate::read_store::{
    Changes, Checkpoint, Durability, ProjectionId, ProjectionRows, ReadStore, Uncommitted,
};

/// How many commits a transaction holds: one, a few, or all of them.
const BATCHES: [usize; 4] = [1, 2, 5, usize::MAX];
/// How many commits come again with the batch after theirs.
const REPEATED: usize = 2;
/// Histories of tests are small.
const CACHE_SIZE: usize = 1024 * 1024;

/// Folds a history in every legal way: again from every checkpoint ([`assert_resumable`]), then through the real read store in transactions of
/// several sizes, with commits that come again. Demands the same rows each time, and returns them.
///
/// # Panics
/// When the rows differ, the projection halts, or the store fails.
pub fn assert_repeatable(projection: &dyn Projection, history: &History) -> MemoryRows {
    let whole = assert_resumable(projection, history);
    assert_batchings_agree(projection, history.commits(), &whole);
    whole
}

/// Demands the rows of `whole`, however the batches are cut.
fn assert_batchings_agree(projection: &dyn Projection, commits: &[StoredCommit], whole: &MemoryRows) {
    for batch in BATCHES {
        for ahead in [false, true] {
            let rows = folded(projection, commits, batch, ahead);
            let how = if ahead { ", each over the one before" } else { "" };
            assert_eq!(rows.dump(), whole.dump(), "{} in batches of {batch}{how}", projection.name());
        }
    }
}

/// With `ahead`, a batch is written after the next one has been applied.
fn folded(projection: &dyn Projection, commits: &[StoredCommit], size: usize, ahead: bool) -> MemoryRows {
    let store = ReadStore::with_backend(InMemoryBackend::new(), CACHE_SIZE).expect("memory takes a store");
    let id = ProjectionId::of_context(projection.context(), projection.name());
    let mut after: u64 = 0;
    let mut beneath: Option<Uncommitted> = None;
    let write = |changes: &Uncommitted| {
        store.commit_prepared(changes, Durability::Volatile).expect("memory can be written");
    };
    for batch in commits.chunks(size.min(commits.len()).max(1)) {
        let through = batch.last().map_or(after, |commit| commit.broker_sequence);
        let snapshot = store.snapshot().expect("memory can be read");
        // What was read before the reader was made anew, and the batch.
        let first = batch.first().map_or(0, |commit| commit.broker_sequence).saturating_sub(REPEATED as u64);
        let read = commits.iter().filter(|commit| (first..=through).contains(&commit.broker_sequence));
        let unseen: Vec<StoredCommit> =
            read.filter(|commit| commit.broker_sequence > after).cloned().collect();
        let tables = projection.tables().iter().copied();
        let mut rows = ProjectionRows::above(&snapshot, beneath.as_ref(), &id, tables);
        apply(projection, &unseen, &mut rows);
        assert_eq!(rows.undeclared_table(), None, "{} writes a table undeclared", projection.name());
        let start = Checkpoint::start("of-a-test", projection.version(), 0);
        let checkpoint = Checkpoint { sequence: through, message_id: through.to_string(), ..start };
        let changes = Changes { projection: id.clone(), rows, checkpoint: Some(checkpoint) };
        let changes = Uncommitted::new(vec![changes]);
        if ahead {
            beneath.replace(changes).iter().for_each(write);
            after = through;
        } else {
            write(&changes);
            let snapshot = store.snapshot().expect("memory can be read");
            after = snapshot.checkpoint(&id).expect("memory can be read").map_or(0, |found| found.sequence);
        }
    }
    beneath.iter().for_each(write);
    let snapshot = store.snapshot().expect("memory can be read");
    let stored = ProjectionRows::new(&snapshot, &id, projection.tables().iter().copied());
    let mut rows = MemoryRows::new();
    for table in projection.tables() {
        for (key, value) in stored.scan(table, "").expect("memory can be read") {
            rows.put(table, &key, value);
        }
    }
    rows
}
