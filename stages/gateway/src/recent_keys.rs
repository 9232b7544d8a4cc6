//! Idempotency keys that were used a moment ago, so that a different request under the same key is refused before the first one is decided.
//! This is only a shortcut: the views and COMMANDS know the keys that it has forgotten.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;

use crate::command_log::Fingerprint;

/// At a thousand requests a second, this is more than a minute, in about ten megabytes.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not 0");

/// By id of the command.
pub(crate) struct RecentKeys(Mutex<LruCache<String, Fingerprint>>);

impl RecentKeys {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED_MAX)))
    }

    /// Notes that a command is about to be stored under an id. Returns the content of the previous command with this id, if there was one.
    pub(crate) fn note(&self, id: &str, fingerprint: Fingerprint) -> Option<Fingerprint> {
        let mut known = self.known();
        let before = known.get(id).copied();
        if before.is_none() {
            known.put(id.to_owned(), fingerprint);
        }
        before
    }

    /// The command was certainly not stored, so its key is free again.
    pub(crate) fn forget(&self, id: &str) {
        self.known().pop(id);
    }

    fn known(&self) -> MutexGuard<'_, LruCache<String, Fingerprint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
