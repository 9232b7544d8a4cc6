//! Applies messages to projections: all rows and checkpoints of a batch in one transaction.
//!
//! While a large batch is being written, the next one may already be applied on top of it in memory. But a batch is announced only after it is
//! written, so that no query sees what a failed write would undo. Applying a batch in memory is in `applier/batch_part.rs`.

mod batch_part;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use millstream_runtime::metrics::{Metrics, StoreMetrics};
use millstream_store::{
    parallel::Cores,
    read_store::{Checkpoint, Durability, ReadStore, StoreError, Uncommitted},
};
use tokio::time::Instant;

use self::batch_part::Applied;
use super::{
    changed_rows::ChangedRows,
    decoding::Item,
    follower::{ApplyError, RowFollower},
    projection_set::{Input, Member, ProjectionSet},
    reader_lane::{ByLane, Lane},
    status::{Halt, StatusBoard},
};

/// From this many messages on, a batch is worth several threads.
const MESSAGES_FOR_CORES: usize = 500;

/// A row to remove, unless it has changed since.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) member: usize,
    pub(super) table: String,
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

/// The contents of one transaction.
#[derive(Default)]
pub(super) struct Batch {
    /// Rows to remove first.
    pub(super) removals: Vec<Removal>,
    /// Commits, in the order of EVENTS within each lane.
    pub(super) commits: ByLane<Vec<Item>>,
    /// Records, in the order of OUTCOMES within each lane.
    pub(super) records: ByLane<Vec<Item>>,
}

impl Batch {
    /// A batch of commits, for projections that all stand at the same sequence.
    pub(super) fn of_commits(commits: Vec<Item>) -> Self {
        Self { commits: ByLane { ahead: commits, behind: Vec::new() }, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.removals.is_empty() && self.messages() == 0
    }

    pub(super) fn messages(&self) -> usize {
        let counted = |items: &ByLane<Vec<Item>>| items.ahead.len() + items.behind.len();
        counted(&self.commits) + counted(&self.records)
    }

    /// Whether the batch is worth several threads. Batches are only this large far behind the stream's end.
    pub(super) fn is_large(&self) -> bool {
        self.messages() >= MESSAGES_FOR_CORES
    }
}

/// Projections, their checkpoints, and the file.
pub(super) struct Applier {
    store: ReadStore,
    set: Arc<ProjectionSet>,
    statuses: StatusBoard,
    /// The checkpoints by index in the set; `None` until the source has checked the stored one.
    checkpoints: Vec<Option<Checkpoint>>,
    /// The lanes by index in the set.
    lanes: Vec<Lane>,
    metrics: StoreMetrics,
    cores: Cores,
    writing: Option<Writing>,
    /// Collects changed rows for those who watch them.
    changed: Option<ChangedRows>,
    /// The follower that keeps the rows elsewhere as well.
    follower: Option<Arc<dyn RowFollower>>,
    /// How long the last synced commit took.
    sync_took: Duration,
}

/// A batch that another thread is writing to the file.
struct Writing {
    applied: Applied,
    durability: Durability,
    thread: JoinHandle<Result<Duration, ApplyError>>,
}

impl Applier {
    pub(super) fn new(
        store: ReadStore,
        set: Arc<ProjectionSet>,
        statuses: StatusBoard,
        metrics: &Metrics,
    ) -> Self {
        let checkpoints = set.members.iter().map(|_| None).collect();
        let lanes = vec![Lane::Ahead; set.members.len()];
        let name =
            store.path().file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let (metrics, cores) = (metrics.store(&name), Cores::all());
        Self {
            store,
            set,
            statuses,
            checkpoints,
            lanes,
            metrics,
            cores,
            writing: None,
            changed: None,
            follower: None,
            sync_took: Duration::ZERO,
        }
    }

    /// The same, which also collects the rows that it changes.
    pub(super) fn noting(self, changed: ChangedRows) -> Self {
        Self { changed: Some(changed), ..self }
    }

    /// The same, with a follower that keeps the rows elsewhere as well.
    pub(super) fn followed_by(self, follower: Option<Arc<dyn RowFollower>>) -> Self {
        Self { follower, ..self }
    }

    /// Tells the follower where a projection begins.
    pub(super) fn follower_begins(&self, member: usize, belongs: bool) -> Result<(), ApplyError> {
        let each = self.set.members.get(member).zip(self.checkpoints.get(member).and_then(Option::as_ref));
        if let (Some(follower), Some((each, checkpoint))) = (&self.follower, each) {
            follower.begins(&each.id, checkpoint, belongs);
            follower.settled(&self.store)?;
        }
        Ok(())
    }

    /// Tells a projection which generation of its stream it is about to read.
    pub(super) fn begin(&self, member: usize, generation: &str) {
        if let Some(Member { input: Input::Events(projection), .. }) = self.set.members.get(member) {
            projection.begins(generation);
        }
    }

    /// Clears the halt of a projection.
    pub(super) fn go_on(&self, member: usize) {
        self.statuses.halted(member, None);
    }

    /// Sets the lane that feeds a projection.
    pub(super) fn assign(&mut self, member: usize, lane: Lane) {
        if let Some(slot) = self.lanes.get_mut(member) {
            *slot = lane;
        }
    }

    /// Starts a projection after its stored checkpoint.
    pub(super) fn resume(&mut self, member: usize, checkpoint: Checkpoint) {
        self.statuses.reached(member, &checkpoint);
        self.begins_behind(member, checkpoint);
    }

    fn begins_behind(&mut self, member: usize, checkpoint: Checkpoint) {
        if let Some(slot) = self.checkpoints.get_mut(member) {
            *slot = Some(checkpoint);
        }
    }

    /// Starts a projection from the beginning. Its rows are removed durably, together with the old checkpoint, because a crash must not leave a
    /// checkpoint without its rows.
    pub(super) fn reset(&mut self, member: usize, checkpoint: Checkpoint) -> Result<(), ApplyError> {
        self.written()?;
        let set = Arc::clone(&self.set);
        let Some(each) = set.members.get(member) else { return Ok(()) };
        self.store.reset(&each.id, &checkpoint)?;
        self.go_on(member);
        self.resume(member, checkpoint);
        if let Some(changed) = &self.changed {
            // For an empty stream, there is nothing to build.
            changed.note(&Uncommitted::new(Vec::new()), &[member]);
        }
        Ok(())
    }

    /// Makes everything durable that was applied before.
    pub(super) fn sync(&mut self) -> Result<(), ApplyError> {
        self.written()?;
        let nothing = Uncommitted::new(Vec::new());
        self.sync_took = commit(&self.store, &nothing, Durability::Durable, &self.metrics)?;
        Ok(())
    }

    /// How long the last sync took, including what it wrote.
    pub(super) fn sync_took(&self) -> Duration {
        self.sync_took
    }

    /// Applies a batch to every projection that wants its messages and has not applied them yet. If there is `more` to do, the batch may still
    /// be being written when this returns; [`Self::written`] waits for it.
    pub(super) fn apply(
        &mut self,
        batch: &Batch,
        durability: Durability,
        more: bool,
    ) -> Result<(), ApplyError> {
        let applied = self.apply_over(batch);
        // The previous batch has to be in the file first, even if this one failed.
        self.written()?;
        let applied = applied?;
        let (changes, store, metrics, follower) =
            (Arc::clone(&applied.changes), self.store.clone(), self.metrics.clone(), self.follower.clone());
        let write = move || {
            if let Some(follower) = follower {
                follower.follow(&changes)?;
            }
            Ok(commit(&store, &changes, durability, &metrics)?)
        };
        if more && may_be_written_aside(batch, &applied) {
            let thread = std::thread::spawn(write);
            self.writing = Some(Writing { applied, durability, thread });
            return Ok(());
        }
        let took = write()?;
        self.is_written(applied, durability, took)
    }

    /// Waits until everything that was applied is in the file, and announces it.
    pub(super) fn written(&mut self) -> Result<(), ApplyError> {
        let Some(Writing { applied, durability, thread }) = self.writing.take() else { return Ok(()) };
        let took = match thread.join() {
            Ok(written) => written?,
            Err(panicked) => std::panic::resume_unwind(panicked),
        };
        self.is_written(applied, durability, took)
    }

    fn is_written(
        &mut self,
        applied: Applied,
        durability: Durability,
        took: Duration,
    ) -> Result<(), ApplyError> {
        if let Some(follower) = &self.follower {
            follower.settled(&self.store)?;
        }
        if durability == Durability::Durable {
            self.sync_took = took;
        }
        self.tell(applied);
        Ok(())
    }

    /// Announces how far each projection has come and which rows have changed. Those who watch the statuses continue from here: queries that
    /// wait for a position, the sender of a process's effects, and the publisher of a report's revisions
    /// (`pipeline/read-side/src/report_publisher.rs`).
    fn tell(&self, applied: Applied) {
        let mut built = Vec::new();
        for (member, checkpoint) in &applied.reached {
            if self.statuses.whole_position(*member).is_none() {
                built.push(*member);
            }
            self.statuses.reached(*member, checkpoint);
        }
        if let Some(changed) = &self.changed {
            changed.note(&applied.changes, &built);
        }
        for (member, halt) in applied.halts {
            self.halt(member, halt);
        }
    }

    fn halt(&self, member: usize, halt: Halt) {
        if let Some(each) = self.set.members.get(member) {
            tracing::error!(
                projection = %each.id,
                sequence = halt.sequence,
                reason = &*halt.reason,
                "projection halted"
            );
        }
        self.statuses.halted(member, Some(halt));
    }
}

/// Whether a batch may be written while the next one is applied. It must be worth a thread. A halt must be known before the next batch. A row
/// whose removal was asked for must be gone when the answer comes.
fn may_be_written_aside(batch: &Batch, applied: &Applied) -> bool {
    batch.is_large() && batch.removals.is_empty() && applied.halts.is_empty()
}

/// Writes a batch and counts it. Returns how long the write took.
fn commit(
    store: &ReadStore,
    changes: &Uncommitted,
    durability: Durability,
    metrics: &StoreMetrics,
) -> Result<Duration, StoreError> {
    let began = Instant::now();
    store.commit_prepared(changes, durability)?;
    let took = began.elapsed();
    let seconds = took.as_secs_f64();
    metrics.rows.inc_by(changes.rows() as u64);
    match durability {
        Durability::Volatile => metrics.commit_seconds.observe(seconds),
        Durability::Durable => {
            metrics.durable_commit_seconds.observe(seconds);
            if let Ok(file) = std::fs::metadata(store.path()) {
                metrics.bytes.set(i64::try_from(file.len()).unwrap_or(i64::MAX));
            }
        }
    }
    Ok(took)
}

#[cfg(test)]
mod tests;
