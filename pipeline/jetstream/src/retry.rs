//! Pauses between attempts (bounded, growing, jittered), questions that are asked until there is an answer, and the ids of a
//! run.
//!
//! All are deterministic given the run's name, so that a simulation with a fixed name repeats itself exactly.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::broker::BrokerError;

/// First pause.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One run of a process: the source of ids that nobody else makes. The shell names it (a ULID), so that the code below
/// needs no randomness.
#[derive(Debug, Clone)]
pub struct RunIds {
    run: Arc<str>,
    count: Arc<AtomicU64>,
}

impl RunIds {
    /// Ids of the run called `run`, which must be unique among all runs ever.
    pub fn new(run: impl Into<Arc<str>>) -> Self {
        Self { run: run.into(), count: Arc::default() }
    }

    /// The run's name.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// An id never given before: `<run>-<number>`.
    pub fn next_id(&self) -> Arc<str> {
        format!("{}-{}", self.run, self.next_number()).into()
    }

    /// A new series of pauses, jittered differently from every other.
    pub fn backoff(&self) -> Backoff {
        let mut hasher = DefaultHasher::new();
        (&*self.run, self.next_number()).hash(&mut hasher);
        Backoff { next: PAUSE_FIRST, jitter: hasher.finish() }
    }

    fn next_number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }
}

/// Doubles its pause up to two seconds; each is between half and all of that, so that many who failed together do not
/// come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    jitter: u64,
}

impl Backoff {
    /// Waits, longer each time.
    pub async fn pause(&mut self) {
        let half = self.next / 2;
        tokio::time::sleep(half + half.mul_f64((self.jitter % 1024) as f64 / 1024.0)).await;
        self.jitter = self.jitter.rotate_right(10);
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}

/// Asks until the server answers.
///
/// # Errors
/// Every answer but that there is none.
pub async fn answered<T, F: Future<Output = Result<T, BrokerError>>>(
    ids: &RunIds,
    ask: impl Fn() -> F,
) -> Result<T, BrokerError> {
    let mut backoff = ids.backoff();
    loop {
        match ask().await {
            Err(BrokerError::Unavailable { operation, detail }) => {
                tracing::warn!(operation, detail, "waiting for the server");
                backoff.pause().await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_run_differ() {
        let ids = RunIds::new("01JD");
        assert_ne!(ids.next_id(), ids.clone().next_id());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_stay_bounded() {
        let mut backoff = RunIds::new("01JD").backoff();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let before = tokio::time::Instant::now();
            backoff.pause().await;
            pauses.push(before.elapsed());
        }
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX + Duration::from_millis(1)));
        assert!(pauses[0] < pauses[4] && pauses[4] < pauses[9], "{pauses:?}");
    }
}
