//! The command handler against a real nats-server: outcomes, repeats, takeover, bad input. What random faults do to it is
//! the simulation's business.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

mod losses;
mod support;
mod taking_over;

use std::sync::Arc;

use millstream_contract::{
    commit::StoredCommit,
    dead_letter::DeadLetter,
    header,
    outcome::Outcome,
    stream_names::{DEAD_LETTERS, EVENTS},
    subject::StreamId,
};
use millstream_domain::decider::{AggregateRegistry, Decider, DecisionContext, EventSet as _, Rejection};
use millstream_jetstream::{
    broker::Broker, event_store::EventStore, nats_broker::NatsBroker, testing::test_server::TestServer,
};
use millstream_proof::{testing::stream_dump::dump, verification::verify};
use millstream_write_side::state_snapshots::StateSnapshots;

use crate::support::{Running, ask};

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_accepted_rejected_and_recognised() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    let accepted = ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &[]).await;
    assert_eq!(accepted, Outcome::Accepted { sequence: 1, version: 1, events: 1 });
    let rejected = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":9}"#, &[]).await;
    assert!(matches!(rejected, Outcome::Rejected { .. }), "{rejected:?}");
    let id = [(header::COMMAND_ID, "once")];
    let first = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":2}"#, &id).await;
    assert_eq!(first, Outcome::Accepted { sequence: 2, version: 2, events: 1 });
    let again = ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":2}"#, &id).await;
    assert_eq!(again, Outcome::Duplicate { of: 3, first: Box::new(first.clone()), other_content: false });
    // What was said under the same id and is not what was decided is never done, and is told from a repeat.
    let other = Outcome::Duplicate { of: 3, first: Box::new(first), other_content: true };
    for (subject, body) in [
        ("cmd.bank.account.ada.withdraw", r#"{"amount":1}"#),
        ("cmd.bank.account.ada.deposit", r#"{"amount":2}"#),
        ("cmd.bank.account.bob.withdraw", r#"{"amount":2}"#),
    ] {
        assert_eq!(ask(&broker, subject, body, &id).await, other, "{subject} {body}");
    }
    let stale = [(header::EXPECTED_VERSION, "1")];
    let conflict = ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":2}"#, &stale).await;
    assert!(
        matches!(&conflict, Outcome::Rejected { code, .. } if &**code == "version-conflict"),
        "{conflict:?}"
    );
    handler.stop().await;
    // A handler that has to learn the ids from OUTCOMES knows what was said under them, too.
    let handler = Running::start(&server, "b").await;
    assert_eq!(ask(&broker, "cmd.bank.account.ada.withdraw", r#"{"amount":1}"#, &id).await, other);
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

/// The commits of an aggregate, of which there are few.
async fn history(store: &EventStore<NatsBroker>, stream_id: &StreamId) -> Vec<StoredCommit> {
    store.current_history(stream_id, 0).await.unwrap().next_page().await.unwrap().unwrap()
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
        let history = history(&store, &StreamId::new("home", "diary", run).unwrap()).await;
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
    let history = history(&store, &StreamId::new("bank", "account", "7").unwrap()).await;
    assert_eq!(history.last().unwrap().commit.last_version(), 60);
}

/// Which of two headers counted was chance, and another one when the command was read again: set aside, it took effect all the same.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_come_twice_mean_the_same_however_often_they_are_read() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a").await;
    let twice = [
        ("Content-Type", "application/msgpack", "content-type", "application/json"),
        (header::COMMAND_ID, "six", "millstream-command-id", "seven"),
        ("Traceparent", "one", header::TRACE_PARENT, "two"),
    ];
    for (name, value, other, other_value) in twice {
        // In the order of a map, which is another one each time.
        for _ in 0..20 {
            let headers = [(name, value), (other, other_value)];
            let outcome = ask(&broker, "cmd.bank.account.ada.deposit", r#"{"amount":5}"#, &headers).await;
            assert!(
                matches!(&outcome, Outcome::DeadLettered { code, .. } if &**code == "header-twice"),
                "{name}: {outcome:?}"
            );
        }
    }
    handler.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
}
