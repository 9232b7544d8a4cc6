//! A value that one task writes and several wait for. As tokio's `watch`, but those that wait are woken in the order in
//! which they began to: `watch` wakes them in an order drawn at random, and one seed of the simulation would be several runs.
//!
//! Deliberately absent: an end. Whoever waits for a writer that is gone waits until it is dropped itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The value, for its writer and for those that wait: clones are the same one.
#[derive(Debug, Default)]
pub(super) struct LatestValue<T>(Arc<Inner<T>>);

#[derive(Debug, Default)]
struct Inner<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Clone for LatestValue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> LatestValue<T> {
    /// Begins with `value`.
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new(Inner { value: Mutex::new(value), changed: Notify::new() }))
    }

    /// Replaces it and wakes those that wait.
    pub(super) fn set(&self, value: T) {
        *self.lock() = value;
        self.0.changed.notify_waiters();
    }

    /// Looks at it; `look` must not wait.
    pub(super) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Ends when it is as wanted. A value that was there only between two looks may be missed.
    pub(super) async fn wait_until(&self, wanted: impl Fn(&T) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            // Before the look: a change behind it must not be missed.
            changed.as_mut().enable();
            if self.with(&wanted) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_woken_in_the_order_in_which_they_began() {
        let value = LatestValue::new(0);
        let (woken, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..20 {
            let (value, woken) = (value.clone(), woken.clone());
            tokio::spawn(async move {
                value.wait_until(|value| *value == 1).await;
                woken.send(number).unwrap();
            });
        }
        tokio::task::yield_now().await;
        value.set(1);
        for number in 0..20 {
            assert_eq!(order.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn a_value_that_is_there_already_is_not_waited_for() {
        let value = LatestValue::new(7);
        value.wait_until(|value| *value >= 7).await;
        assert_eq!(value.with(|value| *value), 7);
    }
}
