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

use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, StreamState};

/// First pause.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// For how long a server must say that a stream has lost its tail before that is believed.
const LOSS_BELIEVED_AFTER: Duration = Duration::from_secs(5);
/// And how often, in case this process stood still meanwhile.
const LOSS_TOLD_MIN: u32 = 8;

/// One run of a process: the source of ids that nobody else makes. The shell names it (a ULID), so that the code below
/// needs no randomness.
#[derive(Debug, Clone)]
pub struct IdSource {
    run: Arc<str>,
    count: Arc<AtomicU64>,
}

impl IdSource {
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
    ids: &IdSource,
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

/// Whether to believe that a stream holds less than it did. A leader that was just elected may not yet have applied all that its log
/// holds, so it is asked again.
#[derive(Debug, Default)]
pub struct LossDoubt {
    since: Option<Instant>,
    told: u32,
}

impl LossDoubt {
    /// The server says so. Answers whether it has done so for long enough.
    pub fn believes(&mut self) -> bool {
        self.told += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        self.told >= LOSS_TOLD_MIN && since.elapsed() >= LOSS_BELIEVED_AFTER
    }

    /// The server says that nothing is missing.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The state of a stream that reached up to `known` once. Where the server says that it ends before, it is asked again until that
/// is to be believed ([`LossDoubt`]).
///
/// # Errors
/// As [`Broker::state`].
pub async fn state_reaching<B: Broker>(
    broker: &B,
    ids: &IdSource,
    stream: &str,
    known: u64,
) -> Result<StreamState, BrokerError> {
    let (mut doubt, mut backoff) = (LossDoubt::default(), ids.backoff());
    loop {
        let state = broker.state(stream).await?;
        if state.last_sequence >= known || doubt.believes() {
            return Ok(state);
        }
        tracing::warn!(
            stream,
            ends = state.last_sequence,
            known,
            "the stream seems to have lost its tail; asking again"
        );
        backoff.pause().await;
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

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_stay_bounded() {
        let mut backoff = IdSource::new("01JD").backoff();
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
