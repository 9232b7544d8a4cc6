//! Judges whether a part of a process makes progress, whatever the cause if it does not.
//!
//! The part reports how far it has come, and somebody else reports how much work there is, because the part itself may be what no longer learns
//! of work. If work waits for [`STALLED_AFTER`] without progress, the process is not ready. No task runs for this: the times are compared when
//! somebody asks for the reasons.

use std::{fmt::Write, time::Duration};

use tokio::time::Instant;

use super::{Readiness, Standing};

/// How long work may wait without progress before the process is not ready. The servers need less time for an election.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Judges the progress of one part of a process. Clones judge the same part.
#[derive(Debug, Clone)]
pub struct ProgressWatch {
    readiness: Readiness,
    name: String,
}

impl ProgressWatch {
    pub(super) fn new(readiness: Readiness, name: &str) -> Self {
        readiness.set(name, Standing::Watched(Progress::default()));
        Self { readiness, name: name.to_owned() }
    }

    /// Everything up to `position` is done. This ends a rest. Any change of the position counts as progress.
    pub fn reached(&self, position: u64) {
        self.change(|progress| progress.reached(position));
    }

    /// There is work up to `end`. There is none if that is already done.
    pub fn work_through(&self, end: u64) {
        self.change(|progress| progress.work_through(end));
    }

    /// Work waits, or may wait, for this reason, until something is done or the end of the work is known.
    pub fn held(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.change(|progress| progress.held(reason));
    }

    /// No work waits.
    pub fn nothing_waits(&self) {
        self.change(Progress::nothing_waits);
    }

    /// The part has nothing to do until it reports something again, even if there is work.
    pub fn rest(&self) {
        self.change(|progress| *progress = Progress::default());
    }

    /// How far it has come; `None` while it rests.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        match self.readiness.state().conditions.get(&self.name) {
            Some(Standing::Watched(progress)) => progress.reached,
            _ => None,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        if let Some(Standing::Watched(progress)) = self.readiness.state().conditions.get_mut(&self.name) {
            change(progress);
        }
    }
}

/// How far a part has come, and since when work has been waiting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    reached: Option<u64>,
    end: u64,
    held: Option<String>,
    /// Since when work has been waiting without progress.
    waiting_since: Option<Instant>,
}

impl Progress {
    fn reached(&mut self, position: u64) {
        if self.reached == Some(position) {
            return;
        }
        self.reached = Some(position);
        self.held = None;
        self.waiting_since = (self.end > position).then(Instant::now);
    }

    fn work_through(&mut self, end: u64) {
        self.end = end;
        self.held = None;
        if self.reached.is_some_and(|reached| end > reached) {
            self.waiting_since.get_or_insert_with(Instant::now);
        } else {
            self.waiting_since = None;
        }
    }

    fn held(&mut self, reason: String) {
        self.held = Some(reason);
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    fn nothing_waits(&mut self) {
        self.held = None;
        self.waiting_since = None;
    }

    /// Why the process is not ready, if work has waited too long.
    pub(super) fn trouble(&self) -> Option<String> {
        let waited = self.waiting_since?.elapsed();
        if waited < STALLED_AFTER {
            return None;
        }
        let mut words = format!("no progress for {} s although there is work", waited.as_secs());
        if let Some(reached) = self.reached.filter(|reached| self.end > *reached) {
            let _infallible = write!(words, " (done through {reached} of {})", self.end);
        }
        if let Some(reason) = &self.held {
            let _infallible = write!(words, ": {reason}");
        }
        Some(words)
    }
}
