//! When the file is synced while it changes. While few messages wait, it is synced often, so that no sync takes long and no query
//! waits long for one. Far behind, it is synced rarely, because each sync only costs time there
//! (docs/adr/0013-rows-and-checkpoint-in-one-redb-transaction.md).

use std::time::Duration;

use millstream_store::read_store::Durability;
use tokio::time::Instant;

/// While few messages wait, syncs take about one part in this many of the time. The effect was measured (docs/benchmarks.md), but
/// not compared with that of other numbers.
const SHARE_OF_TIME: u32 = 10;

/// The shortest pause before a sync, because each sync writes some pages, however little has changed. Chosen, not measured.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// When the next sync is due.
pub(super) struct SyncSchedule {
    /// The longest time until a change is synced.
    pause_max: Duration,
    /// The time of the first change that is not synced yet.
    changed: Option<Instant>,
}

impl SyncSchedule {
    pub(super) fn new(pause_max: Duration) -> Self {
        Self { pause_max, changed: None }
    }

    /// Whether something has changed since the last sync.
    pub(super) fn is_pending(&self) -> bool {
        self.changed.is_some()
    }

    /// When to sync if nothing else comes, given how long the last sync took; `None` while nothing has changed.
    pub(super) fn due(&self, sync_took: Duration) -> Option<Instant> {
        self.changed.map(|changed| changed + self.short_pause(sync_took))
    }

    /// Whether to write a change durably, given how long the last sync took.
    pub(super) fn durability(&mut self, now: Instant, sync_took: Duration, far_behind: bool) -> Durability {
        let changed = *self.changed.get_or_insert(now);
        let pause = if far_behind { self.pause_max } else { self.short_pause(sync_took) };
        if now < changed + pause { Durability::Volatile } else { Durability::Durable }
    }

    /// Notes that everything is synced, or is being synced while nothing else is written.
    pub(super) fn synced(&mut self) {
        self.changed = None;
    }

    fn short_pause(&self, sync_took: Duration) -> Duration {
        (sync_took * SHARE_OF_TIME).max(PAUSE_MIN).min(self.pause_max)
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
    fn pause(schedule: &mut SyncSchedule, sync_took: Duration, far_behind: bool) -> Duration {
        let now = Instant::now();
        let is_synced = |&after: &Duration| {
            schedule.durability(now + after, sync_took, far_behind) == Durability::Durable
        };
        let pause = (0..=2_000).map(milliseconds).find(is_synced);
        schedule.synced();
        pause.expect("it is synced within two seconds")
    }

    #[test]
    fn nothing_is_due_without_a_change() {
        let mut schedule = SyncSchedule::new(SECOND);
        assert_eq!(schedule.due(Duration::ZERO), None);
        let now = Instant::now();
        assert_eq!(schedule.durability(now, Duration::ZERO, false), Durability::Volatile);
        assert_eq!(schedule.durability(now + PAUSE_MIN / 2, Duration::ZERO, false), Durability::Volatile);
        assert_eq!(schedule.due(Duration::ZERO), Some(now + PAUSE_MIN), "it counts from the first change");
        schedule.synced();
        assert_eq!(schedule.due(Duration::ZERO), None);
    }

    #[test]
    fn pause_follows_what_a_sync_takes_between_its_bounds() {
        let mut schedule = SyncSchedule::new(SECOND);
        for (took, expected) in
            [(0, 50), (1, 50), (5, 50), (20, 200), (99, 990), (100, 1_000), (3_000, 1_000)]
        {
            assert_eq!(
                pause(&mut schedule, milliseconds(took), false),
                milliseconds(expected),
                "after a sync of {took} ms"
            );
        }
    }

    #[test]
    fn far_behind_only_the_longest_pause_counts() {
        let mut schedule = SyncSchedule::new(SECOND);
        assert_eq!(pause(&mut schedule, Duration::ZERO, true), SECOND);
        let now = Instant::now();
        assert_eq!(schedule.durability(now, Duration::ZERO, true), Durability::Volatile);
        let caught_up = now + milliseconds(500);
        assert_eq!(schedule.durability(caught_up, Duration::ZERO, true), Durability::Volatile);
        assert_eq!(schedule.durability(caught_up, Duration::ZERO, false), Durability::Durable, "caught up");
    }

    #[test]
    fn longest_pause_is_an_upper_bound() {
        let mut schedule = SyncSchedule::new(milliseconds(10));
        assert_eq!(pause(&mut schedule, milliseconds(20), false), milliseconds(10));
        let mut schedule = SyncSchedule::new(Duration::ZERO);
        assert_eq!(pause(&mut schedule, Duration::ZERO, false), Duration::ZERO);
    }
}
