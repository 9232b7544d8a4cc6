//! Reads what waits in the outbox of a report, a part at a time. Reading blocks.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use millstream_contract::position::Position;
use millstream_domain::report::OutboxKey;
use millstream_store::read_store::{Direction, KeyRange, ProjectionId, ReadStore, StoreError, TableName};

use super::decision::{Pending, Summary};

/// How many rows are looked at in one part, whether they are wanted or not.
const ROWS_MAX: usize = 2_000;

/// Which rows of an outbox are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// No states of open revisions, because their interval is not over.
    NotOpen,
    /// Only sealed revisions, because REPORTS is full.
    Sealed,
}

/// An outbox, and what is wanted of it.
pub(super) struct Outbox {
    pub(super) store: ReadStore,
    pub(super) projection: ProjectionId,
    pub(super) table: TableName,
    /// The stream to whose positions the rows belong.
    pub(super) stream: &'static str,
    pub(super) wanted: Wanted,
    /// The largest body that is published as it is.
    pub(super) bytes_max: usize,
}

/// The rows that wait in a part of an outbox, as of one moment.
pub(super) struct Waiting {
    /// The position of EVENTS up to which the rows count.
    pub(super) reached: Position,
    /// The rows by subject, in the order of their revisions.
    pub(super) by_subject: BTreeMap<String, Vec<Pending>>,
    /// Where the outbox goes on; `None` at its end.
    pub(super) after: Option<String>,
    /// Whether rows were passed by that are not wanted.
    pub(super) passed_by: bool,
}

impl Wanted {
    fn takes(self, summary: &Summary) -> bool {
        match self {
            Self::All => true,
            Self::NotOpen => !summary.is_open(),
            Self::Sealed => summary.is_sealed(),
        }
    }
}

impl Outbox {
    /// Reads the part behind a key. `None` while the report has no checkpoint.
    pub(super) fn take(&self, after: Option<&str>) -> Result<Option<Waiting>, StoreError> {
        let snapshot = self.store.snapshot()?;
        let Some(checkpoint) = snapshot.checkpoint(&self.projection)? else { return Ok(None) };
        let reached = Position::new(self.stream, checkpoint.generation, checkpoint.sequence);
        let mut waiting = Waiting { reached, by_subject: BTreeMap::new(), after: None, passed_by: false };
        let range =
            KeyRange { lower: after.map_or(Bound::Unbounded, Bound::Excluded), upper: Bound::Unbounded };
        let mut count = 0;
        snapshot.visit(&self.table, range, Direction::Ascending, |key, value| {
            self.take_row(key, value, &mut waiting);
            count += 1;
            if count < ROWS_MAX {
                return ControlFlow::Continue(());
            }
            waiting.after = Some(key.to_owned());
            ControlFlow::Break(())
        })?;
        Ok(Some(waiting))
    }

    fn take_row(&self, key: &str, value: &[u8], waiting: &mut Waiting) {
        let parsed = match key.parse::<OutboxKey>() {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::error!(projection = %self.projection, %error, "a row of the outbox is skipped");
                return;
            }
        };
        // Before anything is copied: most rows of most looks are not wanted.
        let summary = Summary::of_row(&parsed, value);
        if !self.wanted.takes(&summary) {
            waiting.passed_by = true;
            return;
        }
        let row = Pending::new(&parsed, summary, key, value, self.bytes_max);
        waiting.by_subject.entry(parsed.subject()).or_default().push(row);
    }
}

#[cfg(test)]
mod tests {
    use millstream_contract::stream_names::EVENTS;
    use millstream_domain::{projection::Rows as _, report::OUTBOX};
    use millstream_store::read_store::{Changes, Checkpoint, Durability, ProjectionRows};

    use super::*;

    /// Open rows of 3,000 keys, and behind them a sealed one.
    fn outbox(folder: &std::path::Path) -> Outbox {
        let store = ReadStore::open(&folder.join("rows.redb"), 1024 * 1024).unwrap();
        let projection = ProjectionId::of_context("test", "tally");
        let snapshot = store.snapshot().unwrap();
        let mut rows = ProjectionRows::new(&snapshot, &projection, [OUTBOX]);
        for number in 0..3_000 {
            let key = format!("test/tally/2012-01-31/{number:05}#000001");
            rows.put(OUTBOX, &key, br#"{"revision":1,"status":"open"}"#.to_vec());
        }
        let sealed = br#"{"revision":1,"status":"sealed"}"#.to_vec();
        rows.put(OUTBOX, "test/tally/2012-01-31/last#000001", sealed);
        let checkpoint = Some(Checkpoint::start("generation", 1, 0));
        let changes = Changes { projection: projection.clone(), rows, checkpoint };
        store.commit(vec![changes], Durability::Durable).unwrap();
        let table = TableName::new(&projection, OUTBOX);
        Outbox { store, projection, table, stream: EVENTS, wanted: Wanted::NotOpen, bytes_max: 1_000 }
    }

    /// Rows that were passed by did not count, so that one look went through the whole outbox.
    #[test]
    fn look_ends_after_so_many_rows_whether_they_are_wanted_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = outbox(folder.path());
        let first = outbox.take(None).unwrap().unwrap();
        assert!(first.by_subject.is_empty() && first.passed_by);
        assert_eq!(first.after.as_deref(), Some("test/tally/2012-01-31/01999#000001"));
        let second = outbox.take(first.after.as_deref()).unwrap().unwrap();
        let subjects: Vec<_> = second.by_subject.into_keys().collect();
        assert_eq!((subjects, second.after), (vec!["report.test.tally.last.2012-01-31".to_owned()], None));
        outbox.wanted = Wanted::All;
        assert_eq!(outbox.take(None).unwrap().unwrap().by_subject.len(), ROWS_MAX);
        outbox.wanted = Wanted::Sealed;
        assert!(outbox.take(None).unwrap().unwrap().by_subject.is_empty());
    }
}
