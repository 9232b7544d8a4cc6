//! Ids that are unique across all processes.
//!
//! They are determined by the name of the run, and so is the jitter of pauses. A simulation with a fixed name therefore repeats itself
//! exactly.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::backoff::Backoff;

/// The first pause between two attempts to reach the server.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One run of a process: the source of its unique ids. The program's main function names the run (a ULID), so the code below it needs no
/// randomness.
#[derive(Debug, Clone)]
pub struct IdSource {
    run: Arc<str>,
    count: Arc<AtomicU64>,
}

impl IdSource {
    /// Ids of the run `run`, whose name must be unique among all runs ever.
    pub fn new(run: impl Into<Arc<str>>) -> Self {
        Self { run: run.into(), count: Arc::default() }
    }

    /// The run's name.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// A new id: `<run>-<number>`.
    pub fn next_id(&self) -> Arc<str> {
        format!("{}-{}", self.run, self.next_number()).into()
    }

    /// A new series of pauses, each with its own jitter.
    pub fn backoff(&self) -> Backoff {
        let mut hasher = DefaultHasher::new();
        (&*self.run, self.next_number()).hash(&mut hasher);
        Backoff::jittered(PAUSE_FIRST, PAUSE_MAX, hasher.finish())
    }

    fn next_number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_run_differ() {
        let ids = IdSource::new("01JD");
        assert_ne!(ids.next_id(), ids.clone().next_id());
    }
}
