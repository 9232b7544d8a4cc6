//! Rows about commands go when OUTCOMES has lost the records that name them, and only then.

use std::time::Duration;

use millstream_contract::{
    outcome::{CommandOutcome, Generations, Outcome, OutcomeRecord, RecordKind},
    stream_names::OUTCOMES,
};
use millstream_domain::{
    command_view::CommandView, process_rejections::ProcessRejections, projection::OutcomeProjection,
};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_read_side::projection_runner::{ProjectionSet, RunnerConfig, SweepPace};
use millstream_store::{
    read_store::{ProjectionId, ReadStore},
    testing::crash_storage::{CrashStorage, Survivors},
};

use crate::support::{PATIENCE, Running, message};

const CACHE: usize = 4 * 1024 * 1024;
/// A record has so many commands.
const COMMANDS: u64 = 8;
/// There are so many records, and the next three name ids for a second time.
const RECORDS: u64 = 40;
/// Purged are so many records, or so many more.
const PURGED: u64 = 20;

fn views() -> ProjectionSet {
    let outcomes: Vec<Box<dyn OutcomeProjection>> = vec![Box::new(CommandView), Box::new(ProcessRejections)];
    // Not every context is served here, and the rows of the others go as well.
    ProjectionSet::new(Vec::new(), outcomes, &["test"]).unwrap()
}

fn quick(config: &mut RunnerConfig) {
    config.sweep =
        SweepPace { interval: Duration::from_millis(20), rows_max: 7, pause: Duration::from_millis(1) };
}

/// Stops behind the first seven rows.
fn stuck(config: &mut RunnerConfig) {
    config.sweep =
        SweepPace { interval: Duration::from_millis(20), rows_max: 7, pause: Duration::from_secs(3600) };
}

/// The id of the command at `position`. In their order, the ids are not in that of the positions.
fn id(position: u64) -> String {
    format!("c-{:03}", position * 379 % 1_000)
}

async fn record(broker: &NatsBroker, after: u64, outcomes: Vec<CommandOutcome>) -> u64 {
    let through = after + outcomes.len() as u64;
    let record = OutcomeRecord {
        record_id: format!("record-{through}").into(),
        kind: RecordKind::Outcomes,
        handler: "test".into(),
        after,
        through,
        events_through: 0,
        outcomes,
        generations: Generations::default(),
    };
    broker.append(OUTCOMES, message("out.0of1", record.encode())).await.unwrap().sequence
}

fn rejected() -> Outcome {
    Outcome::Rejected { code: "no".into(), message: "no".into() }
}

fn outcome(position: u64, id: Option<String>, context: &str, outcome: Outcome) -> CommandOutcome {
    let address = format!("{context}.thing.1.grow").into();
    CommandOutcome { position, id: id.map(Into::into), address, outcome, content: None }
}

/// Records of commands with ids and without, of processes, and of two contexts. Then commands of purged records come again, one as a
/// repeat and one as a letter that was retried. Returns the sequence of the last record.
async fn history(broker: &NatsBroker) -> u64 {
    for number in 0..RECORDS {
        let after = number * COMMANDS;
        let outcomes = (after + 1..=after + COMMANDS).map(|position| match position % COMMANDS {
            1 => outcome(position, None, "test", rejected()),
            2 => outcome(position, Some(format!("fulfilment:{position}.2.0")), "test", rejected()),
            3 => outcome(position, Some(id(position)), "other", rejected()),
            4 if number == 2 => {
                let letter = Outcome::DeadLettered { code: "body-malformed".into(), message: "no".into() };
                outcome(position, Some("retried".into()), "test", letter)
            }
            5 if number == 2 => outcome(position, Some("repeated".into()), "test", rejected()),
            _ => outcome(position, Some(id(position)), "test", rejected()),
        });
        record(broker, after, outcomes.collect()).await;
    }
    let end = RECORDS * COMMANDS;
    let first = 2 * COMMANDS + 5;
    let repeat = Outcome::Duplicate { of: first, first: Box::new(rejected()), other_content: false };
    record(broker, end, vec![outcome(end + 1, Some("repeated".into()), "test", repeat)]).await;
    record(broker, end + 1, vec![outcome(end + 2, Some("retried".into()), "test", rejected())]).await
}

/// The rows as they come out when they are built from what OUTCOMES holds now.
async fn rebuilt(broker: &NatsBroker, last: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let another = RunnerConfig::new("another");
    let running = Running::start_with(broker, folder.path(), views(), |config| *config = another);
    running.until_sequence("command", last).await;
    running.until_sequence("process-rejection", last).await;
    let dump = running.dump();
    running.finish().await.unwrap();
    dump
}

async fn until_dump(running: &Running, what: &str, wanted: impl Fn(&str) -> bool) {
    let reached = async {
        while !wanted(&running.dump()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    assert!(reached.is_ok(), "{what}:\n{}", running.dump());
}

/// The view had a row of each command for ever, and one that was built anew had others.
#[tokio::test]
async fn rows_go_with_their_records_and_a_view_that_is_built_anew_has_the_same() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let last = history(&broker).await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start_with(&broker, folder.path(), views(), quick);
    running.until_sequence("command", last).await;
    running.until_sequence("process-rejection", last).await;
    let whole = running.dump();
    assert_eq!(whole, rebuilt(&broker, last).await);

    for purged in [PURGED, PURGED + 10] {
        broker.purge_subject(OUTCOMES, ">", Some(purged)).await.unwrap();
        let anew = rebuilt(&broker, last).await;
        assert!(anew.len() < whole.len());
        until_dump(&running, "rows that nothing tells of go", |dump| dump == anew).await;
        for id in ["repeated", "retried"] {
            assert!(running.row("command", id).is_some(), "{id} is named by a later record");
        }
        assert!(running.row("command", &id(purged * COMMANDS)).is_none());
        assert!(running.row("command", &id((purged + 1) * COMMANDS)).is_some());
    }
    running.finish().await.unwrap();
}

/// Whatever part of a pass is on the disk, the next process removes what is left.
#[tokio::test]
async fn removal_that_a_power_cut_interrupts_is_done_by_the_next_process() {
    for survivors in [Survivors::None, Survivors::Some { seed: 7 }, Survivors::All] {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let last = history(&broker).await;
        let disk = CrashStorage::default();
        let store = ReadStore::with_backend(disk.clone(), CACHE).unwrap();
        let running = Running::start_on(&broker, store, views(), stuck);
        running.until_sequence("command", last).await;
        running.until_sequence("process-rejection", last).await;
        let before = running.dump();
        broker.purge_subject(OUTCOMES, ">", Some(PURGED)).await.unwrap();
        until_dump(&running, "the first rows go", |dump| dump != before).await;
        let anew = rebuilt(&broker, last).await;
        assert_ne!(running.dump(), anew, "it stands in the middle");
        running.kill().await;

        let disk = CrashStorage::new(disk.after_power_cut(survivors), None);
        let store = ReadStore::with_backend(disk, CACHE).unwrap();
        let running = Running::start_on(&broker, store, views(), quick);
        until_dump(&running, "the rest goes", |dump| dump == anew).await;
        running.finish().await.unwrap();
    }
}

#[tokio::test]
async fn row_that_changes_between_being_read_and_being_removed_stays() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let last = history(&broker).await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&broker, folder.path(), views());
    running.until_sequence("command", last).await;
    let (repeated, other) = (id(COMMANDS), id(2 * COMMANDS));
    let stored = |id: &str| {
        let table = &running.views.get("test", "command").unwrap().table;
        (id.to_owned(), running.store.snapshot().unwrap().get(table, id).unwrap().unwrap())
    };
    let read = vec![stored(&repeated), stored(&other)];

    let end = RECORDS * COMMANDS + 2;
    let repeat = Outcome::Duplicate { of: COMMANDS, first: Box::new(rejected()), other_content: false };
    let last = record(&broker, end, vec![outcome(end + 1, Some(repeated.clone()), "test", repeat)]).await;
    running.until_sequence("command", last).await;
    running.remover.remove(&ProjectionId::of_outcomes("command"), "test", read).await.unwrap();
    let row = running.row("command", &repeated).expect("it is about a later command now");
    assert_eq!(row["last_repeat"], end + 1);
    assert!(running.row("command", &other).is_none());
    running.finish().await.unwrap();
}
