//! The read store: one redb file of one process. The rows of many projections and their checkpoints change in one transaction, so
//! that a checkpoint always describes exactly the rows beside it.
//!
//! Most transactions are not durable. A crash takes rows and checkpoints back together to the last durable transaction, and the
//! stream is read again from there. Every table belongs to one projection and is called `<context>.<projection>.<table>`.
//!
//! Deliberately absent: any index besides the key, streams, and queries.

mod changed_table;
mod checkpoint;
mod dump;
mod error;
mod projection_rows;
mod snapshot;
mod table_name;
mod write;

#[cfg(test)]
mod tests;

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Builder, Database, ReadableDatabase, RepairSession, StorageBackend};

pub use self::{
    checkpoint::Checkpoint,
    dump::TRANSIENT_TABLES,
    error::StoreError,
    projection_rows::ProjectionRows,
    snapshot::{Direction, KeyRange, Snapshot},
    table_name::{ProjectionId, TableName},
    write::{Changes, Durability, Uncommitted},
};
use crate::parallel::Cores;

/// The memory for redb's page cache unless configured otherwise. It is enough for the upper levels of the trees of some million rows.
pub const CACHE_SIZE_DEFAULT: usize = 256 * 1024 * 1024;

/// A redb file that this process alone has open. It is cheap to clone; the file is closed with the last clone.
#[derive(Clone)]
pub struct ReadStore {
    database: Arc<Database>,
    path: Arc<Path>,
    cores: Cores,
}

impl ReadStore {
    /// Opens `path`, and makes it and its folder where they are missing. `cache_size` in bytes.
    ///
    /// # Errors
    /// [`StoreError`]: another process has the file, it cannot be read or written, the disk is full, or it is damaged.
    pub fn open(path: &Path, cache_size: usize) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::from_io(path, source))?;
        }
        if !path.exists() {
            create(path)?;
        }
        Self::guarded(path, || builder(cache_size, path).open(path))
    }

    /// A store over any storage, for crash tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_backend(backend: impl StorageBackend, cache_size: usize) -> Result<Self, StoreError> {
        let path = Path::new("(in memory)");
        Self::guarded(path, || builder(cache_size, path).create_with_backend(backend))
    }

    /// Damaged files can make redb panic where it expects its own invariants to hold.
    fn guarded(
        path: &Path,
        open: impl FnOnce() -> Result<Database, redb::DatabaseError>,
    ) -> Result<Self, StoreError> {
        let database = std::panic::catch_unwind(AssertUnwindSafe(open))
            .map_err(|_| StoreError::Damaged {
                path: path.to_owned(),
                detail: "its pages contradict each other".to_owned(),
            })?
            .map_err(|source| StoreError::from_open(path, source))?;
        Ok(Self { database: Arc::new(database), path: path.into(), cores: Cores::all() })
    }

    /// Renames a file that cannot be used, keeping its bytes, and returns its new name. The next [`Self::open`] creates an empty file,
    /// which projections then fill from the first message.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the folder cannot be changed.
    pub fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
        let aside = (1_u32..)
            .map(|number| {
                let mut name = path.as_os_str().to_owned();
                name.push(format!(".set-aside-{number}"));
                PathBuf::from(name)
            })
            .find(|candidate| !candidate.exists())
            .expect("a folder holds fewer files than there are numbers");
        std::fs::rename(path, &aside).map_err(|source| StoreError::from_io(path, source))?;
        Ok(aside)
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
        let transaction =
            self.database.begin_read().map_err(|source| StoreError::from_transaction(&self.path, source))?;
        Ok(Snapshot::new(transaction, Arc::clone(&self.path)))
    }
}

impl std::fmt::Debug for ReadStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("ReadStore").field(&self.path).finish()
    }
}

/// Creates an empty file under another name first and then renames it, so that a crash in between leaves no half-written file that
/// would look damaged.
fn create(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::from_io(path, source);
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let database = Database::create(&new).map_err(|source| StoreError::from_open(path, source))?;
    drop(database);
    std::fs::rename(&new, path).map_err(failed)
}

fn builder(cache_size: usize, path: &Path) -> Builder {
    let path = path.to_owned();
    let mut builder = Database::builder();
    builder.set_cache_size(cache_size).set_repair_callback(move |session: &mut RepairSession| {
        tracing::info!(
            path = %path.display(), progress = session.progress(), "repairing the read store after a crash"
        );
    });
    builder
}
