//! The command handler against a real nats-server: outcomes, repeats, takeover, bad input. What random faults do to it is
//! the simulation's business.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_nats::HeaderMap;
use futures::StreamExt;
use millstream_contract::{
    commit::StoredCommit,
    dead_letter::DeadLetter,
    exit_code::{ExitCode, Failure},
    header,
    outcome::{OUTCOME_SUBJECT, Outcome, OutcomeRecord, OutcomeReply, RETIRED_LAYOUT_SUBJECT},
    stored_message::Headers,
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES},
    subject::StreamId,
};
use millstream_domain::decider::{AggregateRegistry, Decider, DecisionContext, EventSet as _, Rejection};
use millstream_jetstream::{
    broker::{Broker, NewMessage},
    event_store::EventStore,
    nats_broker::NatsBroker,
    provision::{ProvisionOptions, provision},
    retry::RunIds,
    testing::test_server::TestServer,
};
use millstream_proof::{
    testing::{account::Account, stream_dump::dump},
    verification::verify,
};
use millstream_runtime::{
    health::Readiness,
    metrics::{HandlerMetrics, Metrics},
    shutdown::Shutdown,
};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    id_index::IdIndex,
    outcome_journal::{JournalError, OutcomeJournal, decided_through},
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};
use tokio::task::JoinHandle;

/// After so many commits, changed states are in the file.
const UNSAVED: usize = 20;

struct Running {
    shutdown: Shutdown,
    metrics: HandlerMetrics,
    task: JoinHandle<Result<(), HandlerError>>,
}

impl Running {
    async fn start(server: &TestServer, run: &str) -> Self {
        Self::start_with(server, run, StateSnapshots::in_memory().unwrap()).await
    }

    async fn start_with(server: &TestServer, run: &str, snapshots: StateSnapshots) -> Self {
        Self::start_deciding(server, run, snapshots, AggregateRegistry::new().with::<Account>()).await
    }

    async fn start_deciding(
        server: &TestServer,
        run: &str,
        snapshots: StateSnapshots,
        registry: AggregateRegistry,
    ) -> Self {
        let shutdown = Shutdown::new();
        let settings = HandlerSettings {
            name: format!("command-handler-{run}"),
            round_max: NonZeroUsize::new(1000).unwrap(),
            cache: CacheLimits {
                states: NonZeroUsize::new(1000).unwrap(),
                bytes: u64::MAX,
                unsaved_commits: NonZeroUsize::new(UNSAVED).unwrap(),
            },
            append_strategy: millstream_jetstream::group_append::AppendStrategy::default(),
            lease_time_to_live: Duration::from_secs(3),
            purge: None,
        };
        let observed = Observed::new(&Metrics::new(), &Readiness::new());
        let index = IdIndex::in_memory().unwrap();
        let metrics = observed.metrics.clone();
        let mut handler =
            CommandHandler::new(server.broker().await, registry, settings, run, index, snapshots, observed);
        let stop = shutdown.clone();
        Self { shutdown, metrics, task: tokio::spawn(async move { handler.run(stop).await }) }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }

    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Publishes a command and waits for its outcome.
async fn ask(broker: &NatsBroker, subject: &str, body: &str, headers: &[(&str, &str)]) -> Outcome {
    let client = broker.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let mut map = HeaderMap::new();
    map.insert(header::REPLY, inbox.as_str());
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    client.publish_with_headers(subject.to_owned(), map, body.to_owned().into()).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await.unwrap().unwrap();
    OutcomeReply::from_json(&serde_json::from_slice(&answer.payload).unwrap()).unwrap().outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_accepted_rejected_and_recognised() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    let accepted = ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[]).await;
    assert_eq!(accepted, Outcome::Accepted { position: 1, version: 1, events: 1 });
    let rejected = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":9}"#, &[]).await;
    assert!(matches!(rejected, Outcome::Rejected { .. }), "{rejected:?}");
    let id = [(header::COMMAND_ID, "once")];
    let first = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":2}"#, &id).await;
    assert_eq!(first, Outcome::Accepted { position: 2, version: 2, events: 1 });
    let again = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":2}"#, &id).await;
    assert_eq!(again, Outcome::Duplicate { of: 3, first: Box::new(first) });
    let stale = [(header::EXPECTED_VERSION, "1")];
    let conflict = ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":2}"#, &stale).await;
    assert!(
        matches!(&conflict, Outcome::Rejected { code, .. } if &**code == "version-conflict"),
        "{conflict:?}"
    );
    handler.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_and_why_is_kept_with_the_events() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    let headers = [
        (header::ACTOR, "anna"),
        (header::CORRELATION_ID, "order-7"),
        (header::CAUSATION_ID, "click-3"),
        (header::TRACE_PARENT, TRACE),
    ];
    for headers in [&headers[..], &[]] {
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, headers).await;
    }
    let mut kept = Vec::new();
    for sequence in 1..=2 {
        let commit =
            StoredCommit::from_stored(&broker.get(EVENTS, sequence).await.unwrap().unwrap()).unwrap();
        kept.extend(commit.commit.commands.into_iter().map(|command| {
            [command.actor, command.correlation_id, command.causation_id, command.traceparent]
        }));
    }
    let expected = headers.map(|(_, value)| Some(Arc::from(value)));
    assert_eq!(kept, [expected, [const { None }; 4]]);
    handler.stop().await;
}

/// A book in which each entry has the day on which it was written.
#[derive(Debug)]
struct Diary;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct WriteEntry {}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct EntryWritten {
    date: jiff::civil::Date,
}

millstream_domain::commands! { enum DiaryCommand { Write(WriteEntry) = "write" } }
millstream_domain::events! { enum DiaryEvent of "diary" { Written(EntryWritten) = "entry-written" v 1 } }

impl Decider for Diary {
    type Command = DiaryCommand;
    type Event = DiaryEvent;
    type State = ();

    const CONTEXT: &'static str = "home";
    const AGGREGATE: &'static str = "diary";

    fn decide(
        _state: &(),
        DiaryCommand::Write(_): &DiaryCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<DiaryEvent>, Rejection> {
        Ok(vec![DiaryEvent::Written(EntryWritten { date: context.today() })])
    }

    fn evolve(_state: &mut (), _event: &DiaryEvent) {}
}

/// Days began in UTC for everybody, so that what came in on a New York evening counted for the next day. Between these two
/// time zones lie 26 hours: at no moment do they have the same date.
#[tokio::test(flavor = "multi_thread")]
async fn days_begin_in_the_time_zone_of_the_registry() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let mut dates = Vec::new();
    for (run, zone) in [("a", "Pacific/Kiritimati"), ("b", "Etc/GMT+12")] {
        let zone = jiff::tz::TimeZone::get(zone).unwrap();
        let registry = AggregateRegistry::new().with::<Diary>().in_time_zone(zone);
        let snapshots = StateSnapshots::in_memory().unwrap();
        let handler = Running::start_deciding(&server, run, snapshots, registry).await;
        let accepted = ask(&broker, &format!("cmd.home.diary.{run}.write"), "{}", &[]).await;
        assert!(matches!(accepted, Outcome::Accepted { .. }), "{accepted:?}");
        handler.stop().await;
        let store = EventStore::new(broker.clone());
        let history = store.load_current(&StreamId::new("home", "diary", run).unwrap(), 0).await.unwrap();
        let envelope = history.first().unwrap().envelopes().next().unwrap();
        let DiaryEvent::Written(written) = DiaryEvent::from_envelope(&envelope).unwrap();
        dates.push(written.date);
    }
    let [east, west] = dates.as_slice() else { panic!("{dates:?}") };
    assert!(east > west, "{dates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_set_aside_with_its_bytes_and_blocks_nobody() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    let cases = [
        ("cmd.bank.account.ada.deposit", "{", "body-malformed", "EOF"),
        ("cmd.bank.account.ada.deposit", r#"{"amount":"x"}"#, "body-malformed", "amount"),
        ("cmd.bank.account.ada.deposit", r#"{"amount":1,"amuont":1}"#, "body-malformed", "amuont"),
        ("cmd.bank.account.ada.dance", "{}", "command-unknown", "deposit"),
        ("cmd.bank.piggy.ada.deposit", "{}", "aggregate-unknown", "bank.account"),
        ("cmd.bank.account.a/b.deposit", "{}", "subject-not-allowed", "a/b"),
        ("cmd.bank.account.ada.explode", "{}", "rules-panicked", "panicked"),
    ];
    for (sequence, (subject, body, code, words)) in (1..).zip(cases) {
        let outcome = ask(&broker, subject, body, &[]).await;
        let Outcome::DeadLettered { code: found, message } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(&**found, code, "{subject} {body}");
        assert!(message.contains(words), "{message}");
        let stored = broker.get(DEAD_LETTERS, sequence).await.unwrap().unwrap();
        let letter = DeadLetter::from_stored(&stored, &[]).unwrap();
        assert_eq!((letter.subject.as_str(), &*letter.payload), (subject, body.as_bytes()));
    }
    let fine = ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":1}"#, &[]).await;
    assert!(matches!(fine, Outcome::Accepted { version: 1, .. }), "{fine:?}");
    handler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_history_sets_only_its_own_commands_aside() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    broker.client().publish("evt.bank.account.broken", "not a commit".into()).await.unwrap();
    broker.client().flush().await.unwrap();
    let handler = Running::start(&server, "a").await;
    let broken = ask(&broker, "cmd.bank.account.broken.deposit", r#"{"amount":1}"#, &[]).await;
    assert!(
        matches!(&broken, Outcome::DeadLettered { code, .. } if &**code == "history-unreadable"),
        "{broken:?}"
    );
    let fine = ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":1}"#, &[]).await;
    assert!(matches!(fine, Outcome::Accepted { version: 1, .. }), "{fine:?}");
    handler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_handler_goes_on_after_a_crash_and_at_once_after_a_stop() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let first = Running::start(&server, "a").await;
    let body = r#"{"amount":1}"#;
    let id = [(header::COMMAND_ID, "before")];
    ask(&broker, "cmd.bank.account.ada.deposit", body, &id).await;
    let second = Running::start(&server, "b").await;
    first.crash().await;
    let after_crash = ask(&broker, "cmd.bank.account.ada.deposit", body, &[]).await;
    assert!(matches!(after_crash, Outcome::Accepted { version: 2, .. }), "{after_crash:?}");
    let repeat = ask(&broker, "cmd.bank.account.ada.deposit", body, &id).await;
    assert!(matches!(repeat, Outcome::Duplicate { of: 1, .. }), "{repeat:?}");
    let third = Running::start(&server, "c").await;
    second.stop().await;
    let after_stop = ask(&broker, "cmd.bank.account.ada.deposit", body, &[]).await;
    assert!(matches!(after_stop, Outcome::Accepted { version: 3, .. }), "{after_stop:?}");
    third.stop().await;
    let dump = dump(&broker).await;
    assert_eq!(verify(&dump, true).violations, []);
    let handlers: Vec<_> =
        dump.outcomes.iter().map(|message| OutcomeRecord::from_stored(message).unwrap().handler).collect();
    assert_eq!((handlers.first().unwrap().as_ref(), handlers.last().unwrap().as_ref()), ("a", "c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_over_a_restarting_server_is_decided_once_each() {
    let mut server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    let mut stored = 0_u64;
    for batch in 0..6 {
        let jetstream = async_nats::jetstream::new(broker.client().clone());
        let mut acknowledgements = Vec::new();
        for number in 0..500 {
            let subject = format!("cmd.bank.account.{}.deposit", number % 50);
            acknowledgements.push(jetstream.publish(subject, r#"{"amount":1}"#.into()).await.unwrap());
        }
        for acknowledgement in acknowledgements {
            stored = stored.max(acknowledgement.await.unwrap().sequence);
        }
        if batch % 2 == 0 {
            server.kill().await;
            server.restart().await;
        }
    }
    let last = ask(&broker, "cmd.bank.account.0.deposit", r#"{"amount":1}"#, &[]).await;
    assert!(matches!(last, Outcome::Accepted { version: 61, .. }), "{last:?}");
    handler.stop().await;
    let dump = dump(&broker).await;
    assert_eq!(verify(&dump, true).violations, []);
    let store = EventStore::new(broker);
    let history = store.load_current(&StreamId::new("bank", "account", "7").unwrap(), 0).await.unwrap();
    assert_eq!(history.last().unwrap().commit.last_version(), 60);
}

async fn deposit_to_ten(broker: &NatsBroker) {
    for account in 0..10 {
        let outcome =
            ask(broker, &format!("cmd.bank.account.{account}.deposit"), r#"{"amount":5}"#, &[]).await;
        assert!(matches!(outcome, Outcome::Accepted { events: 1, .. }), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_stood_by_takes_over_with_the_states_in_memory() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let active = Running::start(&server, "a").await;
    deposit_to_ten(&broker).await;
    let standby = Running::start(&server, "b").await;
    deposit_to_ten(&broker).await;
    until("the standby has followed all", || standby.metrics.cached_aggregates.get() == 10).await;
    active.stop().await;
    deposit_to_ten(&broker).await;
    let metrics = &standby.metrics;
    assert_eq!((metrics.cache_hits.get(), metrics.cache_misses.get()), (10, 0));
    assert_eq!(metrics.conflicts.get(), 0, "what was followed is what is there");
    standby.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_started_again_on_its_folder_knows_what_it_knew() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let snapshots = StateSnapshots::in_memory().unwrap();
    let first = Running::start_with(&server, "a", snapshots.clone()).await;
    deposit_to_ten(&broker).await;
    first.stop().await;
    let second = Running::start_with(&server, "b", snapshots.clone()).await;
    deposit_to_ten(&broker).await;
    let metrics = &second.metrics;
    assert_eq!((metrics.cache_misses.get(), metrics.conflicts.get()), (0, 0));
    second.stop().await;
    // Snapshots that others have overtaken: each is refused once, and read on from where it stands.
    let third = Running::start(&server, "c").await;
    deposit_to_ten(&broker).await;
    third.stop().await;
    let fourth = Running::start_with(&server, "d", snapshots).await;
    let outcome = ask(&broker, "cmd.bank.account.3.withdraw", r#"{"amount":15}"#, &[]).await;
    assert!(matches!(outcome, Outcome::Accepted { version: 4, .. }), "{outcome:?}");
    let outcome = ask(&broker, "cmd.bank.account.4.withdraw", r#"{"amount":16}"#, &[]).await;
    assert!(matches!(outcome, Outcome::Rejected { .. }), "{outcome:?}");
    fourth.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, vec![]);
}

/// Snapshots were there only after an ordered end: who came after `kill -9` read the history of each aggregate on its own.
#[tokio::test(flavor = "multi_thread")]
async fn handler_started_again_after_a_crash_reads_only_what_followed_its_last_snapshots() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let snapshots = StateSnapshots::in_memory().unwrap();
    let first = Running::start_with(&server, "a", snapshots.clone()).await;
    for _ in 0..3 {
        deposit_to_ten(&broker).await;
    }
    until("snapshots are written", || snapshots.newest().unwrap().is_some()).await;
    first.crash().await;
    let saved = snapshots.newest().unwrap().unwrap().sequence;
    assert!((UNSAVED as u64..30).contains(&saved), "{saved}");
    let second = Running::start_with(&server, "b", snapshots).await;
    deposit_to_ten(&broker).await;
    let metrics = &second.metrics;
    assert_eq!((metrics.cache_misses.get(), metrics.conflicts.get()), (0, 0));
    assert_eq!(metrics.warm.get(), 1);
    second.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, vec![]);
}

/// With its folder lost, a handler took the lease and read the history of each aggregate on its own.
#[tokio::test(flavor = "multi_thread")]
async fn handler_without_its_folder_reads_events_once_before_it_decides() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let first = Running::start(&server, "a").await;
    deposit_to_ten(&broker).await;
    // What is no commit is not waited for, though the stream ends with it.
    broker.client().publish("evt.bank.account.junk", "not a commit".into()).await.unwrap();
    broker.client().flush().await.unwrap();
    first.stop().await;
    let second = Running::start(&server, "b").await;
    deposit_to_ten(&broker).await;
    let metrics = &second.metrics;
    assert_eq!((metrics.cache_hits.get(), metrics.cache_misses.get()), (10, 0));
    assert_eq!(metrics.conflicts.get(), 0);
    second.stop().await;
}

/// Waits for a condition that nothing announces.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Takes streams away and makes them again, as `millstream setup` does.
async fn made_anew(server: &TestServer, streams: &[&str], options: &ProvisionOptions) {
    let context = async_nats::jetstream::new(server.client().await);
    for stream in streams {
        context.delete_stream(stream).await.unwrap();
    }
    provision(&context, options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_made_anew_beside_kept_events_are_refused_unless_they_begin_behind_them() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    for _ in 0..3 {
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[]).await;
    }
    handler.stop().await;

    made_anew(&server, &[COMMANDS], &ProvisionOptions::default()).await;
    let refused = Running::start(&server, "b").await.task.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("delete COMMANDS and OUTCOMES"), "{refused}");
    made_anew(&server, &[OUTCOMES], &ProvisionOptions::default()).await;
    let refused = Running::start(&server, "c").await.task.await.unwrap().unwrap_err();
    assert!(matches!(refused, HandlerError::NoJournal { highest: 3, first: 1 }), "{refused:?}");
    assert_eq!(
        broker.state(OUTCOMES).await.unwrap().last_sequence,
        0,
        "no fence makes the next start look right"
    );
    // Not even when a command stands at the position of the last commit.
    for _ in 0..3 {
        broker.client().publish("cmd.bank.account.ada.withdraw", r#"{"amount":9}"#.into()).await.unwrap();
    }
    broker.client().flush().await.unwrap();
    let refused = Running::start(&server, "d").await.task.await.unwrap().unwrap_err();
    assert!(matches!(refused, HandlerError::NoJournal { .. }), "{refused:?}");

    let options = ProvisionOptions { commands_after: 3, ..ProvisionOptions::default() };
    made_anew(&server, &[COMMANDS], &options).await;
    let handler = Running::start(&server, "e").await;
    let next = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":15}"#, &[]).await;
    assert_eq!(next, Outcome::Accepted { position: 4, version: 4, events: 1 });
    handler.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_outcomes_are_told_again_from_the_same_commands() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    for id in ["one", "two", "one"] {
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[(header::COMMAND_ID, id)]).await;
    }
    handler.stop().await;
    made_anew(&server, &[OUTCOMES], &ProvisionOptions::default()).await;
    let handler = Running::start(&server, "b").await;
    let again =
        ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[(header::COMMAND_ID, "two")]).await;
    let first = Outcome::Accepted { position: 2, version: 2, events: 1 };
    assert_eq!(again, Outcome::Duplicate { of: 2, first: Box::new(first) });
    handler.stop().await;
    let verification = verify(&dump(&broker).await, true);
    assert_eq!((verification.violations.as_slice(), verification.duplicates), ([].as_slice(), 2));
}

/// Release 0.1.0 could share the partitions over several active handlers. Before it did, it closed the chain; then it recorded how
/// they were shared. Whoever went on behind either of them would decide commands that another chain has decided.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_several_active_handlers_are_refused_and_left_alone() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[]).await;
    handler.stop().await;
    let last = broker.last(OUTCOMES, OUTCOME_SUBJECT).await.unwrap().unwrap();
    let generations = OutcomeRecord::from_stored(&last).unwrap().generations;
    let record = |kind: &str| ("id", kind.to_owned(), "run", 1, 1, 1, [0_u8; 0], generations.clone());
    let ((id, kind, run, after, through, events, outcomes, of), layout) =
        (record("layout"), (2, vec![1_u64; 16]));
    let begun = rmp_serde::to_vec(&(id, kind, run, after, through, events, outcomes, of, 1, layout)).unwrap();
    let closed = rmp_serde::to_vec(&record("closed")).unwrap();
    for (subject, expected_last, body) in
        [(OUTCOME_SUBJECT, Some(last.sequence), closed), (RETIRED_LAYOUT_SUBJECT, None, begun)]
    {
        let message = NewMessage {
            subject: subject.to_owned(),
            expected_last,
            headers: Headers::new(),
            payload: body.into(),
        };
        let end = broker.append(OUTCOMES, message).await.unwrap().sequence;
        let refused = Running::start(&server, "b").await.task.await.unwrap().unwrap_err();
        assert_eq!(refused.exit_code(), ExitCode::Data, "{refused}");
        assert!(refused.to_string().contains("of several active command handlers"), "{refused}");
        let looked_at = decided_through(&broker).await.unwrap_err();
        assert!(matches!(looked_at, JournalError::Record(_)), "{looked_at}");
        assert_eq!(broker.state(OUTCOMES).await.unwrap().last_sequence, end);
    }
    // The chain that this release knows may have been purged away meanwhile.
    broker.purge_subject(OUTCOMES, OUTCOME_SUBJECT, None).await.unwrap();
    let journal = OutcomeJournal::take_over(broker, generations, RunIds::new("c"), true).await;
    assert!(matches!(journal, Err(JournalError::Record(_))), "{journal:?}");
}
