//! The state of the process at the other end of a connection.
//!
//! Waiters are woken in the order in which they came. A watch channel would wake its receivers in random order, and a run would not repeat
//! itself.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Running,
    Frozen,
    Killed,
}

/// A process, as its server sees it.
#[derive(Debug)]
pub(super) struct Connection {
    doing: Mutex<Doing>,
    changed: Notify,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self { doing: Mutex::new(Doing::Running), changed: Notify::new() }
    }

    /// Sets the state of the process, unless it was killed.
    pub(super) fn turn_to(&self, next: Doing) {
        let mut doing = self.doing();
        if *doing != Doing::Killed {
            *doing = next;
        }
        drop(doing);
        self.changed.notify_waiters();
    }

    pub(super) fn is_frozen(&self) -> bool {
        *self.doing() == Doing::Frozen
    }

    pub(super) fn is_killed(&self) -> bool {
        *self.doing() == Doing::Killed
    }

    /// Waits as long as the process is stopped, and for ever if it was killed.
    pub(super) async fn running(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if *self.doing() == Doing::Running {
                return;
            }
            changed.await;
        }
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        // Each change is one assignment, so a poisoned lock leaves nothing half done.
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
