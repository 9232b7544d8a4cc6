//! Snapshots of aggregate states in a redb file. The file is complete up to a sequence of EVENTS, its `through`: if an aggregate's last commit
//! is at or before it, the file has the newest state. So a handler knows the aggregates once it has read what follows, and an aggregate that is
//! not in the file is probably new. It may also be missing because its state could not be folded, or because its snapshot was altered on the
//! disk.
//!
//! Snapshots are only a shortcut, and the file may be lost: the expected sequence of an append, or a read from the leader, proves the state on
//! which a decision rests.
//!
//! Deliberately absent: the encoding of a state ([`crate::aggregate_state`]). This module only sees bytes.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_contract::{commit::COMMIT_HASH_LENGTH, subject::StreamId};
use millstream_runtime::metrics::Count;
pub use millstream_store::error::StoreError;
use millstream_store::text_key::TextKey;
use redb::{
    Durability, ReadOnlyTable, ReadableTableMetadata as _, TableDefinition, backends::InMemoryBackend,
};

use crate::handler_file::{HandlerFile, Home};

/// Maps a stream id to an encoded snapshot.
const SNAPSHOTS: TableDefinition<TextKey, &[u8]> = TableDefinition::new("snapshots");
/// `generation`, `aggregates`, `through` and `newest`, as text. Releases that did not write `aggregates` could claim in `through` commits whose
/// states they did not have.
const META: TableDefinition<&str, &str> = TableDefinition::new("meta");

/// A commit, identified by its sequence in EVENTS and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedCommit {
    /// Its sequence.
    pub sequence: u64,
    /// Its [`millstream_contract::commit::commit_hash`].
    pub hash: [u8; COMMIT_HASH_LENGTH],
}

impl NamedCommit {
    fn text(self) -> String {
        format!("{} {:032x}", self.sequence, u128::from_be_bytes(self.hash))
    }

    fn parse(text: &str) -> Option<Self> {
        let (sequence, hash) = text.split_once(' ')?;
        let hash = u128::from_str_radix(hash, 16).ok()?.to_be_bytes();
        Some(Self { sequence: sequence.parse().ok()?, hash })
    }
}

/// Snapshots that are to be written to the file.
#[derive(Debug)]
pub struct SnapshotBatch {
    /// The snapshots to write, in the order of their ids.
    pub snapshots: Vec<(StreamId, Vec<u8>)>,
    /// The sequence of EVENTS up to which the file is complete with this batch. Such a batch is synced to the disk. `None` for a batch with
    /// only a part of the changes.
    pub through: Option<u64>,
    /// The newest commit in any snapshot, of this batch or of the file.
    pub newest: Option<NamedCommit>,
}

impl SnapshotBatch {
    /// The snapshot of an aggregate, if it is in this batch.
    pub fn get(&self, stream_id: &StreamId) -> Option<&[u8]> {
        let place = self.snapshots.binary_search_by(|(id, _)| id.as_str().cmp(stream_id.as_str())).ok()?;
        self.snapshots.get(place).map(|(_, snapshot)| snapshot.as_slice())
    }
}

/// The current EVENTS, for a program that begins to follow it.
#[derive(Debug, Clone)]
pub struct FollowedEvents {
    /// Its incarnation.
    pub generation: String,
    /// Its end.
    pub last_sequence: u64,
    /// The aggregates whose states are kept, each with the version of its state's shape.
    pub aggregates: String,
    /// Whether the newest known commit still stands at its sequence.
    pub intact: bool,
}

/// The file. Clones share it.
#[derive(Debug, Clone)]
pub struct StateSnapshots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Mutex<Arc<HandlerFile>>,
    /// `None` for snapshots in memory.
    home: Option<Home>,
}

impl StateSnapshots {
    /// Opens the file, or creates it. redb keeps at most `cache_size` bytes of it in memory. A damaged file is set aside and counted
    /// in `damaged`.
    ///
    /// # Errors
    /// [`StoreError`], also when another process owns the file.
    pub fn open(path: &Path, cache_size: usize, damaged: &Count) -> Result<Self, StoreError> {
        let home = Home::new(path, cache_size, damaged.clone());
        Self::with_file(home.open()?, Some(home))
    }

    /// Snapshots that live in memory only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::with_file(HandlerFile::with_backend(InMemoryBackend::new())?, None)
    }

    fn with_file(file: HandlerFile, home: Option<Home>) -> Result<Self, StoreError> {
        let snapshots = Self(Arc::new(Shared { file: Mutex::new(Arc::new(file)), home }));
        snapshots.healing(make_tables)?;
        Ok(snapshots)
    }

    /// Runs `work` on the file. If it shows that the file is damaged, an empty file takes its place and `work` runs on that.
    fn healing<T>(&self, work: impl Fn(&HandlerFile) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let Shared { home, .. } = &*self.0;
        let mut file = self.file();
        match (work(&file), home) {
            (Err(error), Some(home)) if error.is_damage() => {
                let anew = home.begin_anew(&error)?;
                make_tables(&anew)?;
                *file = Arc::new(anew);
                work(&file)
            }
            (done, _) => done,
        }
    }

    fn file(&self) -> MutexGuard<'_, Arc<HandlerFile>> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest commit in any snapshot. Blocking. A file that turns out to be damaged is set aside.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn newest(&self) -> Result<Option<NamedCommit>, StoreError> {
        self.healing(|file| Ok(read_meta(file)?.newest))
    }

    /// Begins to follow EVENTS. Snapshots of another generation, of a tail that the stream has lost, or of aggregates with other shapes are
    /// dropped, and a file that turns out to be damaged is set aside. Returns the sequence up to which the file is complete, or `None` if no
    /// snapshots are left. Blocking.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn follow(&self, events: &FollowedEvents) -> Result<Option<u64>, StoreError> {
        self.healing(|file| follow(file, events))
    }

    /// The current content of the file; `None` if it is empty.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn reader(&self) -> Result<Option<SnapshotReader>, StoreError> {
        let file = self.file().clone();
        let table = file.reading(|| {
            let table = file.begin_read()?.open_table(SNAPSHOTS).map_err(|source| file.table(source))?;
            let empty = table.is_empty().map_err(|source| file.storage(source))?;
            Ok((!empty).then_some(table))
        })?;
        Ok(table.map(|table| SnapshotReader { table, file }))
    }

    /// Writes a batch. Blocking.
    ///
    /// # Errors
    /// [`StoreError`]; the file then has nothing of the batch, and cannot be used until it is opened again.
    pub fn write(&self, batch: &SnapshotBatch) -> Result<(), StoreError> {
        let file = self.file().clone();
        file.writing(|| write(&file, batch))
    }

    /// Lets the next start set the file aside, if `error` has shown that it is damaged.
    pub(crate) fn mark(&self, error: &StoreError) {
        if let Some(home) = &self.0.home {
            home.mark(error);
        }
    }
}

/// The file's own metadata.
struct Meta {
    generation: Option<String>,
    aggregates: Option<String>,
    through: u64,
    newest: Option<NamedCommit>,
}

fn make_tables(file: &HandlerFile) -> Result<(), StoreError> {
    file.writing(|| {
        let write = file.begin_write()?;
        write.open_table(SNAPSHOTS).map_err(|source| file.table(source))?;
        write.open_table(META).map_err(|source| file.table(source))?;
        write.commit().map_err(|source| file.committed(source))
    })
}

fn read_meta(file: &HandlerFile) -> Result<Meta, StoreError> {
    file.reading(|| {
        let meta = file.begin_read()?.open_table(META).map_err(|source| file.table(source))?;
        let text = |key| -> Result<_, StoreError> {
            let text = meta.get(key).map_err(|source| file.storage(source))?;
            Ok(text.map(|text| text.value().to_owned()))
        };
        Ok(Meta {
            generation: text("generation")?,
            aggregates: text("aggregates")?,
            through: text("through")?.and_then(|text| text.parse().ok()).unwrap_or(0),
            newest: text("newest")?.and_then(|text| NamedCommit::parse(&text)),
        })
    })
}

fn follow(file: &HandlerFile, events: &FollowedEvents) -> Result<Option<u64>, StoreError> {
    let Meta { generation: known, aggregates, through, .. } = read_meta(file)?;
    let same_events =
        known.as_ref() == Some(&events.generation) && through <= events.last_sequence && events.intact;
    let same_shapes = aggregates.as_ref() == Some(&events.aggregates);
    if same_events && same_shapes {
        return Ok(Some(through));
    }
    if known.is_some() {
        let why = if same_events { "states of other shapes" } else { "other events" };
        tracing::warn!(why, "the snapshots are of no use any more; making them anew from EVENTS");
    }
    file.writing(|| {
        let write = file.begin_write()?;
        write.delete_table(SNAPSHOTS).map_err(|source| file.table(source))?;
        write.open_table(SNAPSHOTS).map_err(|source| file.table(source))?;
        {
            let mut meta = write.open_table(META).map_err(|source| file.table(source))?;
            let anew = [
                ("generation", events.generation.as_str()),
                ("aggregates", events.aggregates.as_str()),
                ("through", "0"),
            ];
            for (key, text) in anew {
                meta.insert(key, text).map_err(|source| file.storage(source))?;
            }
            meta.remove("newest").map_err(|source| file.storage(source))?;
        }
        write.commit().map_err(|source| file.committed(source))
    })?;
    Ok(None)
}

fn write(file: &HandlerFile, batch: &SnapshotBatch) -> Result<(), StoreError> {
    let mut write = file.begin_write()?;
    if batch.through.is_none() {
        write.set_durability(Durability::None).expect("no savepoint was made in this transaction");
        // A crash undoes this write, back to what was committed durably before.
        write.set_quick_repair(false);
    }
    {
        let mut snapshots = write.open_table(SNAPSHOTS).map_err(|source| file.table(source))?;
        for (stream_id, snapshot) in &batch.snapshots {
            snapshots
                .insert(stream_id.as_str(), snapshot.as_slice())
                .map_err(|source| file.storage(source))?;
        }
        let mut meta = write.open_table(META).map_err(|source| file.table(source))?;
        if let Some(through) = batch.through {
            meta.insert("through", through.to_string().as_str()).map_err(|source| file.storage(source))?;
        }
        if let Some(newest) = batch.newest {
            meta.insert("newest", newest.text().as_str()).map_err(|source| file.storage(source))?;
        }
    }
    write.commit().map_err(|source| file.committed(source))
}

/// The file as of one moment.
#[derive(Debug)]
pub struct SnapshotReader {
    table: ReadOnlyTable<TextKey, &'static [u8]>,
    file: Arc<HandlerFile>,
}

impl SnapshotReader {
    /// The snapshot of an aggregate.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, stream_id: &StreamId) -> Result<Option<Vec<u8>>, StoreError> {
        self.file.reading(|| {
            let value = self.table.get(stream_id.as_str()).map_err(|source| self.file.storage(source))?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn id(name: &str) -> StreamId {
        StreamId::new("bank", "account", name).unwrap()
    }

    fn batch(name: &str, through: u64) -> SnapshotBatch {
        let newest = Some(NamedCommit { sequence: through, hash: [0xab; COMMIT_HASH_LENGTH] });
        SnapshotBatch {
            snapshots: vec![(id(name), name.as_bytes().to_vec())],
            through: Some(through),
            newest,
        }
    }

    fn events_of(generation: &str) -> FollowedEvents {
        let (generation, aggregates) = (generation.to_owned(), "bank.account 1".to_owned());
        FollowedEvents { generation, last_sequence: 9, aggregates, intact: true }
    }

    fn open(path: &Path) -> StateSnapshots {
        StateSnapshots::open(path, 1 << 20, &Count::default()).unwrap()
    }

    #[test]
    fn snapshots_and_position_survive_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.redb");
        let snapshots = open(&path);
        assert_eq!(snapshots.follow(&events_of("g")).unwrap(), None);
        assert!(snapshots.reader().unwrap().is_none());
        snapshots.write(&batch("one", 7)).unwrap();
        drop(snapshots);

        let snapshots = open(&path);
        assert_eq!(snapshots.newest().unwrap(), batch("one", 7).newest);
        assert_eq!(snapshots.follow(&events_of("g")).unwrap(), Some(7));
        let reader = snapshots.reader().unwrap().unwrap();
        assert_eq!(reader.get(&id("one")).unwrap().unwrap(), b"one");
        assert_eq!(reader.get(&id("two")).unwrap(), None);
    }

    /// A handler that was killed soon after its start walked through all of its file, which at ten million aggregates took thirteen
    /// seconds: the transaction with which a file is opened had not said what belongs to what.
    #[test]
    fn file_is_not_walked_through_after_a_crash_whatever_came_last() {
        let folder = tempfile::tempdir().unwrap();
        let [path, crashed] = ["states.redb", "crashed.redb"].map(|name| folder.path().join(name));
        let repairs = |what: &str| {
            std::fs::copy(&path, &crashed).unwrap();
            let seen = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&seen);
            let mut builder = redb::Database::builder();
            builder.set_repair_callback(move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            drop(builder.open(&crashed).unwrap());
            assert_eq!(seen.load(Ordering::Relaxed), 0, "{what}");
        };
        let snapshots = open(&path);
        repairs("made");
        snapshots.follow(&events_of("g")).unwrap();
        repairs("begun");
        snapshots.write(&batch("one", 7)).unwrap();
        repairs("complete");
        snapshots.write(&SnapshotBatch { through: None, ..batch("two", 9) }).unwrap();
        repairs("a part written");
        drop(snapshots);
        let snapshots = open(&path);
        repairs("opened again");
        snapshots.follow(&events_of("h")).unwrap();
        repairs("dropped");
    }

    #[test]
    fn damaged_file_is_set_aside_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.redb");
        std::fs::write(&path, "a letter, no database").unwrap();
        let damaged = Count::default();
        let snapshots = StateSnapshots::open(&path, 1 << 20, &damaged).unwrap();
        assert_eq!(damaged.get(), 1);
        assert!(snapshots.reader().unwrap().is_none());
    }

    #[test]
    fn a_part_of_what_changed_does_not_make_the_file_complete() {
        let snapshots = StateSnapshots::in_memory().unwrap();
        snapshots.follow(&events_of("g")).unwrap();
        snapshots.write(&batch("one", 7)).unwrap();
        snapshots.write(&SnapshotBatch { through: None, ..batch("two", 9) }).unwrap();
        assert_eq!(snapshots.follow(&events_of("g")).unwrap(), Some(7));
        assert_eq!(snapshots.newest().unwrap(), batch("two", 9).newest);
    }

    #[test]
    fn snapshots_of_other_events_or_shapes_or_of_a_lost_tail_are_dropped() {
        let snapshots = StateSnapshots::in_memory().unwrap();
        snapshots.follow(&events_of("g")).unwrap();
        let other = [
            events_of("h"),
            FollowedEvents { last_sequence: 6, ..events_of("h") },
            FollowedEvents { intact: false, ..events_of("h") },
            FollowedEvents { aggregates: "bank.account 2".to_owned(), ..events_of("h") },
        ];
        for events in other {
            snapshots.write(&batch("one", 7)).unwrap();
            assert_eq!(snapshots.follow(&events).unwrap(), None, "{events:?}");
            assert!(snapshots.reader().unwrap().is_none());
            assert_eq!(snapshots.newest().unwrap(), None);
        }
    }
}
