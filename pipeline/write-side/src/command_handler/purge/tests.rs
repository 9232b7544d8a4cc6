//! Purging on a real server: what goes, what stays, and what becomes of ids at the edge of the window.

use std::{num::NonZeroUsize, path::Path};

use futures::StreamExt;
use millstream_contract::{
    header,
    outcome::{Outcome, OutcomeReply},
    stored_message::StoredMessage,
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    group_append::AppendStrategy, nats_broker::NatsBroker, testing::test_server::TestServer,
};
use millstream_proof::testing::account::Account;
use millstream_runtime::{
    health::Readiness,
    metrics::{Count, Metrics},
    shutdown::Shutdown,
};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    command_handler::{CommandHandler, HandlerSettings, Observed},
    round::InternalCommands,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};

const NOTHING: PurgeSettings =
    PurgeSettings { commands_after: None, outcomes_after: None, interval: Duration::from_secs(3600) };
/// Everything that is not newer than the newest record.
const ALL: PurgeSettings =
    PurgeSettings { commands_after: Some(Duration::ZERO), outcomes_after: Some(Duration::ZERO), ..NOTHING };

/// Everything that is older than a day, which is nothing.
const YOUNG: PurgeSettings = PurgeSettings { commands_after: DAY, outcomes_after: DAY, ..NOTHING };
const DAY: Option<Duration> = Some(Duration::from_secs(86_400));

/// Longer than any stall of a machine whose disk is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

struct Running {
    shutdown: Shutdown,
    index: Arc<IdIndex>,
    task: JoinHandle<Result<(), HandlerError>>,
}

impl Running {
    async fn start(server: &TestServer, index: IdIndex, purge: PurgeSettings) -> Self {
        let settings = HandlerSettings {
            name: "command-handler".to_owned(),
            internal_commands: InternalCommands::EffectsOnly,
            round_max: NonZeroUsize::new(100).unwrap(),
            cache: CacheLimits {
                states: NonZeroUsize::new(100).unwrap(),
                bytes: u64::MAX,
                unsaved_commits: NonZeroUsize::MAX,
            },
            append_strategy: AppendStrategy::default(),
            lease_time_to_live: Duration::from_secs(3),
            purge: Some(purge),
        };
        let observed = Observed::new(&Metrics::new(), &Readiness::new());
        let registry = AggregateRegistry::new().with::<Account>();
        let snapshots = StateSnapshots::in_memory().unwrap();
        let run = ulid::Ulid::generate().to_string();
        let mut handler =
            CommandHandler::new(server.broker().await, registry, settings, &run, index, snapshots, observed);
        let (shutdown, index) = (Shutdown::new(), handler.index.clone());
        let stop = shutdown.clone();
        Self { shutdown, index, task: tokio::spawn(async move { handler.run(stop).await }) }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

/// A server with so many commands, each decided in a record of its own, and without a handler.
async fn decided(commands: usize) -> (TestServer, NatsBroker) {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, IdIndex::in_memory().unwrap(), NOTHING).await;
    for number in 0..commands {
        deposit(&broker, &format!("decided {number}")).await;
    }
    handler.stop().await;
    (server, broker)
}

/// Sends commands that nobody decides; COMMANDS has stored them.
async fn send_undecided(broker: &NatsBroker, commands: usize) {
    let context = async_nats::jetstream::new(broker.client().clone());
    for _ in 0..commands {
        let sent = context.publish("cmd.bank.account.ada.deposit", r#"{"amount":1}"#.into()).await.unwrap();
        sent.await.unwrap();
    }
}

/// Sends a deposit and waits for its outcome: a record for each.
async fn deposit(broker: &NatsBroker, id: &str) -> Outcome {
    let client = broker.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(header::REPLY, inbox.as_str());
    headers.insert(header::COMMAND_ID, id);
    let context = async_nats::jetstream::new(client.clone());
    let subject = "cmd.bank.account.ada.deposit";
    let stored = context.publish_with_headers(subject, headers, r#"{"amount":1}"#.into()).await.unwrap();
    stored.await.expect(id);
    let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect(id).unwrap();
    OutcomeReply::from_json(&serde_json::from_slice(&answer.payload).unwrap()).unwrap().outcome
}

/// The record that tells of the command at `position`, and when it was stored.
async fn record_of(broker: &NatsBroker, position: u64) -> StoredMessage {
    let state = broker.state(OUTCOMES).await.unwrap();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = broker.get(OUTCOMES, sequence).await.unwrap().unwrap();
        if OutcomeRecord::from_stored(&message).unwrap().outcomes.iter().any(|it| it.position == position) {
            return message;
        }
    }
    panic!("no record of {position}");
}

fn index(folder: &Path) -> Arc<IdIndex> {
    Arc::new(IdIndex::open(&folder.join("ids.redb"), 1 << 20, Count::default()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn repeat_just_inside_the_window_is_a_duplicate_and_just_outside_is_decided_anew() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let on_disk = Arc::into_inner(index(folder.path())).unwrap();
    let handler = Running::start(&server, on_disk, NOTHING).await;
    for id in ["outside 1", "outside 2", "inside", "newest"] {
        assert!(matches!(deposit(&broker, id).await, Outcome::Accepted { .. }));
    }
    handler.stop().await;

    let inside = record_of(&broker, 3).await;
    let newest = broker.last(OUTCOMES, "out.0of1").await.unwrap().unwrap();
    let window = newest.stored_at.duration_since(inside.stored_at).unsigned_abs();
    let settings = PurgeSettings { outcomes_after: Some(window), ..NOTHING };
    let warm = index(folder.path());
    let state = broker.state(OUTCOMES).await.unwrap();
    warm.follow(&state.generation, state.last_sequence, None).unwrap();
    let purged = purge(&broker, &warm, settings).await.unwrap();
    assert_eq!((purged.ids, purged.commands), (2, 0));
    assert_eq!(broker.state(OUTCOMES).await.unwrap().first_sequence, inside.sequence);
    let again = purge(&broker, &warm, settings).await.unwrap();
    assert_eq!(again, Purged::default());

    let warm = Arc::into_inner(warm).unwrap();
    for (index, outside) in [(IdIndex::in_memory().unwrap(), "outside 1"), (warm, "outside 2")] {
        let handler = Running::start(&server, index, NOTHING).await;
        let repeat = deposit(&broker, "inside").await;
        assert!(matches!(repeat, Outcome::Duplicate { of: 3, .. }), "{repeat:?}");
        let anew = deposit(&broker, outside).await;
        assert!(matches!(anew, Outcome::Accepted { events: 1, .. }), "{outside}: {anew:?}");
        handler.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_covered_and_old_goes_and_the_last_record_stays() {
    let (server, broker) = decided(5).await;
    send_undecided(&broker, 1).await;
    let index = Arc::new(IdIndex::in_memory().unwrap());
    assert_eq!(purge(&broker, &index, YOUNG).await.unwrap(), Purged::default());

    let last = broker.state(OUTCOMES).await.unwrap().last_sequence;
    let purged = purge(&broker, &index, ALL).await.unwrap();
    assert_eq!((purged.commands, purged.records), (5, last - 1));
    assert_eq!(broker.state(COMMANDS).await.unwrap().first_sequence, 6);
    assert_eq!(broker.state(OUTCOMES).await.unwrap().first_sequence, last);

    let handler = Running::start(&server, IdIndex::in_memory().unwrap(), NOTHING).await;
    let next = deposit(&broker, "next").await;
    assert!(matches!(next, Outcome::Accepted { version: 7, .. }), "{next:?}");
    handler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn active_handler_purges_when_its_turn_begins_and_goes_on() {
    let (server, broker) = decided(5).await;
    let handler = Running::start(&server, IdIndex::in_memory().unwrap(), ALL).await;
    let purged = async {
        while broker.state(COMMANDS).await.unwrap().first_sequence < 6 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), purged).await.expect("the handler purges");
    let next = deposit(&broker, "next").await;
    assert!(matches!(next, Outcome::Accepted { version: 6, .. }), "{next:?}");
    handler.stop().await;
}

/// Only the active handler forgot, so that the index of a standby came to hold every id that there ever was.
#[tokio::test(flavor = "multi_thread")]
async fn standby_forgets_the_ids_that_another_handler_purges() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let active = Running::start(&server, IdIndex::in_memory().unwrap(), NOTHING).await;
    deposit(&broker, "first").await;
    let often = PurgeSettings { interval: Duration::from_millis(20), ..NOTHING };
    let standby = Running::start(&server, Arc::into_inner(index(folder.path())).unwrap(), often).await;
    let knows = |ids: &[&str]| {
        let ids: Vec<Arc<str>> = ids.iter().map(|id| (*id).into()).collect();
        standby.index.first_uses(&ids).unwrap().iter().flatten().count()
    };
    let until = async |ids: &[&str], count| {
        while knows(ids) != count {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(60);
    deposit(&broker, "in the file").await;
    tokio::time::timeout(limit, until(&["first", "in the file"], 2)).await.expect("it follows");
    standby.index.flush().unwrap();
    for id in ["in memory", "newest"] {
        deposit(&broker, id).await;
    }
    let all = ["first", "in the file", "in memory", "newest"];
    tokio::time::timeout(limit, until(&all, 4)).await.expect("it follows");

    let last = broker.state(OUTCOMES).await.unwrap().last_sequence;
    broker.purge_subject(OUTCOMES, ">", Some(last - 1)).await.unwrap();
    tokio::time::timeout(limit, until(&all, 1)).await.expect("it forgets");
    assert_eq!(knows(&["newest"]), 1);
    let by_hand = purge(&broker, &active.index, NOTHING).await.unwrap();
    assert_eq!(by_hand.ids, 3, "the active handler forgets too, whoever has purged");
    standby.stop().await;
    active.stop().await;
}

/// Lets a stream take as many bytes as it holds, divided by `used`.
async fn crowd(server: &TestServer, stream: &str, used: f64) {
    let context = async_nats::jetstream::new(server.client().await);
    let info = context.get_stream(stream).await.unwrap().cached_info().clone();
    let max_bytes = (info.state.bytes as f64 / used) as i64;
    let config = async_nats::jetstream::stream::Config { max_bytes, ..info.config };
    context.update_stream(config).await.unwrap();
}

/// A stream that was purged by age alone was full after hours, and then everybody was refused.
#[tokio::test(flavor = "multi_thread")]
async fn crowded_streams_lose_the_oldest_of_what_is_covered_and_nothing_else() {
    let (server, broker) = decided(40).await;
    let index = Arc::new(IdIndex::in_memory().unwrap());
    let mut troubles = Troubles::default();
    let last = broker.state(OUTCOMES).await.unwrap().last_sequence;
    crowd(&server, COMMANDS, 0.75).await;
    crowd(&server, OUTCOMES, 0.75).await;
    assert_eq!(make_room(&broker, &index, YOUNG, &mut troubles).await.unwrap(), Purged::default());

    crowd(&server, COMMANDS, 0.95).await;
    crowd(&server, OUTCOMES, 0.95).await;
    assert_eq!(
        make_room(&broker, &index, NOTHING, &mut troubles).await.unwrap(),
        Purged::default(),
        "never purged, never crowded"
    );
    let purged = make_room(&broker, &index, YOUNG, &mut troubles).await.unwrap();
    let used = async |stream| broker.state(stream).await.unwrap().usage.ratio();
    let (commands, records) = (used(COMMANDS).await, used(OUTCOMES).await);
    assert!((0.5..=0.6).contains(&commands) && (0.65..=0.75).contains(&records), "{commands} {records}");
    assert_eq!(broker.state(COMMANDS).await.unwrap().first_sequence, purged.commands + 1);
    assert_eq!(broker.state(OUTCOMES).await.unwrap().last_sequence, last);

    // What has no outcome stays, however crowded the stream is.
    send_undecided(&broker, 40).await;
    crowd(&server, COMMANDS, 2.0).await;
    crowd(&server, OUTCOMES, 1_000.0).await;
    make_room(&broker, &index, YOUNG, &mut troubles).await.unwrap();
    let state = broker.state(COMMANDS).await.unwrap();
    assert_eq!(state.first_sequence, 41, "all that is covered went, and nothing else: {state:?}");
    let state = broker.state(OUTCOMES).await.unwrap();
    assert_eq!((state.first_sequence, state.last_sequence), (last, last), "the last record is the cursor");
    assert_eq!(Vec::from_iter(&troubles.0), [&COMMANDS, &OUTCOMES], "they stay crowded");
    crowd(&server, COMMANDS, 0.5).await;
    make_room(&broker, &index, YOUNG, &mut troubles).await.unwrap();
    assert_eq!(Vec::from_iter(&troubles.0), [&OUTCOMES]);
}

/// COMMANDS was purged without a word when what follows it failed.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_for_commands_is_told_although_outcomes_cannot_be_purged() {
    let (server, broker) = decided(5).await;
    send_undecided(&broker, 40).await;
    crowd(&server, COMMANDS, 2.0).await;
    crowd(&server, OUTCOMES, 2.0).await;
    let context = async_nats::jetstream::new(server.client().await);
    let config = context.get_stream(OUTCOMES).await.unwrap().cached_info().config.clone();
    let config = async_nats::jetstream::stream::Config { deny_purge: true, ..config };
    context.update_stream(config).await.unwrap();
    let index = Arc::new(IdIndex::in_memory().unwrap());
    let mut troubles = Troubles::default();
    make_room(&broker, &index, YOUNG, &mut troubles).await.unwrap_err();
    assert_eq!(broker.state(COMMANDS).await.unwrap().first_sequence, 6);
    assert_eq!(Vec::from_iter(&troubles.0), [&COMMANDS], "it stays crowded");
}

/// A stream that nothing could be purged from was warned of every five seconds.
#[test]
fn trouble_is_said_when_it_begins_and_when_it_ends() {
    let mut troubles = Troubles::default();
    let changes = [false, true, true, true, false, false, true].map(|there| troubles.change(COMMANDS, there));
    assert_eq!(changes, [None, Some(true), None, None, Some(false), None, Some(true)]);
    assert_eq!(troubles.change(OUTCOMES, true), Some(true), "another stream is another trouble");
}

/// It goes on and refuses nobody, since it purges while it works.
#[tokio::test(flavor = "multi_thread")]
async fn small_streams_take_many_times_what_they_hold() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let purge = PurgeSettings { interval: Duration::from_millis(20), ..YOUNG };
    let handler = Running::start(&server, IdIndex::in_memory().unwrap(), purge).await;
    for stream in [COMMANDS, OUTCOMES] {
        let context = async_nats::jetstream::new(server.client().await);
        let config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
        let config = async_nats::jetstream::stream::Config { max_bytes: 32 * 1024, ..config };
        context.update_stream(config).await.unwrap();
    }
    // Of each stream, about 150 fit.
    for number in 0..600 {
        let outcome = deposit(&broker, &format!("id {number}")).await;
        assert!(matches!(outcome, Outcome::Accepted { .. }), "{number}: {outcome:?}");
    }
    let last = deposit(&broker, "id 599").await;
    assert!(matches!(last, Outcome::Duplicate { .. }), "a YOUNG id is known: {last:?}");
    handler.stop().await;
}
