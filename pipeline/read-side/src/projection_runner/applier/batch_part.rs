//! A batch that is applied in memory: for each projection its part of the batch, the rows that change, how far the projection comes, and why it
//! halts if it does.

use std::{panic::AssertUnwindSafe, sync::Arc};

use millstream_contract::{
    error_text::{one_line, panic_text},
    outcome::OutcomeRecord,
    set_aside::way_out,
};
use millstream_domain::projection::{OutcomeProjection, ProjectionError, Rows};
use millstream_store::read_store::{Changes, Checkpoint, ProjectionRows, Snapshot, StoreError, Uncommitted};

use super::{
    super::{
        decoding::{Content, Item},
        projection_set::{Input, Member},
        reader_lane::Lane,
        status::Halt,
    },
    Applier, Batch, Removal,
};

/// A batch that is applied in memory and not announced yet.
pub(super) struct Applied {
    pub(super) changes: Arc<Uncommitted>,
    pub(super) reached: Vec<(usize, Checkpoint)>,
    pub(super) halts: Vec<(usize, Halt)>,
}

/// What one projection of the set has to apply.
struct BatchPart<'a> {
    index: usize,
    member: &'a Member,
    checkpoint: &'a Checkpoint,
    removals: Vec<&'a Removal>,
    items: &'a [Item],
}

/// How far one projection has come in a batch.
struct Progress<'s> {
    rows: ProjectionRows<'s>,
    checkpoint: Option<Checkpoint>,
    halt: Option<Halt>,
}

impl Applier {
    /// Applies a batch in memory, over the batch that is being written. It changes nothing except the checkpoints after which the
    /// next batch begins.
    pub(super) fn apply_over(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        let snapshot = self.store.snapshot()?;
        let beneath = self.writing.as_ref().map(|writing| Arc::clone(&writing.applied.changes));
        let batch_parts: Vec<BatchPart<'_>> = (0..)
            .zip(&self.set.members)
            .filter_map(|(index, each)| self.batch_part(index, each, batch))
            .collect();
        let cores = self.cores.when(batch.is_large());
        let advanced = cores.each(batch_parts, |batch_part| {
            (batch_part.index, batch_part.member, advance(&snapshot, beneath.as_deref(), &batch_part))
        });
        let mut changes = Vec::with_capacity(advanced.len());
        let mut reached = Vec::new();
        let mut halts = Vec::new();
        for (member, each, progress) in advanced {
            let Progress { rows, checkpoint, halt } = progress?;
            reached.extend(checkpoint.clone().map(|checkpoint| (member, checkpoint)));
            halts.extend(halt.map(|halt| (member, halt)));
            changes.push(Changes { projection: each.id.clone(), rows, checkpoint });
        }
        let changes = Arc::new(Uncommitted::new(changes));
        for (member, checkpoint) in &reached {
            self.begins_behind(*member, checkpoint.clone());
        }
        Ok(Applied { changes, reached, halts })
    }

    /// The part of a batch that is for one projection, if there is any.
    fn batch_part<'a>(&'a self, index: usize, member: &'a Member, batch: &'a Batch) -> Option<BatchPart<'a>> {
        let checkpoint = self.checkpoints.get(index)?.as_ref()?;
        let lane = *self.lanes.get(index)?;
        let removals: Vec<&Removal> =
            batch.removals.iter().filter(|removal| removal.member == index).collect();
        let halted = self.statuses.is_halted(index);
        let items = if halted { &[] } else { batch.unseen(member, lane, checkpoint) };
        let anything = !removals.is_empty() || !items.is_empty();
        anything.then_some(BatchPart { index, member, checkpoint, removals, items })
    }
}

impl Batch {
    /// The messages of a projection's lane after its checkpoint. Only messages at or below the checkpoint may be skipped.
    fn unseen(&self, member: &Member, lane: Lane, checkpoint: &Checkpoint) -> &[Item] {
        let items = match member.input {
            Input::Events(_) => self.commits.of(lane),
            Input::Outcomes(_) => self.records.of(lane),
        };
        let seen = items.partition_point(|item| item.message.sequence <= checkpoint.sequence);
        items.get(seen..).unwrap_or_default()
    }
}

/// Applies `items` to one projection. If a message fails, the projection halts before it; what came before is kept.
fn advance<'s>(
    snapshot: &'s Snapshot,
    beneath: Option<&'s Uncommitted>,
    batch_part: &BatchPart<'_>,
) -> Result<Progress<'s>, StoreError> {
    let BatchPart { index, member, checkpoint, ref removals, items } = *batch_part;
    let mut rows = begin(snapshot, beneath, member, removals)?;
    let Some((failed, error)) = apply_all(index, member, items, &mut rows)? else {
        let checkpoint = items.last().map(|last| moved(checkpoint, last));
        return Ok(Progress { rows, checkpoint, halt: None });
    };
    let halt = items.get(failed).map(|item| Halt {
        sequence: item.message.sequence,
        no_commit: item.is_no_commit(),
        reason: format!("{}: {error}", item.message.subject).into(),
    });
    // The failed message may already have changed some rows. So the part is applied again from its start, and ends before that message.
    let before = items.get(..failed).unwrap_or_default();
    let mut rows = begin(snapshot, beneath, member, removals)?;
    if apply_all(index, member, before, &mut rows)?.is_some() {
        // The second attempt failed at another message, so the projection is not a function of its input. None of its changes are kept.
        return Ok(Progress { rows: begin(snapshot, beneath, member, removals)?, checkpoint: None, halt });
    }
    Ok(Progress { rows, checkpoint: before.last().map(|last| moved(checkpoint, last)), halt })
}

fn moved(checkpoint: &Checkpoint, last: &Item) -> Checkpoint {
    Checkpoint { sequence: last.message.sequence, message_id: last.message_id(), ..checkpoint.clone() }
}

fn begin<'s>(
    snapshot: &'s Snapshot,
    beneath: Option<&'s Uncommitted>,
    member: &Member,
    removals: &[&Removal],
) -> Result<ProjectionRows<'s>, StoreError> {
    let tables = match &member.input {
        Input::Events(projection) => projection.tables(),
        Input::Outcomes(_) => &[],
    };
    let mut rows = ProjectionRows::above(snapshot, beneath, &member.id, tables.iter().copied());
    for removal in removals {
        if matches!(member.input, Input::Outcomes(_)) {
            rows.declare(&removal.table);
        }
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

/// Applies items until one fails. Returns the index of that item and the reason. A failure of the file is returned as an error instead, because
/// it says nothing about the projection.
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
    match (&member.input, &item.content) {
        (Input::Events(projection), Content::Commit(Ok(stored))) => {
            // The application's own: a view, such as `pipeline/model/src/retail/till_view.rs`, or in the reporter a `Ledger`
            // (`pipeline/domain/src/report/ledger.rs`) over a report, such as `pipeline/model/src/retail/store_daily.rs`.
            for envelope in stored.envelopes() {
                projection.apply(&envelope, rows)?;
            }
            Ok(())
        }
        (Input::Outcomes(projection), Content::Record(Ok(record))) => {
            Ok(apply_record(projection.as_ref(), record, rows)?)
        }
        (_, Content::Commit(Err(error))) => {
            Err(Failure::Message(format!("{}; {}", one_line(error), way_out(item.message.sequence))))
        }
        (_, Content::Record(Err(error))) => Err(Failure::Message(one_line(error))),
        _ => Ok(()),
    }
}

/// Applies the outcomes of a record. The outcomes of each context go to a table of their own.
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

/// The rows of a projection of outcomes in one context. Its single table stands for that context's table.
struct ContextRows<'r, 's> {
    rows: &'r mut ProjectionRows<'s>,
    name: &'static str,
    context: &'r str,
}

impl ContextRows<'_, '_> {
    /// Another table name is passed on, and refused there because it is not declared.
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

/// The file's error, if that was the cause; otherwise the cause chain as text.
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
