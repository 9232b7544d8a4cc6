//! What a handler knows when its turn begins, after whatever ended the turn before.

use std::time::Duration;

use millstream_contract::{
    header,
    leases::COMMAND_HANDLER_LEASE,
    outcome::{OUTCOME_SUBJECT, Outcome, OutcomeRecord},
    stored_message::Headers,
    stream_names::{EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker, NewMessage},
    nats_broker::NatsBroker,
    testing::test_server::TestServer,
};
use millstream_proof::{testing::stream_dump::dump, verification::verify};
use millstream_write_side::state_snapshots::StateSnapshots;

use crate::support::{PATIENCE, Running, UNSAVED, ask, deposit_to_ten, until};

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

/// The names of the consumers of a stream.
async fn consumers(broker: &NatsBroker, stream: &str) -> Vec<String> {
    let answer =
        broker.client().request(format!("$JS.API.CONSUMER.NAMES.{stream}"), "".into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    serde_json::from_value(answer.get("consumers").unwrap().clone()).unwrap()
}

/// A standby that could not follow any more dropped its readers. Their consumers stayed behind, and whoever stood by under the same name
/// at once could be taken for another process.
#[tokio::test(flavor = "multi_thread")]
async fn standby_that_fails_gives_its_consumers_back() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let day = Duration::from_secs(86_400);
    assert!(broker.hold_lease(COMMAND_HANDLER_LEASE, "another", day).await.unwrap());
    let standby = Running::start(&server, "a").await;
    for (stream, name) in [(OUTCOMES, "command-handler-a-ids"), (EVENTS, "command-handler-a-states")] {
        let there = async {
            while !consumers(&broker, stream).await.contains(&name.to_owned()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.expect("it follows");
    }
    let no_record = NewMessage {
        subject: OUTCOME_SUBJECT.to_owned(),
        expected_last: None,
        headers: Headers::new(),
        payload: "no record".into(),
    };
    broker.append(OUTCOMES, no_record).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, standby.task).await.expect("it ends");
    ended.unwrap().unwrap_err();
    for stream in [OUTCOMES, EVENTS] {
        assert_eq!(consumers(&broker, stream).await, Vec::<String>::new(), "{stream}");
    }
}
