//! How long to wait before the next attempt to connect: longer each time up to a limit, and random, so that a hundred clients that lost one
//! server do not come back at the same instant.

use std::time::Duration;

/// The first wait is at most this long.
const FIRST_MILLISECONDS: u64 = 100;
/// The longest wait. A server that is back is found within this time.
const MAX_MILLISECONDS: u64 = 4_000;

/// The wait before attempt `attempt` (from 1): between half and all of a limit that doubles with each attempt.
pub(super) fn delay(attempt: usize) -> Duration {
    let bound = bound(attempt);
    Duration::from_millis(rand::random_range(bound / 2..=bound))
}

fn bound(attempt: usize) -> u64 {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_MILLISECONDS.saturating_mul(2_u64.saturating_pow(doublings)).min(MAX_MILLISECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        assert_eq!([0, 1, 2, 3, 6, 7, usize::MAX].map(bound), [100, 100, 200, 400, 3_200, 4_000, 4_000]);
    }

    #[test]
    fn waits_differ_between_clients() {
        let waits: std::collections::BTreeSet<Duration> = (0..64).map(|_| delay(6)).collect();
        assert!(waits.len() > 8, "{waits:?}");
        assert!(waits.iter().all(|wait| (1_600..=3_200).contains(&wait.as_millis())), "{waits:?}");
    }
}
