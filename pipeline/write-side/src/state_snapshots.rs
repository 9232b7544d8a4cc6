//! Snapshots of aggregate states in a redb file: what falls out of memory, and what a handler knew when it stopped.
//!
//! Snapshots are only a shortcut. They may be stale, and the file may be lost: the expected sequence of an append or a read from
//! the leader proves the state on which a decision rests.
//!
//! Deliberately absent: how a state is encoded ([`crate::aggregate_state`]). This module sees only bytes.

use std::{path::Path, sync::Arc};

use millstream_contract::{
    commit::COMMIT_HASH_LENGTH,
    exit_code::{ExitCode, Failure},
    subject::StreamId,
};
use millstream_store::text_key::TextKey;
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition,
    backends::InMemoryBackend,
};

/// Stream id to encoded snapshot.
const SNAPSHOTS: TableDefinition<TextKey, &[u8]> = TableDefinition::new("snapshots");
/// `generation`, `through` and `newest`, as text.
const META: TableDefinition<&str, &str> = TableDefinition::new("meta");

/// Why snapshots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file cannot be opened.
    #[error(
        "the file of snapshots {path} cannot be opened; it may be deleted, states are read again from EVENTS"
    )]
    Open {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: Box<redb::DatabaseError>,
    },
    /// Reading or writing failed.
    #[error("snapshots cannot be read or written")]
    Storage(#[source] Box<redb::Error>),
}

impl Failure for SnapshotError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Open { source, .. } => of_database_error(source),
            Self::Storage(_) => ExitCode::InputOutput,
        }
    }
}

fn of_database_error(error: &redb::DatabaseError) -> ExitCode {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => ExitCode::AlreadyRunning,
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => ExitCode::of_file_error(error),
        _ => ExitCode::InputOutput,
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

/// Snapshots to be written to the file, with the sequence of EVENTS up to which commits have been followed.
#[derive(Debug)]
pub struct SnapshotBatch {
    /// The snapshots to write.
    pub snapshots: Vec<(StreamId, Vec<u8>)>,
    /// The sequence of EVENTS up to which commits have been followed.
    pub through: u64,
    /// The newest commit that went into any of the snapshots, these and those in the file.
    pub newest: Option<NamedCommit>,
    /// Whether to wait until the batch is synced to the disk.
    pub durable: bool,
}

/// The file.
#[derive(Debug, Clone)]
pub struct StateSnapshots {
    database: Arc<Database>,
}

impl StateSnapshots {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// [`SnapshotError::Open`], also when another process owns the file.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let database = Database::create(path).map_err(|source| SnapshotError::Open {
            path: path.display().to_string(),
            source: Box::new(source),
        })?;
        Self::with_database(database)
    }

    /// Snapshots that live in memory only.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub fn in_memory() -> Result<Self, SnapshotError> {
        Self::with_database(Database::builder().create_with_backend(InMemoryBackend::new())?)
    }

    fn with_database(database: Database) -> Result<Self, SnapshotError> {
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

    /// Begins to follow EVENTS of `generation`, which ends at `last_sequence`. It is `intact` when it still has
    /// [`StateSnapshots::newest`] at its sequence. Snapshots of another generation, or of a tail that the server has lost, are
    /// dropped. Returns the sequence after which to follow, or `None` when no snapshots are left.
    ///
    /// # Errors
    /// [`SnapshotError::Storage`].
    pub fn follow(
        &self,
        generation: &str,
        last_sequence: u64,
        intact: bool,
    ) -> Result<Option<u64>, SnapshotError> {
        let (known, through) = {
            let meta = self.database.begin_read()?.open_table(META)?;
            let text =
                |key| -> Result<_, SnapshotError> { Ok(meta.get(key)?.map(|text| text.value().to_owned())) };
            (text("generation")?, text("through")?.and_then(|text| text.parse().ok()).unwrap_or(0))
        };
        if known.as_deref() == Some(generation) && through <= last_sequence && intact {
            return Ok(Some(through));
        }
        if known.is_some() {
            tracing::warn!(generation, "the snapshots belong to other events; making them anew");
        }
        let write = self.database.begin_write()?;
        write.delete_table(SNAPSHOTS)?;
        write.open_table(SNAPSHOTS)?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("generation", generation)?;
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
        if !batch.durable {
            write.set_durability(Durability::None)?;
        }
        {
            let mut snapshots = write.open_table(SNAPSHOTS)?;
            for (stream_id, snapshot) in &batch.snapshots {
                snapshots.insert(stream_id.as_str(), snapshot.as_slice())?;
            }
            let mut meta = write.open_table(META)?;
            meta.insert("through", batch.through.to_string().as_str())?;
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
            through,
            newest,
            durable: true,
        }
    }

    #[test]
    fn snapshots_and_position_survive_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.redb");
        let snapshots = StateSnapshots::open(&path).unwrap();
        assert_eq!(snapshots.follow("g", 9, true).unwrap(), None);
        assert!(snapshots.reader().unwrap().is_none());
        snapshots.write(&batch("one", 7)).unwrap();
        drop(snapshots);

        let snapshots = StateSnapshots::open(&path).unwrap();
        assert_eq!(snapshots.newest().unwrap(), batch("one", 7).newest);
        assert_eq!(snapshots.follow("g", 9, true).unwrap(), Some(7));
        let reader = snapshots.reader().unwrap().unwrap();
        assert_eq!(reader.get(&id("one")).unwrap().unwrap(), b"one");
        assert_eq!(reader.get(&id("two")).unwrap(), None);
    }

    #[test]
    fn snapshots_of_other_events_or_of_a_lost_tail_are_dropped() {
        let snapshots = StateSnapshots::in_memory().unwrap();
        snapshots.follow("g", 9, true).unwrap();
        for (generation, last_sequence, intact) in [("h", 9, true), ("h", 6, true), ("h", 9, false)] {
            snapshots.write(&batch("one", 7)).unwrap();
            assert_eq!(snapshots.follow(generation, last_sequence, intact).unwrap(), None);
            assert!(snapshots.reader().unwrap().is_none());
            assert_eq!(snapshots.newest().unwrap(), None);
        }
    }
}
