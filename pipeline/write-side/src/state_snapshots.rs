//! Snapshots of aggregate states in a redb file. The file is complete up to a sequence of EVENTS, its `through`: of every aggregate
//! whose last commit stands there or before, it has the newest state. So a handler knows all aggregates once it has read what follows.
//!
//! Snapshots are only a shortcut. The file may be lost: the expected sequence of an append or a read from the leader proves the state
//! on which a decision rests.
//!
//! Deliberately absent: how a state is encoded ([`crate::aggregate_state`]). This module sees only bytes.

use std::{path::Path, sync::Arc};

use millstream_contract::{
    commit::COMMIT_HASH_LENGTH,
    exit_code::{ExitCode, Failure},
    subject::StreamId,
};
use millstream_runtime::metrics::Count;
use millstream_store::{
    error::StoreError,
    file::{OpenFile, open_or_begin_anew},
    text_key::TextKey,
};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition,
    backends::InMemoryBackend,
};

/// Stream id to encoded snapshot.
const SNAPSHOTS: TableDefinition<TextKey, &[u8]> = TableDefinition::new("snapshots");
/// `generation`, `aggregates`, `through` and `newest`, as text. Files of releases before `aggregates` was noted said `through` of
/// commits whose states they did not have.
const META: TableDefinition<&str, &str> = TableDefinition::new("meta");

/// Why snapshots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(StoreError),
    /// Reading or writing failed.
    #[error("snapshots cannot be read or written")]
    Storage(#[source] Box<redb::Error>),
}

impl Failure for SnapshotError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Open(error) => error.exit_code(),
            Self::Storage(_) => ExitCode::InputOutput,
        }
    }
}

impl<E: Into<redb::Error>> From<E> for SnapshotError {
    fn from(error: E) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}

/// A commit by its place in EVENTS and its hash.
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

/// Snapshots to be written to the file.
#[derive(Debug)]
pub struct SnapshotBatch {
    /// The snapshots to write, in the order of their ids.
    pub snapshots: Vec<(StreamId, Vec<u8>)>,
    /// The sequence of EVENTS up to which the file is complete with this batch. Such a batch is synced to the disk. `None` for one that
    /// holds only a part of what changed.
    pub through: Option<u64>,
    /// The newest commit that went into any of the snapshots, these and those in the file.
    pub newest: Option<NamedCommit>,
}

impl SnapshotBatch {
    /// The snapshot of an aggregate, if it is in this batch.
    pub fn get(&self, stream_id: &StreamId) -> Option<&[u8]> {
        let place = self.snapshots.binary_search_by(|(id, _)| id.as_str().cmp(stream_id.as_str())).ok()?;
        self.snapshots.get(place).map(|(_, snapshot)| snapshot.as_slice())
    }
}

/// What EVENTS is, for whoever begins to follow it.
#[derive(Debug, Clone, Copy)]
pub struct FollowedEvents<'a> {
    /// Its incarnation.
    pub generation: &'a str,
    /// Its end.
    pub last_sequence: u64,
    /// The aggregates whose states are kept, each with the version of its state's shape.
    pub aggregates: &'a str,
    /// Whether the newest commit that is known stands where it stood.
    pub intact: bool,
}

/// The file.
#[derive(Debug, Clone)]
pub struct StateSnapshots {
    database: Arc<OpenFile>,
}

impl StateSnapshots {
    /// Opens the file, or creates it. redb keeps at most `cache_size` bytes of it in memory. A damaged file is set aside and counted
    /// in `damaged`.
    ///
    /// # Errors
    /// [`SnapshotError::Open`], also when another process owns the file.
    pub fn open(path: &Path, cache_size: usize, damaged: &Count) -> Result<Self, SnapshotError> {
        let (database, aside) = open_or_begin_anew(path, cache_size).map_err(SnapshotError::Open)?;
        damaged.inc_by(u64::from(aside.is_some()));
        Self::with_database(database)
    }

    /// Snapshots that live in memory only.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub fn in_memory() -> Result<Self, SnapshotError> {
        Self::with_database(OpenFile::new(Database::builder().create_with_backend(InMemoryBackend::new())?))
    }

    fn with_database(database: OpenFile) -> Result<Self, SnapshotError> {
        let write = database.begin_write()?;
        write.open_table(SNAPSHOTS)?;
        write.open_table(META)?;
        write.commit()?;
        Ok(Self { database: Arc::new(database) })
    }

    /// The newest commit that went into any of the snapshots.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub fn newest(&self) -> Result<Option<NamedCommit>, SnapshotError> {
        let meta = self.database.begin_read()?.open_table(META)?;
        Ok(meta.get("newest")?.and_then(|text| NamedCommit::parse(text.value())))
    }

    /// Begins to follow EVENTS. Snapshots of another generation, of a tail that the server has lost, or of aggregates of other shapes are
    /// dropped. Returns the sequence up to which the file is complete, or `None` when no snapshots are left.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub fn follow(&self, events: &FollowedEvents<'_>) -> Result<Option<u64>, SnapshotError> {
        let (known, aggregates, through) = {
            let meta = self.database.begin_read()?.open_table(META)?;
            let text =
                |key| -> Result<_, SnapshotError> { Ok(meta.get(key)?.map(|text| text.value().to_owned())) };
            let through = text("through")?.and_then(|text| text.parse().ok()).unwrap_or(0);
            (text("generation")?, text("aggregates")?, through)
        };
        let same_events =
            known.as_deref() == Some(events.generation) && through <= events.last_sequence && events.intact;
        let same_shapes = aggregates.as_deref() == Some(events.aggregates);
        if same_events && same_shapes {
            return Ok(Some(through));
        }
        if known.is_some() {
            let why = if same_events { "states of other shapes" } else { "other events" };
            tracing::warn!(why, "the snapshots are of no use any more; making them anew from EVENTS");
        }
        let write = self.database.begin_write()?;
        write.delete_table(SNAPSHOTS)?;
        write.open_table(SNAPSHOTS)?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("generation", events.generation)?;
            meta.insert("aggregates", events.aggregates)?;
            meta.insert("through", "0")?;
            meta.remove("newest")?;
        }
        write.commit()?;
        Ok(None)
    }

    /// The current contents of the file; `None` while it is empty.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub fn reader(&self) -> Result<Option<SnapshotReader>, SnapshotError> {
        let table = self.database.begin_read()?.open_table(SNAPSHOTS)?;
        Ok((!table.is_empty()?).then_some(SnapshotReader { table }))
    }

    /// Writes a batch. Blocking.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`]; the file then has nothing of the batch.
    pub fn write(&self, batch: &SnapshotBatch) -> Result<(), SnapshotError> {
        let mut write = self.database.begin_write()?;
        if batch.through.is_none() {
            write.set_durability(Durability::None)?;
        } else {
            // Whoever opens the file after a crash does not walk through all of it.
            write.set_quick_repair(true);
        }
        {
            let mut snapshots = write.open_table(SNAPSHOTS)?;
            for (stream_id, snapshot) in &batch.snapshots {
                snapshots.insert(stream_id.as_str(), snapshot.as_slice())?;
            }
            let mut meta = write.open_table(META)?;
            if let Some(through) = batch.through {
                meta.insert("through", through.to_string().as_str())?;
            }
            if let Some(newest) = batch.newest {
                meta.insert("newest", newest.text().as_str())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

/// The file as it was at one moment.
#[derive(Debug)]
pub struct SnapshotReader {
    table: ReadOnlyTable<TextKey, &'static [u8]>,
}

impl SnapshotReader {
    /// The snapshot of an aggregate.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub fn get(&self, stream_id: &StreamId) -> Result<Option<Vec<u8>>, SnapshotError> {
        Ok(self.table.get(stream_id.as_str())?.map(|value| value.value().to_vec()))
    }
}

#[cfg(test)]
mod tests {
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

    const EVENTS_OF_G: FollowedEvents<'_> =
        FollowedEvents { generation: "g", last_sequence: 9, aggregates: "bank.account 1", intact: true };

    fn open(path: &Path) -> StateSnapshots {
        StateSnapshots::open(path, 1 << 20, &Count::default()).unwrap()
    }

    #[test]
    fn snapshots_and_position_survive_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.redb");
        let snapshots = open(&path);
        assert_eq!(snapshots.follow(&EVENTS_OF_G).unwrap(), None);
        assert!(snapshots.reader().unwrap().is_none());
        snapshots.write(&batch("one", 7)).unwrap();
        drop(snapshots);

        let snapshots = open(&path);
        assert_eq!(snapshots.newest().unwrap(), batch("one", 7).newest);
        assert_eq!(snapshots.follow(&EVENTS_OF_G).unwrap(), Some(7));
        let reader = snapshots.reader().unwrap().unwrap();
        assert_eq!(reader.get(&id("one")).unwrap().unwrap(), b"one");
        assert_eq!(reader.get(&id("two")).unwrap(), None);
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
        snapshots.follow(&EVENTS_OF_G).unwrap();
        snapshots.write(&batch("one", 7)).unwrap();
        snapshots.write(&SnapshotBatch { through: None, ..batch("two", 9) }).unwrap();
        assert_eq!(snapshots.follow(&EVENTS_OF_G).unwrap(), Some(7));
        assert_eq!(snapshots.newest().unwrap(), batch("two", 9).newest);
    }

    #[test]
    fn snapshots_of_other_events_or_shapes_or_of_a_lost_tail_are_dropped() {
        let snapshots = StateSnapshots::in_memory().unwrap();
        snapshots.follow(&EVENTS_OF_G).unwrap();
        let of_h = FollowedEvents { generation: "h", ..EVENTS_OF_G };
        let other = [
            of_h,
            FollowedEvents { last_sequence: 6, ..of_h },
            FollowedEvents { intact: false, ..of_h },
            FollowedEvents { aggregates: "bank.account 2", ..of_h },
        ];
        for events in other {
            snapshots.write(&batch("one", 7)).unwrap();
            assert_eq!(snapshots.follow(&events).unwrap(), None, "{events:?}");
            assert!(snapshots.reader().unwrap().is_none());
            assert_eq!(snapshots.newest().unwrap(), None);
        }
    }
}
