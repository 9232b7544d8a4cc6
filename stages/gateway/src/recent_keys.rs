//! Idempotency keys that were used a moment ago, so that a request which differs under the same key is refused before the first is
//! decided. It is a shortcut: what it has forgotten, the views and COMMANDS know.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;

use crate::command_log::Fingerprint;

/// At a thousand requests a second more than a minute, in some ten megabytes.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not 0");

/// By id of the command.
pub(crate) struct RecentKeys(Mutex<LruCache<String, Fingerprint>>);

impl RecentKeys {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED_MAX)))
    }

    /// Notes that a command is about to be stored under an id, and answers that of the command before, if there was one.
    pub(crate) fn note(&self, id: &str, fingerprint: Fingerprint) -> Option<Fingerprint> {
        let mut known = self.known();
        let before = known.get(id).copied();
        if before.is_none() {
            known.put(id.to_owned(), fingerprint);
        }
        before
    }

    /// The command was certainly not stored: its key is free.
    pub(crate) fn forget(&self, id: &str) {
        self.known().pop(id);
    }

    fn known(&self) -> MutexGuard<'_, LruCache<String, Fingerprint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
