//! How long the writer waits for more before it begins a transaction. A transaction costs the same few hundred microseconds whether it
//! writes one row or fifty, so while messages trickle in, a short pause after each transaction makes them fewer and fuller. A message
//! that comes after such a pause is written at once, and so is everything while somebody waits for a position.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// While little waits, transactions take about one part in this many of the time.
const SHARE_OF_TIME: u32 = 10;
/// The shortest pause behind a transaction: what wakes the thread and the readers of statuses costs something too.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest pause: so much later a row may be seen by those who do not wait for its position.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// When the next small transaction may begin.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due: Option<Instant>,
}

impl Pace {
    /// Notes that a transaction has ended that began at `began`.
    pub(super) fn wrote(&mut self, began: Instant) {
        let pause = (began.elapsed() * SHARE_OF_TIME).clamp(PAUSE_MIN, PAUSE_MAX);
        self.due = Some(Instant::now() + pause);
    }

    /// When a transaction for a few messages may begin; at once when nothing is said.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|due| *due > Instant::now())
    }
}

/// Whether somebody waits until a projection has reached a position. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Hurry(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    more: Notify,
}

/// While it lives, transactions begin without a pause.
#[derive(Debug)]
pub struct InHurry(Hurry);

impl Hurry {
    /// Says that somebody waits from now on, until the answer is dropped.
    pub fn begin(&self) -> InHurry {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        self.0.more.notify_one();
        InHurry(self.clone())
    }

    /// Whether somebody waits.
    pub fn is_asked_for(&self) -> bool {
        self.0.count.load(Ordering::SeqCst) > 0
    }

    /// Returns at `due`, or as soon as somebody waits. Only one task may call it.
    pub(super) async fn or_until(&self, due: Instant) {
        while !self.is_asked_for() {
            // A notification from before the count was read is kept, and costs one more look.
            if tokio::time::timeout_at(due, self.0.more.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for InHurry {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pause_is_ten_times_what_a_transaction_took_between_its_bounds() {
        for (took, expected) in [(0, 2_000), (150, 2_000), (400, 4_000), (1_000, 10_000), (50_000, 10_000)] {
            let (mut pace, began) = (Pace::default(), Instant::now());
            assert_eq!(pace.due(), None);
            tokio::time::advance(Duration::from_micros(took)).await;
            pace.wrote(began);
            assert_eq!(pace.due().unwrap() - Instant::now(), Duration::from_micros(expected), "{took}");
            tokio::time::advance(Duration::from_micros(expected)).await;
            assert_eq!(pace.due(), None, "what comes later is written at once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_ends_the_pause_and_those_after_it() {
        let hurry = Hurry::default();
        let due = Instant::now() + Duration::from_secs(1);
        let pausing = tokio::spawn({
            let hurry = hurry.clone();
            async move {
                hurry.or_until(due).await;
                Instant::now()
            }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let waiting = hurry.begin();
        assert_eq!(pausing.await.unwrap(), due - Duration::from_millis(990));
        hurry.or_until(due).await;
        assert_eq!(Instant::now(), due - Duration::from_millis(990));
        drop(waiting);
        hurry.or_until(due).await;
        assert_eq!(Instant::now(), due);
    }
}
