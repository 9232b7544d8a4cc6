//! Large batches, of which one is written while the next is applied over it.

use jiff::Timestamp;
use millstream_contract::{
    commit::{Commit, EventEnvelope, RecordedEvent},
    outcome::{CommandOutcome, Generations, Outcome, OutcomeRecord, RecordKind},
    stored_message::{Headers, StoredMessage},
    stream_names::OUTCOMES,
};
use millstream_domain::{
    command_view::CommandView,
    projection::{OutcomeProjection as _, Projection, ProjectionError, Rows},
    testing::{memory_rows::MemoryRows, project::command_at},
};
use millstream_store::{
    read_store::{ProjectionId, TableName},
    testing::crash_storage::{CrashStorage, Survivors},
};

use super::*;
use crate::projection_runner::{
    decoding::{CommitSorter, ItemSorter},
    status::ProjectionStatus,
};

const CACHE: usize = 1024 * 1024;
/// Enough to be written aside.
const BATCH: u64 = MESSAGES_FOR_CORES as u64;

/// Counts all events, and those of each thing in a row that stays decoded; cannot read those of one type.
struct Counts;

impl Projection for Counts {
    fn context(&self) -> &'static str {
        "test"
    }

    fn name(&self) -> &'static str {
        "counts"
    }

    fn views(&self) -> &'static [&'static str] {
        &["counts", "total"]
    }

    fn handles(&self, _aggregate: &str) -> bool {
        true
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let total: u64 = rows.read("total", "all")?.unwrap_or(0);
        rows.write("total", "all", &(total + 1));
        rows.update("counts", envelope.stream_id.id(), |count: &mut u64| *count += 1)?;
        match envelope.event_type {
            "grown" => Ok(()),
            other => Err(ProjectionError::Inconsistent(format!("{other} is not known"))),
        }
    }
}

struct Fixture {
    applier: Applier,
    store: ReadStore,
    set: Arc<ProjectionSet>,
    statuses: StatusBoard,
    sorter: CommitSorter,
}

impl Fixture {
    fn new(store: ReadStore) -> Self {
        let set = Arc::new(ProjectionSet::new(vec![Box::new(Counts)], Vec::new(), &[]).unwrap());
        let statuses = StatusBoard::new(&set, &Metrics::new());
        let mut applier = Applier::new(store.clone(), Arc::clone(&set), statuses.clone(), &Metrics::new());
        applier.resume(0, Checkpoint::start("g", 1, 0));
        Self { applier, store, set, statuses, sorter: CommitSorter::new(&[0]) }
    }

    fn in_memory() -> Self {
        Self::new(ReadStore::with_backend(CrashStorage::default(), CACHE).unwrap())
    }

    /// Events of three things in batch_part, from `first` on; the one of sequence `unknown` is of no known type.
    fn batch(&mut self, first: u64, unknown: Option<u64>) -> Batch {
        let commits = (first..first + BATCH).map(|sequence| {
            let event_type = if Some(sequence) == unknown { "shrunk" } else { "grown" };
            self.sorter.item(&self.set.members, message(sequence, event_type))
        });
        Batch::of_commits(commits.collect())
    }

    /// Applies batches, one after the other, with more behind each of them.
    fn apply(&mut self, batches: u64, unknown: Option<u64>) -> Result<(), ApplyError> {
        for number in 0..batches {
            let batch = self.batch(1 + number * BATCH, unknown);
            self.applier.apply(&batch, Durability::Durable, true)?;
        }
        Ok(())
    }

    fn status(&self) -> ProjectionStatus {
        self.statuses.subscribe(0).borrow().clone()
    }

    fn row(&self, table: &str, key: &str) -> Option<u64> {
        let table = TableName::new(&ProjectionId::of_context("test", "counts"), table);
        let row = self.store.snapshot().unwrap().get(&table, key).unwrap()?;
        Some(serde_json::from_slice(&row).unwrap())
    }

    fn rows(&self) -> [Option<u64>; 4] {
        [self.row("total", "all"), self.row("counts", "0"), self.row("counts", "1"), self.row("counts", "2")]
    }
}

fn message(sequence: u64, event_type: &str) -> StoredMessage {
    let event =
        RecordedEvent { event_type: event_type.to_owned().into(), schema: 1, data: vec![0x80], command: 0 };
    let commit = Commit {
        commit_id: format!("commit-{sequence}").into(),
        first_version: 1,
        recorded_at: 0,
        commands: vec![command_at(sequence)],
        events: vec![event],
        previous: None,
    };
    StoredMessage {
        subject: format!("evt.test.thing.{}", sequence % 3),
        sequence,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: Headers::new(),
        payload: commit.encode().into(),
    }
}

#[test]
fn batches_over_each_other_count_every_event_once() {
    let mut fixture = Fixture::in_memory();
    fixture.apply(6, None).unwrap();
    fixture.applier.written().unwrap();
    let all = 6 * BATCH;
    assert_eq!(fixture.rows(), [Some(all), Some(all / 3), Some(all / 3), Some(all / 3)]);
    assert_eq!(fixture.status().sequence, all);
}

#[test]
fn messages_up_to_the_checkpoint_change_nothing_when_another_projection_needs_them() {
    let mut fixture = Fixture::in_memory();
    fixture.apply(2, None).unwrap();
    fixture.apply(3, None).unwrap();
    let overlapping = fixture.batch(2 * BATCH + BATCH / 2, None);
    fixture.applier.apply(&overlapping, Durability::Durable, true).unwrap();
    fixture.applier.written().unwrap();
    let all = 3 * BATCH + BATCH / 2 - 1;
    assert_eq!((fixture.row("total", "all"), fixture.status().sequence), (Some(all), all));
}

#[test]
fn nobody_is_told_of_a_batch_before_it_is_in_the_file() {
    let mut fixture = Fixture::in_memory();
    let statuses = fixture.statuses.subscribe(0);
    for number in 0..4 {
        let batch = fixture.batch(1 + number * BATCH, None);
        fixture.applier.apply(&batch, Durability::Volatile, true).unwrap();
        assert!(fixture.applier.writing.is_some(), "batch {number} is written aside");
        assert_eq!(statuses.borrow().sequence, number * BATCH, "the batch before is told, and no other");
        assert!(fixture.row("total", "all").unwrap_or(0) >= number * BATCH);
    }
    fixture.applier.written().unwrap();
    assert_eq!((statuses.borrow().sequence, fixture.row("total", "all")), (4 * BATCH, Some(4 * BATCH)));
}

#[test]
fn member_that_halts_over_a_batch_on_its_way_stops_before_that_message() {
    let mut fixture = Fixture::in_memory();
    let unknown = 2 * BATCH + 7;
    fixture.apply(4, Some(unknown)).unwrap();
    fixture.applier.written().unwrap();
    assert_eq!(fixture.row("total", "all"), Some(unknown - 1));
    let status = fixture.status();
    assert_eq!((status.sequence, status.halted.map(|halt| halt.sequence)), (unknown - 1, Some(unknown)));
}

/// The outcome of the command at `position`: of a new one, or of a repeat.
fn outcome(position: u64, repeated: Option<u64>) -> CommandOutcome {
    let rejected = Outcome::Rejected { code: "no".into(), message: "no".into() };
    let first = || Box::new(rejected.clone());
    let outcome = repeated.map_or(rejected.clone(), |of| Outcome::Duplicate {
        of,
        first: first(),
        other_content: false,
    });
    let id = format!("c-{}", repeated.unwrap_or(position)).into();
    CommandOutcome { position, id: Some(id), address: "test.thing.1.grow".into(), outcome, content: None }
}

fn record(outcome: CommandOutcome) -> StoredMessage {
    let position = outcome.position;
    let record = OutcomeRecord {
        record_id: format!("record-{position}").into(),
        kind: RecordKind::Outcomes,
        handler: "test".into(),
        after: position - 1,
        through: position,
        events_through: 0,
        outcomes: vec![outcome],
        generations: Generations::default(),
    };
    StoredMessage {
        subject: "out.0of1".to_owned(),
        sequence: position,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: Headers::new(),
        payload: record.encode().into(),
    }
}

#[test]
fn row_is_removed_only_as_it_was_read_also_while_a_batch_is_on_its_way() {
    let store = ReadStore::with_backend(CrashStorage::default(), CACHE).unwrap();
    let set = Arc::new(ProjectionSet::new(Vec::new(), vec![Box::new(CommandView)], &["test"]).unwrap());
    let statuses = StatusBoard::new(&set, &Metrics::new());
    let mut applier = Applier::new(store.clone(), Arc::clone(&set), statuses, &Metrics::new());
    applier.resume(0, Checkpoint::start("g", 1, 0));
    let mut sorter = ItemSorter::new(OUTCOMES, &[0]);
    // In the second batch the first command comes again.
    let repeated = |position| (position == BATCH + 1).then_some(1);
    for first in [1, 1 + BATCH] {
        let items = (first..first + BATCH)
            .map(|position| sorter.item(&set.members, record(outcome(position, repeated(position)))));
        let records = ByLane { ahead: items.collect(), behind: Vec::new() };
        applier.apply(&Batch { records, ..Batch::default() }, Durability::Durable, true).unwrap();
        assert!(applier.writing.is_some(), "it is written aside");
    }
    let removal = |position| {
        let mut rows = MemoryRows::new();
        CommandView.apply(&outcome(position, None), &mut rows).unwrap();
        let key = format!("c-{position}");
        let value = rows.get("command", &key).unwrap().unwrap();
        Removal { member: 0, table: "test".to_owned(), key, value }
    };
    let removals = [1, 2, BATCH + 2].map(removal).into();
    applier.apply(&Batch { removals, ..Batch::default() }, Durability::Durable, false).unwrap();
    let table = TableName::new(&ProjectionId::of_outcomes("command"), "test");
    let is_there =
        |position: u64| store.snapshot().unwrap().get(&table, &format!("c-{position}")).unwrap().is_some();
    assert!(is_there(1), "it is not what was read any more");
    assert!(is_there(3) && is_there(BATCH + 3));
    assert!(!is_there(2), "it was in the file");
    assert!(!is_there(BATCH + 2), "it was on its way to the file, and does not come back");
}

#[test]
fn full_disk_keeps_what_was_told() {
    let storage = CrashStorage::default();
    drop(ReadStore::with_backend(storage.clone(), CACHE).unwrap());
    let opening = storage.operations();
    let image = storage.after_power_cut(Survivors::All);
    let mut met = 0;
    for room in (0..200).step_by(9) {
        let failing = CrashStorage::new(image.clone(), Some(opening + room));
        let Ok(store) = ReadStore::with_backend(failing.clone(), CACHE) else { continue };
        let mut fixture = Fixture::new(store);
        let applied = fixture.apply(4, None).and_then(|()| fixture.applier.written());
        let told = fixture.status().sequence;
        match applied {
            Ok(()) => assert_eq!(told, 4 * BATCH),
            Err(error) => {
                assert!(matches!(error, ApplyError::Store(StoreError::DiskFull { .. })), "{error:?}");
                assert!(told < 4 * BATCH);
                met += 1;
            }
        }
        drop(fixture);
        let image = failing.after_power_cut(Survivors::None);
        let again = Fixture::new(ReadStore::with_backend(CrashStorage::new(image, None), CACHE).unwrap());
        let counts = ProjectionId::of_context("test", "counts");
        let stored = again.store.snapshot().unwrap().checkpoint(&counts).unwrap();
        let stored = stored.map_or(0, |checkpoint| checkpoint.sequence);
        assert!(stored >= told, "{told} was told and {stored} is there");
        assert_eq!(again.row("total", "all").unwrap_or(0), stored);
    }
    assert!(met > 0, "the disk was full at no point");
}
