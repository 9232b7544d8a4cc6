//! Finds the events that made a row: it watches a projection while it is folded, without changing what the projection writes.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use millstream_contract::{
    commit::{CommittedCommand, EventEnvelope},
    subject::StreamId,
};

use crate::projection::{Projection, ProjectionError, Rows};

/// An event that changed the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// The aggregate whose event it is.
    pub stream_id: StreamId,
    /// The sequence of its commit in EVENTS.
    pub sequence: u64,
    /// The aggregate's version after this event.
    pub version: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Its type.
    pub event_type: String,
    /// The command that caused it.
    pub command: CommittedCommand,
    /// The row before; absent when there was none.
    pub before: Option<Vec<u8>>,
    /// The row after; absent when the event removed it.
    pub after: Option<Vec<u8>>,
}

/// The changes of a row, in the order of EVENTS. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RowChanges(Arc<Mutex<Vec<RowChange>>>);

impl RowChanges {
    /// The changes seen so far.
    pub fn seen(&self) -> Vec<RowChange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the changes seen since the last call.
    pub fn take(&self) -> Vec<RowChange> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, change: RowChange) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A batch that fails is applied again up to the failure.
        let is_new = changes
            .last()
            .is_none_or(|last| (last.sequence, last.version) < (change.sequence, change.version));
        if is_new {
            changes.push(change);
        }
    }
}

/// A projection with one watched row.
pub struct WatchedProjection {
    inner: Box<dyn Projection>,
    table: String,
    key: String,
    changes: RowChanges,
}

impl WatchedProjection {
    /// Watches the row `key` of `table`, one of the projection's tables.
    pub fn new(inner: Box<dyn Projection>, table: &str, key: &str) -> (Self, RowChanges) {
        let changes = RowChanges::default();
        let watched = Self { inner, table: table.to_owned(), key: key.to_owned(), changes: changes.clone() };
        (watched, changes)
    }
}

impl Projection for WatchedProjection {
    fn context(&self) -> &'static str {
        self.inner.context()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn version(&self) -> u32 {
        self.inner.version()
    }

    fn views(&self) -> &'static [&'static str] {
        self.inner.views()
    }

    fn tables(&self) -> &[&'static str] {
        self.inner.tables()
    }

    fn handles(&self, aggregate: &str) -> bool {
        self.inner.handles(aggregate)
    }

    fn reads(&self, context: &str, aggregate: &str) -> bool {
        self.inner.reads(context, aggregate)
    }

    fn begins(&self, generation: &str) {
        self.inner.begins(generation);
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let mut watched = WatchedRows { rows, table: &self.table, key: &self.key, before: None };
        self.inner.apply(envelope, &mut watched)?;
        let Some(before) = watched.before else { return Ok(()) };
        let before = before?;
        let after = rows.get(&self.table, &self.key)?;
        if before != after {
            self.changes.note(RowChange {
                stream_id: envelope.stream_id.clone(),
                sequence: envelope.broker_sequence,
                version: envelope.aggregate_version,
                recorded_at: envelope.recorded_at,
                event_type: envelope.event_type.to_owned(),
                command: envelope.command.clone(),
                before,
                after,
            });
        }
        Ok(())
    }
}

/// Notes the value of the watched row before the first write. It keeps no row decoded, so that every change is seen.
struct WatchedRows<'r, 'i> {
    rows: &'r mut (dyn Rows + 'i),
    table: &'r str,
    key: &'r str,
    before: Option<Result<Option<Vec<u8>>, ProjectionError>>,
}

impl WatchedRows<'_, '_> {
    fn about_to_change(&mut self, table: &str, key: &str) {
        if table == self.table && key == self.key && self.before.is_none() {
            self.before = Some(self.rows.get(table, key));
        }
    }
}

impl Rows for WatchedRows<'_, '_> {
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, ProjectionError> {
        self.rows.get(table, key)
    }

    fn put(&mut self, table: &str, key: &str, value: Vec<u8>) {
        self.about_to_change(table, key);
        self.rows.put(table, key, value);
    }

    fn delete(&mut self, table: &str, key: &str) {
        self.about_to_change(table, key);
        self.rows.delete(table, key);
    }

    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, ProjectionError> {
        self.rows.scan(table, prefix)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{memory_rows::MemoryRows, project::command_at};

    /// Row `a` is what was last said; `b` is written with every event and never changes.
    struct LastSaid;

    impl Projection for LastSaid {
        fn context(&self) -> &'static str {
            "test"
        }

        fn name(&self) -> &'static str {
            "last-said"
        }

        fn views(&self) -> &'static [&'static str] {
            &["last-said"]
        }

        fn handles(&self, _aggregate: &str) -> bool {
            true
        }

        fn apply(
            &self,
            envelope: &EventEnvelope<'_>,
            rows: &mut (dyn Rows + '_),
        ) -> Result<(), ProjectionError> {
            rows.write("last-said", "b", &json!({}));
            match envelope.event_type {
                "withdrawn" => rows.delete("last-said", "a"),
                said => rows.write("last-said", "a", &json!({ "said": said })),
            }
            Ok(())
        }
    }

    fn changes_of(key: &str, events: &[&str]) -> Vec<(u64, Option<String>, Option<String>)> {
        let (projection, changes) = WatchedProjection::new(Box::new(LastSaid), "last-said", key);
        let mut rows = MemoryRows::new();
        let stream_id = StreamId::new("test", "thing", "1").unwrap();
        let command = command_at(1);
        for (sequence, event_type) in (1..).zip(events) {
            let envelope = EventEnvelope {
                stream_id: &stream_id,
                broker_sequence: sequence,
                aggregate_version: sequence,
                recorded_at: Timestamp::UNIX_EPOCH,
                event_type,
                schema: 1,
                data: &[],
                command: &command,
            };
            projection.apply(&envelope, &mut rows).unwrap();
        }
        let text = |row: Option<Vec<u8>>| row.map(|row| String::from_utf8(row).unwrap());
        changes.seen().into_iter().map(|each| (each.sequence, text(each.before), text(each.after))).collect()
    }

    #[test]
    fn only_events_that_leave_the_row_different_are_noted() {
        let (one, two) = (Some(r#"{"said":"one"}"#.to_owned()), Some(r#"{"said":"two"}"#.to_owned()));
        assert_eq!(
            changes_of("a", &["one", "one", "two", "withdrawn", "withdrawn", "one"]),
            [(1, None, one.clone()), (3, one.clone(), two.clone()), (4, two, None), (6, None, one)]
        );
        assert_eq!(changes_of("b", &["one", "two"]), [(1, None, Some("{}".to_owned()))]);
        assert!(changes_of("c", &["one"]).is_empty());
    }
}
