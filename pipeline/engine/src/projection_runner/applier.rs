//! Applies messages to projections: all rows and checkpoints of a batch in one transaction. No threads, no waiting.

use std::{panic::AssertUnwindSafe, sync::Arc};

use super::{
    feed::{Content, Item},
    projection_set::{Feed, Member, ProjectionSet},
    status::{Halt, StatusBoard},
};
use tokio::time::Instant;

use crate::{
    contract::outcome::OutcomeRecord,
    error_text::{one_line, panic_text},
    metrics::{Metrics, StoreMetrics},
    projection::{OutcomeProjection, ProjectionError, Rows},
    read_store::{Changes, Checkpoint, Durability, ProjectionRows, ReadStore, Snapshot, StoreError},
    seeded_bug::{SeededBug, planted},
    side_by_side::Cores,
};

/// So many messages are worth more than one thread.
const MESSAGES_FOR_CORES: usize = 500;

/// A row of work in hand to remove, unless it has changed since.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) member: usize,
    pub(super) table: String,
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

/// What one transaction applies.
#[derive(Default)]
pub(super) struct Batch {
    /// Rows to remove first.
    pub(super) removals: Vec<Removal>,
    /// Commits, in the order of EVENTS.
    pub(super) commits: Vec<Item>,
    /// Records, in the order of OUTCOMES.
    pub(super) records: Vec<Item>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.removals.is_empty() && self.messages() == 0
    }

    pub(super) fn messages(&self) -> usize {
        self.commits.len() + self.records.len()
    }

    /// The messages behind a member's checkpoint. Only a sequence at or below it may be skipped.
    fn unseen(&self, member: &Member, checkpoint: &Checkpoint) -> &[Item] {
        let items = match member.feed {
            Feed::Events(_) => &self.commits,
            Feed::Outcomes(_) => &self.records,
        };
        if planted(SeededBug::SeenAppliedAgain) {
            return items;
        }
        let seen = items.partition_point(|item| item.message.sequence <= checkpoint.sequence);
        items.get(seen..).unwrap_or_default()
    }
}

/// Projections, their checkpoints, and the file.
pub(super) struct Applier {
    store: ReadStore,
    set: Arc<ProjectionSet>,
    statuses: StatusBoard,
    /// By the set's indices; `None` until the source has set it.
    checkpoints: Vec<Option<Checkpoint>>,
    metrics: StoreMetrics,
    cores: Cores,
}

/// What one member is to apply.
struct Turn<'a> {
    index: usize,
    member: &'a Member,
    checkpoint: &'a Checkpoint,
    removals: Vec<&'a Removal>,
    items: &'a [Item],
}

/// What became of one member in a batch.
struct Progress<'s> {
    rows: ProjectionRows<'s>,
    checkpoint: Option<Checkpoint>,
    halt: Option<Halt>,
}

impl Applier {
    pub(super) fn new(
        store: ReadStore,
        set: Arc<ProjectionSet>,
        statuses: StatusBoard,
        metrics: &Metrics,
    ) -> Self {
        let checkpoints = set.members.iter().map(|_| None).collect();
        let name =
            store.path().file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self { store, set, statuses, checkpoints, metrics: metrics.store(&name), cores: Cores::all() }
    }

    /// Tells a member which incarnation of its stream it is about to be fed from.
    pub(super) fn begin(&self, member: usize, generation: &str) {
        if let Some(Member { feed: Feed::Events(projection), .. }) = self.set.members.get(member) {
            projection.begins(generation);
        }
    }

    /// Starts a member behind its stored checkpoint.
    pub(super) fn resume(&mut self, member: usize, checkpoint: Checkpoint) {
        self.statuses.reached(member, &checkpoint);
        if let Some(slot) = self.checkpoints.get_mut(member) {
            *slot = Some(checkpoint);
        }
    }

    /// Starts a member from nothing: its rows are removed, durably.
    pub(super) fn reset(&mut self, member: usize, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let set = Arc::clone(&self.set);
        let Some(each) = set.members.get(member) else { return Ok(()) };
        self.store.reset(&each.id, &checkpoint)?;
        self.statuses.halted(member, None);
        self.resume(member, checkpoint);
        Ok(())
    }

    /// Makes everything that was committed before durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.commit(Vec::new(), Durability::Durable)
    }

    fn commit(&self, changes: Vec<Changes<'_>>, durability: Durability) -> Result<(), StoreError> {
        let rows: usize = changes.iter().map(|each| each.rows.changed()).sum();
        let began = Instant::now();
        self.store.commit(changes, durability)?;
        let seconds = began.elapsed().as_secs_f64();
        self.metrics.rows.inc_by(rows as u64);
        match durability {
            Durability::Volatile => self.metrics.commit_seconds.observe(seconds),
            Durability::Durable => {
                self.metrics.durable_commit_seconds.observe(seconds);
                if let Ok(file) = std::fs::metadata(self.store.path()) {
                    self.metrics.bytes.set(i64::try_from(file.len()).unwrap_or(i64::MAX));
                }
            }
        }
        Ok(())
    }

    /// Applies a batch to every member that wants its messages and is not beyond them.
    pub(super) fn apply(&mut self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        let snapshot = self.store.snapshot()?;
        let turns: Vec<Turn<'_>> =
            (0..).zip(&self.set.members).filter_map(|(index, each)| self.turn(index, each, batch)).collect();
        let cores = self.cores.when(batch.messages() >= MESSAGES_FOR_CORES);
        let advanced = cores.each(turns, |turn| (turn.index, turn.member, advance(&snapshot, &turn)));
        let mut changes = Vec::with_capacity(advanced.len());
        let mut reached = Vec::new();
        let mut halts = Vec::new();
        for (member, each, progress) in advanced {
            let Progress { rows, checkpoint, halt } = progress?;
            reached.extend(checkpoint.clone().map(|checkpoint| (member, checkpoint)));
            halts.extend(halt.map(|halt| (member, halt)));
            changes.push(Changes { projection: each.id.clone(), rows, checkpoint });
        }
        self.commit(changes, durability)?;
        for (member, checkpoint) in reached {
            self.resume(member, checkpoint);
        }
        for (member, halt) in halts {
            self.halt(member, halt);
        }
        Ok(())
    }

    /// What a batch holds for a member, if anything.
    fn turn<'a>(&'a self, index: usize, member: &'a Member, batch: &'a Batch) -> Option<Turn<'a>> {
        let checkpoint = self.checkpoints.get(index)?.as_ref()?;
        let removals: Vec<&Removal> =
            batch.removals.iter().filter(|removal| removal.member == index).collect();
        let halted = self.statuses.is_halted(index);
        let items = if halted { &[] } else { batch.unseen(member, checkpoint) };
        let anything = !removals.is_empty() || !items.is_empty();
        anything.then_some(Turn { index, member, checkpoint, removals, items })
    }

    fn halt(&self, member: usize, halt: Halt) {
        if let Some(each) = self.set.members.get(member) {
            tracing::error!(
                projection = %each.id,
                sequence = halt.sequence,
                reason = &*halt.reason,
                "projection halted; it tries again when the process starts anew"
            );
        }
        self.statuses.halted(member, Some(halt));
    }
}

/// Applies `items` to one member. One that fails halts it before that message; what came before stays.
fn advance<'s>(snapshot: &'s Snapshot, turn: &Turn<'_>) -> Result<Progress<'s>, StoreError> {
    let Turn { index, member, checkpoint, ref removals, items } = *turn;
    let mut rows = begin(snapshot, member, removals)?;
    let Some((failed, error)) = apply_all(index, member, items, &mut rows)? else {
        let checkpoint = items.last().map(|last| moved(checkpoint, last));
        return Ok(Progress { rows, checkpoint, halt: None });
    };
    let halt = items.get(failed).map(|item| Halt {
        sequence: item.message.sequence,
        reason: format!("{}: {error}", item.message.subject).into(),
    });
    // The failed message may have changed some rows: begin again and stop before it.
    let before = items.get(..failed).unwrap_or_default();
    let mut rows = begin(snapshot, member, removals)?;
    if apply_all(index, member, before, &mut rows)?.is_some() {
        // It fails elsewhere the second time, so it is not a function of its input: keep none of its changes.
        return Ok(Progress { rows: begin(snapshot, member, removals)?, checkpoint: None, halt });
    }
    Ok(Progress { rows, checkpoint: before.last().map(|last| moved(checkpoint, last)), halt })
}

fn moved(checkpoint: &Checkpoint, last: &Item) -> Checkpoint {
    Checkpoint { sequence: last.message.sequence, message_id: last.message_id(), ..checkpoint.clone() }
}

fn begin<'s>(
    snapshot: &'s Snapshot,
    member: &Member,
    removals: &[&Removal],
) -> Result<ProjectionRows<'s>, StoreError> {
    let tables = match &member.feed {
        Feed::Events(projection) => projection.tables(),
        Feed::Outcomes(_) => &[],
    };
    let mut rows = ProjectionRows::new(snapshot, &member.id, tables.iter().copied());
    for removal in removals {
        match rows.get(&removal.table, &removal.key) {
            Ok(Some(value)) if value == removal.value => rows.delete(&removal.table, &removal.key),
            Ok(_) => {}
            Err(error) => {
                if let Some(error) = store_error(error) {
                    return Err(error);
                }
            }
        }
    }
    Ok(rows)
}

/// The index of the first item that fails, and why. Failures of the file are errors of their own.
fn apply_all(
    index: usize,
    member: &Member,
    items: &[Item],
    rows: &mut ProjectionRows<'_>,
) -> Result<Option<(usize, String)>, StoreError> {
    for (place, item) in (0..).zip(items) {
        if !item.wanted_by.contains(&index) {
            continue;
        }
        let applied = std::panic::catch_unwind(AssertUnwindSafe(|| apply_item(member, item, rows)));
        let reason = match applied {
            Ok(Ok(())) => match rows.undeclared_table() {
                None => continue,
                Some(table) => format!("the projection writes table {table:?} but does not declare it"),
            },
            Ok(Err(Failure::Projection(error))) => match as_store_error(error) {
                Ok(error) => return Err(error),
                Err(reason) => reason,
            },
            Ok(Err(Failure::Message(reason))) => reason,
            Err(panic) => format!("the projection panicked: {}", panic_text(panic.as_ref())),
        };
        return Ok(Some((place, reason)));
    }
    Ok(None)
}

enum Failure {
    Projection(ProjectionError),
    Message(String),
}

impl From<ProjectionError> for Failure {
    fn from(error: ProjectionError) -> Self {
        Self::Projection(error)
    }
}

fn apply_item(member: &Member, item: &Item, rows: &mut ProjectionRows<'_>) -> Result<(), Failure> {
    match (&member.feed, &item.content) {
        (Feed::Events(projection), Content::Commit(Ok(stored))) => {
            for envelope in stored.envelopes() {
                projection.apply(&envelope, rows)?;
            }
            Ok(())
        }
        (Feed::Outcomes(projection), Content::Record(Ok(record))) => {
            Ok(apply_record(projection.as_ref(), record, rows)?)
        }
        (_, Content::Commit(Err(error))) => Err(Failure::Message(one_line(error))),
        (_, Content::Record(Err(error))) => Err(Failure::Message(one_line(error))),
        _ => Ok(()),
    }
}

/// The outcomes of each context go to a table of its own.
fn apply_record(
    projection: &dyn OutcomeProjection,
    record: &OutcomeRecord,
    rows: &mut ProjectionRows<'_>,
) -> Result<(), ProjectionError> {
    for outcome in &record.outcomes {
        let context = outcome.address.split('.').next().unwrap_or_default();
        rows.declare(context);
        projection.apply(outcome, &mut ContextRows { rows, name: projection.name(), context })?;
    }
    Ok(())
}

/// The one table of a projection of outcomes, in one context.
struct ContextRows<'r, 's> {
    rows: &'r mut ProjectionRows<'s>,
    name: &'static str,
    context: &'r str,
}

impl ContextRows<'_, '_> {
    /// A table of another name stays as it is, and is refused below as undeclared.
    fn table<'t>(&'t self, table: &'t str) -> &'t str {
        if table == self.name { self.context } else { table }
    }
}

impl Rows for ContextRows<'_, '_> {
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, ProjectionError> {
        self.rows.get(self.table(table), key)
    }

    fn put(&mut self, table: &str, key: &str, value: Vec<u8>) {
        let table = if table == self.name { self.context } else { table };
        self.rows.put(table, key, value);
    }

    fn delete(&mut self, table: &str, key: &str) {
        let table = if table == self.name { self.context } else { table };
        self.rows.delete(table, key);
    }

    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, ProjectionError> {
        self.rows.scan(self.table(table), prefix)
    }
}

/// The file's error, when that is what a projection met; else the cause chain.
fn as_store_error(error: ProjectionError) -> Result<StoreError, String> {
    let chain = one_line(&error);
    store_error(error).ok_or(chain)
}

fn store_error(error: ProjectionError) -> Option<StoreError> {
    match error {
        ProjectionError::Store(source) => source.downcast::<StoreError>().ok().map(|error| *error),
        _ => None,
    }
}
