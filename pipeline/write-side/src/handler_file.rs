//! A redb file of the command handler. Damage is reported as an error instead of a panic. After a failure, redb refuses further work; this
//! module then reports the original failure.
//!
//! Deliberately absent: the content of a file ([`crate::id_index`], [`crate::state_snapshots`]).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use millstream_runtime::metrics::Count;
use millstream_store::{
    error::StoreError,
    file::{self, OpenFile},
};
use redb::{
    CommitError, Database, ReadTransaction, ReadableDatabase as _, StorageBackend, StorageError, TableError,
    WriteTransaction,
};

/// The path of a file, and how it is opened.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    cache_size: usize,
    /// Counts files that were set aside.
    damaged: Count,
}

impl Home {
    /// A file at `path`. redb keeps at most `cache_size` bytes of it in memory.
    pub(crate) fn new(path: &Path, cache_size: usize, damaged: Count) -> Self {
        Self { path: path.to_owned(), cache_size, damaged }
    }

    /// Opens the file, or creates it. A damaged one is set aside and counted.
    pub(crate) fn open(&self) -> Result<HandlerFile, StoreError> {
        let (database, aside) = file::open_or_begin_anew(&self.path, self.cache_size)?;
        self.damaged.inc_by(u64::from(aside.is_some()));
        Ok(HandlerFile::new(database, self.path.clone()))
    }

    /// Sets the file aside, because `error` has shown that it is damaged, and begins an empty one.
    pub(crate) fn begin_anew(&self, error: &StoreError) -> Result<HandlerFile, StoreError> {
        let aside = file::set_aside(&self.path)?;
        tracing::warn!(
            %error, aside = %aside.display(), "set the damaged file aside; what it held is read anew from the streams"
        );
        self.damaged.inc();
        self.open()
    }

    /// Lets the next start set the file aside, if `error` has shown that it is damaged.
    pub(crate) fn mark(&self, error: &StoreError) {
        if let StoreError::Damaged { detail, .. } = error {
            file::mark_damaged(&self.path, detail);
        }
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct HandlerFile {
    database: OpenFile,
    path: PathBuf,
    /// Held during each write, including one that fails.
    writing: Mutex<()>,
    /// The first failure reported by the operating system, with its kind and text. Everything after it fails because of it.
    failure: OnceLock<(io::ErrorKind, String)>,
}

impl HandlerFile {
    /// A file over any storage, for tests and for indexes in memory.
    pub(crate) fn with_backend(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let path = PathBuf::from("(in memory)");
        let database = Database::builder()
            .create_with_backend(backend)
            .map_err(|source| StoreError::from_open(&path, source))?;
        Ok(Self::new(OpenFile::new(database), path))
    }

    fn new(database: OpenFile, path: PathBuf) -> Self {
        Self { database, path, writing: Mutex::new(()), failure: OnceLock::new() }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work`, which writes.
    pub(crate) fn writing<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let done = file::guarded(&self.path, work);
        self.note_failure(&done);
        done.map_err(|error| self.first_failure(error))
    }

    /// Runs `work`, which only reads.
    pub(crate) fn reading<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = file::guarded(&self.path, work);
        self.note_failure(&done);
        done.map_err(|error| {
            if let StoreError::Unusable { .. } = error {
                // redb refuses reads as soon as a write has failed. That write may not have returned yet.
                drop(self.writing.lock().unwrap_or_else(PoisonError::into_inner));
            }
            self.first_failure(error)
        })
    }

    /// A transaction that reads.
    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.database.begin_read().map_err(|source| StoreError::from_transaction(&self.path, source))
    }

    /// A transaction that writes. With its commit, the state of redb's allocator is written. Otherwise redb would walk through the whole file
    /// when it opens it after a crash, and nothing would be decided in the meantime.
    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        let begun = self.database.begin_write();
        let mut write = begun.map_err(|source| StoreError::from_transaction(&self.path, source))?;
        write.set_quick_repair(true);
        Ok(write)
    }

    fn note_failure<T>(&self, done: &Result<T, StoreError>) {
        if let Err(
            StoreError::DiskFull { source, .. }
            | StoreError::NotWritable { source, .. }
            | StoreError::Io { source, .. },
        ) = done
        {
            self.failure.get_or_init(|| (source.kind(), source.to_string()));
        }
    }

    /// The original failure, in place of redb's refusal to continue after it.
    fn first_failure(&self, error: StoreError) -> StoreError {
        match (&error, self.failure.get()) {
            (StoreError::Unusable { .. }, Some((kind, words))) => {
                StoreError::from_io(&self.path, io::Error::new(*kind, words.clone()))
            }
            _ => error,
        }
    }

    /// The meaning of redb's failure to read or write.
    pub(crate) fn storage(&self, source: StorageError) -> StoreError {
        StoreError::from_storage(&self.path, source)
    }

    /// The meaning of redb's failure to open a table.
    pub(crate) fn table(&self, source: TableError) -> StoreError {
        StoreError::from_table(&self.path, source)
    }

    /// The meaning of redb's failure to commit.
    pub(crate) fn committed(&self, source: CommitError) -> StoreError {
        StoreError::from_commit(&self.path, source)
    }

    /// The error for a damaged file; `detail` says what is wrong.
    pub(crate) fn damaged(&self, detail: &str) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), detail: detail.to_owned() }
    }
}
