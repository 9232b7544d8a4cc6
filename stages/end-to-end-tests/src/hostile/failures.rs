//! What has gone wrong, told to everybody who takes part: the first failure ends a run.

use std::sync::{Arc, Mutex, PoisonError};

/// Failures so far; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Failures(Arc<Mutex<Vec<String>>>);

impl Failures {
    #[expect(clippy::print_stderr, reason = "a program for people, and a test whose harness shows it")]
    pub(super) fn add(&self, failure: impl Into<String>) {
        let failure = failure.into();
        eprintln!("FAILED: {failure}");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
    }

    pub(super) fn any(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
