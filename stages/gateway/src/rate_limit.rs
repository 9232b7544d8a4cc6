//! Limits how many requests a second somebody may send, in bursts of the same number. Senders below the limit are not remembered.

use std::{hash::Hash, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

/// When this many are remembered, those below the limit are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// Counts the requests of each `K`.
pub(crate) struct Rates<K: Hash + Eq + Clone> {
    limiter: Option<RateLimiter<K, HashMapStateStore<K>, DefaultClock, NoOpMiddleware>>,
    clock: DefaultClock,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    /// At most `rate` requests a second of each; any number without one.
    pub(crate) fn new(rate: Option<NonZeroU32>) -> Self {
        let limiter = rate.map(|rate| RateLimiter::hashmap(Quota::per_second(rate)));
        Self { limiter, clock: DefaultClock::default() }
    }

    /// Counts a request of `who`. If it exceeds the rate, returns how long it takes until the next one is accepted.
    pub(crate) fn count(&self, who: &K) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if limiter.len() > REMEMBERED_MAX {
            limiter.retain_recent();
        }
        limiter.check_key(who).map_err(|until| until.wait_time_from(self.clock.now()))
    }

    /// Counts `many` requests of `who`, all or none. If they exceed the rate, returns how long it takes until they are accepted, or `None` if
    /// so many never are.
    pub(crate) fn count_all(&self, who: &K, many: NonZeroU32) -> Result<(), Option<Duration>> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        match limiter.check_key_n(who, many) {
            Ok(counted) => counted.map_err(|until| Some(until.wait_time_from(self.clock.now()))),
            Err(_) => Err(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_burst_of_its_own() {
        let rates = Rates::new(NonZeroU32::new(2));
        assert!(rates.count(&"a").is_ok() && rates.count(&"a").is_ok());
        let wait = rates.count(&"a").unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert!(rates.count(&"b").is_ok(), "nobody pays for another");
        assert!((0..1000).all(|_| Rates::new(None).count(&"a").is_ok()));
    }

    #[test]
    fn several_are_counted_together_or_not_at_all() {
        let rates = Rates::new(NonZeroU32::new(3));
        let many = |number| NonZeroU32::new(number).unwrap();
        assert_eq!(rates.count_all(&"a", many(4)), Err(None), "they never are taken at once");
        assert!(rates.count_all(&"a", many(2)).is_ok());
        assert!(matches!(rates.count_all(&"a", many(2)), Err(Some(_))), "there is place for one");
        assert!(rates.count(&"a").is_ok(), "which was left");
    }
}
