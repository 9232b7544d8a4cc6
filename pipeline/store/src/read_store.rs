//! The read store: one redb file of one process. The rows of many projections and their checkpoints change in one transaction, so
//! that a checkpoint always describes exactly the rows beside it.
//!
//! Most transactions are not durable. A crash takes rows and checkpoints back together to the last durable transaction, and the
//! stream is read again from there. Every table belongs to one projection and is called `<context>.<projection>.<table>`.
//!
//! Deliberately absent: any index besides the key, streams, and queries.

mod changed_table;
mod checkpoint;
mod damage;
mod dump;
mod projection_rows;
mod snapshot;
mod table_name;
mod write;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{ReadableDatabase, StorageBackend};

use self::damage::Damage;
pub use self::{
    changed_table::RowBytes,
    checkpoint::Checkpoint,
    dump::TRANSIENT_TABLES,
    projection_rows::ProjectionRows,
    snapshot::{Direction, KeyRange, Snapshot},
    table_name::{ProjectionId, TableName},
    write::{Changes, Durability, Uncommitted},
};
pub use crate::error::StoreError;
use crate::{
    file::{self, OpenFile},
    parallel::Cores,
};

/// The memory for redb's page cache unless configured otherwise. It is enough for the upper levels of the trees of some million rows.
pub const CACHE_SIZE_DEFAULT: usize = 256 * 1024 * 1024;

/// A redb file that this process alone has open. It is cheap to clone; the file is closed with the last clone.
#[derive(Clone)]
pub struct ReadStore {
    database: Arc<OpenFile>,
    path: Arc<Path>,
    damage: Damage,
    cores: Cores,
}

impl ReadStore {
    /// Opens `path`, and makes it and its folder where they are missing. `cache_size` in bytes.
    ///
    /// # Errors
    /// [`StoreError`]: another process has the file, it cannot be read or written, the disk is full, or it is damaged.
    pub fn open(path: &Path, cache_size: usize) -> Result<Self, StoreError> {
        Ok(Self::new(path, file::open(path, cache_size)?))
    }

    /// As [`Self::open`]; a damaged file is set aside, and a new one begun, which projections then fill from the first message.
    /// Returns the name that the damaged file has now.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_or_begin_anew(path: &Path, cache_size: usize) -> Result<(Self, Option<PathBuf>), StoreError> {
        let (database, aside) = file::open_or_begin_anew(path, cache_size)?;
        Ok((Self::new(path, database), aside))
    }

    /// A store over any storage, for crash tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_backend(backend: impl StorageBackend, cache_size: usize) -> Result<Self, StoreError> {
        let path = Path::new("(in memory)");
        let created = || file::builder(cache_size, path).create_with_backend(backend);
        let database =
            file::guarded(path, || created().map_err(|source| StoreError::from_open(path, source)))?;
        Ok(Self::new(path, OpenFile::new(database)))
    }

    fn new(path: &Path, database: OpenFile) -> Self {
        let path: Arc<Path> = path.into();
        let damage = Damage::new(Arc::clone(&path));
        Self { database: Arc::new(database), path, damage, cores: Cores::all() }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A consistent view of what was last committed; later commits do not change it.
    ///
    /// # Errors
    /// [`StoreError`] when the file can no longer be read.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let begun = || self.database.begin_read();
        let transaction = self
            .damage
            .noted(|| begun().map_err(|source| StoreError::from_transaction(&self.path, source)))?;
        Ok(Snapshot::new(transaction, Arc::clone(&self.path), self.damage.clone()))
    }

    /// The first damage that somebody has met since the file was opened, if any. What is whole can still be read.
    pub fn damage(&self) -> Option<StoreError> {
        self.damage.first()
    }

    /// Notes that somebody could not make sense of what the file holds, as `detail` says, so that the next start finds it damaged.
    pub fn found_damaged(&self, detail: String) -> StoreError {
        self.damage.note(&detail);
        StoreError::Damaged { path: self.path.to_path_buf(), detail }
    }
}

impl std::fmt::Debug for ReadStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("ReadStore").field(&self.path).finish()
    }
}
