//! Pauses between attempts: bounded, growing, and, where many may fail together, jittered.

use std::time::Duration;

/// Doubles its pause up to a longest one.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    max: Duration,
    /// Decides where between half and all of itself each pause lies; none for one who fails alone.
    jitter: Option<u64>,
}

impl Backoff {
    /// Pauses from `first` to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max, jitter: None }
    }

    /// Each pause between half and all of what it would be, so that many who failed together do not come back together.
    #[must_use]
    pub fn jittered(first: Duration, max: Duration, seed: u64) -> Self {
        Self { next: first, max, jitter: Some(seed) }
    }

    /// The longest that the next pause may be.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Waits, longer each time.
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
