//! Damage that was found in an open file: by a checksum, as an error of redb, or as a panic inside redb.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{error::StoreError, file};

/// How much damage is remembered, so that each place is logged once. A file with more damage than that needs no further messages.
const DETAILS_MAX: usize = 100;

/// The damage found since the file was opened. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    path: Arc<Path>,
    details: Arc<Mutex<Vec<String>>>,
}

impl Damage {
    /// None yet.
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self { path, details: Arc::default() }
    }

    /// Runs `work` on the file, and notes if it shows damage. A panic of `work` counts as damage, so `work` must only be redb's code.
    pub(super) fn noted<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = file::guarded(&self.path, work);
        if let Err(StoreError::Damaged { detail, .. }) = &done {
            self.note(detail);
        }
        done
    }

    /// Notes damage. The first one leaves a mark beside the file for the next start, and is reported by whoever calls [`Self::first`]. Any
    /// other one is logged here.
    pub(super) fn note(&self, detail: &str) {
        let mut details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        if details.len() >= DETAILS_MAX || details.iter().any(|known| known == detail) {
            return;
        }
        if details.is_empty() {
            file::mark_damaged(&self.path, detail);
        } else {
            tracing::error!(path = %self.path.display(), detail, "more of the damaged file is damaged");
        }
        details.push(detail.to_owned());
    }

    /// The first damage, as an error.
    pub(super) fn first(&self) -> Option<StoreError> {
        let details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        let detail = details.first()?.clone();
        Some(StoreError::Damaged { path: self.path.to_path_buf(), detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Damage behind the first was never told.
    #[test]
    fn each_damage_is_remembered_once_and_the_first_stands_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let damage = Damage::new(folder.path().join("rows.redb").into());
        for detail in ["one row", "another row", "one row"] {
            damage.note(detail);
        }
        assert_eq!(*damage.details.lock().unwrap(), ["one row", "another row"]);
        assert!(damage.first().unwrap().to_string().contains("(one row)"));
        for number in 0..=DETAILS_MAX {
            damage.note(&number.to_string());
        }
        assert_eq!(damage.details.lock().unwrap().len(), DETAILS_MAX);
    }
}
