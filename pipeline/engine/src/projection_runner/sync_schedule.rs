//! When the file is synced while it changes: soon while little waits, so that no sync takes long and nobody waits long for one;
//! seldom far behind, where each sync only costs (docs/adr/0013-rows-and-checkpoint-in-one-redb-transaction.md).

use std::time::Duration;

use tokio::time::Instant;

use crate::read_store::Durability;

/// While little waits, syncs take one part in so many of the time, about.
const SHARE_OF_TIME: u32 = 10;

/// A sync is put off for so long at least: each writes some pages, however little has changed.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// When the next sync is due.
pub(super) struct SyncSchedule {
    /// What has changed waits no longer than this.
    pause_max: Duration,
    /// How long the last sync took, with what was written for it.
    took: Duration,
    /// Since when something is not synced.
    changed: Option<Instant>,
}

impl SyncSchedule {
    pub(super) fn new(pause_max: Duration) -> Self {
        Self { pause_max, took: Duration::ZERO, changed: None }
    }

    /// When what has changed is synced if nothing else comes; `None` while nothing has.
    pub(super) fn due(&self) -> Option<Instant> {
        self.changed.map(|changed| changed + self.short_pause())
    }

    /// How durably to write a change.
    pub(super) fn durability(&mut self, now: Instant, far_behind: bool) -> Durability {
        let changed = *self.changed.get_or_insert(now);
        let pause = if far_behind { self.pause_max } else { self.short_pause() };
        if now < changed + pause { Durability::Volatile } else { Durability::Durable }
    }

    /// Everything is synced, or is being synced while nothing else is written.
    pub(super) fn synced(&mut self) {
        self.changed = None;
    }

    /// How long a sync took.
    pub(super) fn took(&mut self, took: Duration) {
        self.took = took;
    }

    fn short_pause(&self) -> Duration {
        (self.took * SHARE_OF_TIME).max(PAUSE_MIN).min(self.pause_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// When a change of now becomes a reason to sync: the first of the moments, each a millisecond apart, at which one more
    /// change is written durably.
    fn pause(schedule: &mut SyncSchedule, far_behind: bool) -> Duration {
        let now = Instant::now();
        let is_synced =
            |&after: &Duration| schedule.durability(now + after, far_behind) == Durability::Durable;
        let pause = (0..=2_000).map(milliseconds).find(is_synced);
        schedule.synced();
        pause.expect("it is synced within two seconds")
    }

    #[test]
    fn nothing_is_due_without_a_change() {
        let mut schedule = SyncSchedule::new(SECOND);
        assert_eq!(schedule.due(), None);
        let now = Instant::now();
        assert_eq!(schedule.durability(now, false), Durability::Volatile);
        assert_eq!(schedule.durability(now + PAUSE_MIN / 2, false), Durability::Volatile);
        assert_eq!(schedule.due(), Some(now + PAUSE_MIN), "it counts from the first change");
        schedule.synced();
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn pause_follows_what_a_sync_takes_between_its_bounds() {
        let mut schedule = SyncSchedule::new(SECOND);
        for (took, expected) in
            [(0, 50), (1, 50), (5, 50), (20, 200), (99, 990), (100, 1_000), (3_000, 1_000)]
        {
            schedule.took(milliseconds(took));
            assert_eq!(pause(&mut schedule, false), milliseconds(expected), "after a sync of {took} ms");
        }
    }

    #[test]
    fn far_behind_only_the_longest_pause_counts() {
        let mut schedule = SyncSchedule::new(SECOND);
        assert_eq!(pause(&mut schedule, true), SECOND);
        let now = Instant::now();
        assert_eq!(schedule.durability(now, true), Durability::Volatile);
        let caught_up = now + milliseconds(500);
        assert_eq!(schedule.durability(caught_up, true), Durability::Volatile);
        assert_eq!(schedule.durability(caught_up, false), Durability::Durable, "caught up");
    }

    #[test]
    fn longest_pause_is_an_upper_bound() {
        let mut schedule = SyncSchedule::new(milliseconds(10));
        schedule.took(milliseconds(20));
        assert_eq!(pause(&mut schedule, false), milliseconds(10));
        let mut schedule = SyncSchedule::new(Duration::ZERO);
        assert_eq!(pause(&mut schedule, false), Duration::ZERO);
    }
}
