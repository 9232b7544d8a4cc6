//! What was found damaged in an open file: by a checksum, in redb's own words, or by a panic within redb.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use crate::{error::StoreError, file};

/// The first damage that somebody has met since the file was opened. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    path: Arc<Path>,
    first: Arc<OnceLock<String>>,
}

impl Damage {
    /// None yet.
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self { path, first: Arc::default() }
    }

    /// Does `work` on the file, and notes when it shows damage.
    pub(super) fn noted<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = file::guarded(&self.path, work);
        if let Err(StoreError::Damaged { detail, .. }) = &done {
            self.note(detail);
        }
        done
    }

    /// Notes damage, and leaves a mark beside the file for the next start.
    pub(super) fn note(&self, detail: &str) {
        if self.first.set(detail.to_owned()).is_ok() {
            file::mark_damaged(&self.path, detail);
        }
    }

    /// The first damage, as an error.
    pub(super) fn first(&self) -> Option<StoreError> {
        let detail = self.first.get()?.clone();
        Some(StoreError::Damaged { path: self.path.to_path_buf(), detail })
    }
}
