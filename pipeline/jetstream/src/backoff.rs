//! Pauses between attempts: they grow up to a limit, and are jittered where many clients may fail together.

use std::time::Duration;

/// Doubles its pause after each attempt, up to a maximum.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    max: Duration,
    /// The source of the jitter, which makes each pause between half and all of its length. Absent for a client that fails alone.
    jitter: Option<u64>,
}

impl Backoff {
    /// Pauses from `first` to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max, jitter: None }
    }

    /// Like `new`, but each pause is shortened at random, to half at most, so that clients that failed together do not come back together.
    #[must_use]
    pub fn jittered(first: Duration, max: Duration, seed: u64) -> Self {
        Self { next: first, max, jitter: Some(seed) }
    }

    /// The maximum length of the next pause.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Waits. The next pause is longer.
    pub async fn pause(&mut self) {
        let mut pause = self.next;
        if let Some(jitter) = &mut self.jitter {
            let half = pause / 2;
            pause = half + half.mul_f64((*jitter % 1024) as f64 / 1024.0);
            *jitter = jitter.rotate_right(10);
        }
        tokio::time::sleep(pause).await;
        self.next = (self.next * 2).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn pauses(mut backoff: Backoff) -> Vec<Duration> {
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let before = Instant::now();
            backoff.pause().await;
            pauses.push(before.elapsed());
        }
        pauses
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_stay_bounded() {
        let (first, max) = (Duration::from_millis(10), Duration::from_secs(2));
        let jittered = pauses(Backoff::jittered(first, max, 0x2545_f491_4f6c_dd1d)).await;
        assert!(jittered.iter().all(|pause| *pause <= max + Duration::from_millis(1)));
        assert!(jittered[0] < jittered[4] && jittered[4] < jittered[9], "{jittered:?}");
        let plain = pauses(Backoff::new(first, max)).await;
        assert_eq!([plain[0], plain[1], plain[11]], [first, 2 * first, max]);
    }
}
