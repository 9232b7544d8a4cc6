//! Feeding projections: order, checkpoints, halts, rebuilds, ends.

use millstream_contract::stream_names::{EVENTS, OUTCOMES};
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use millstream_read_side::projection_runner::RunnerError;
use millstream_runtime::metrics::Metrics;
use millstream_store::read_store::{ProjectionId, ReadStore, StoreError};
use serde_json::json;

use crate::support::{
    Counts, PATIENCE, Running, commit, grow, message, projections, projections_with, reject,
};

#[tokio::test]
async fn rows_follow_both_streams() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    grow(&broker, "a", 3).await;
    let running = Running::start(&broker, folder.path(), projections());
    let last = grow(&broker, "b", 2).await;
    let record = reject(&broker, "test", &["one", "two"]).await;
    running.until_sequence("counts", last).await;
    running.until_sequence("latest", last).await;
    running.until_sequence("kinds", record).await;
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 3 })));
    assert_eq!(running.row("counts-total", "all"), Some(json!({ "count": 5 })));
    assert_eq!(running.row("latest", "b"), Some(json!(5)));
    assert_eq!(running.row("kinds", "two"), Some(json!("rejected")));
    assert_eq!(running.views.troubles(), Vec::<String>::new());
    running.finish().await.unwrap();
}

#[tokio::test]
async fn restarted_runner_goes_on_where_it_was() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = grow(&broker, "a", 10).await;
    let first = Running::start(&broker, folder.path(), projections());
    first.until_sequence("counts", last).await;
    first.finish().await.unwrap();

    let last = grow(&broker, "a", 5).await;
    let second = Running::start(&broker, folder.path(), projections());
    second.until_sequence("counts", last).await;
    second.until_sequence("latest", last).await;
    assert_eq!(second.row("counts", "a"), Some(json!({ "count": 15 })));
    let dump = second.dump();
    second.finish().await.unwrap();

    let elsewhere = tempfile::tempdir().unwrap();
    let rebuilt = Running::start(&broker, elsewhere.path(), projections());
    rebuilt.until_sequence("counts", last).await;
    rebuilt.until_sequence("latest", last).await;
    assert_eq!(rebuilt.dump(), dump);
    rebuilt.finish().await.unwrap();
}

#[tokio::test]
async fn unknown_event_halts_its_projection_and_no_other() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let counted = metrics.clone();
    let running =
        Running::start_with(&broker, folder.path(), projections(), |config| config.metrics = counted);
    grow(&broker, "a", 2).await;
    let strange = broker.append(EVENTS, commit("thing.a", "shrunk", "strange")).await.unwrap().sequence;
    let last = grow(&broker, "a", 2).await;
    running.until_sequence("latest", last).await;
    let status = running.until("counts", |status| status.halted.is_some()).await;
    let halt = status.halted.unwrap();
    assert_eq!((status.sequence, halt.sequence), (strange - 1, strange));
    assert!(halt.reason.contains("shrunk") && halt.reason.contains("evt.test.thing.a"), "{}", halt.reason);
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 2 })));
    // The failed event had changed this row before it failed.
    assert_eq!(running.row("counts-total", "all"), Some(json!({ "count": 2 })));
    assert!(running.views.troubles()[0].contains("test.counts halted at EVENTS 3"));
    let halted = |projection: &str| metrics.projection(projection).halted.get();
    assert_eq!((halted("test.counts"), halted("test.latest")), (1, 0));
    let behind = async {
        // The end of the stream is asked for at intervals.
        while metrics.projection("test.counts").lag_events.get() != 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, behind).await.expect("what it does not apply is counted");
    running.finish().await.unwrap();

    // A release that knows the event goes on from there; the two have different checkpoints now.
    let newer = projections_with(Counts { version: 1, knows_shrunk: true });
    let running = Running::start(&broker, folder.path(), newer);
    running.until_sequence("counts", last).await;
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 5 })));
    assert_eq!(running.row("latest", "a"), Some(json!(last)));
    running.finish().await.unwrap();
}

/// It stayed halted until its process started again.
#[tokio::test]
async fn view_of_outcomes_goes_on_when_what_is_no_record_is_removed() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let acknowledgement = br#"{"stream":"COMMANDS","seq":2}"#.to_vec();
    let stray = broker.append(OUTCOMES, message("out.0of1", acknowledgement)).await.unwrap().sequence;
    let record = reject(&broker, "test", &["one"]).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until("kinds", |status| status.halted.as_ref().is_some_and(|halt| halt.sequence == stray)).await;
    broker.remove(OUTCOMES, stray).await.unwrap();
    running.until("kinds", |status| status.sequence == record && status.halted.is_none()).await;
    assert_eq!(running.row("kinds", "one"), Some(json!("rejected")));
    running.finish().await.unwrap();
}

#[tokio::test]
async fn panic_and_undecodable_commit_halt_like_unknown_events() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    for (message, reason) in [
        (commit("thing.a", "panicked", "p"), "as the test demands"),
        (message("evt.test.thing.a", b"not a commit".to_vec()), "does not decode"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let sequence = broker.append(EVENTS, message).await.unwrap().sequence;
        let running = Running::start(&broker, folder.path(), projections());
        let status = running
            .until("counts", |status| status.halted.as_ref().is_some_and(|halt| halt.sequence <= sequence))
            .await;
        let halt = status.halted.unwrap();
        if halt.sequence == sequence {
            assert!(halt.reason.contains(reason), "{}", halt.reason);
        }
        running.finish().await.unwrap();
    }
}

#[tokio::test]
async fn events_of_others_move_the_checkpoint_undecoded() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let set = || {
        millstream_read_side::projection_runner::ProjectionSet::new(
            vec![Box::new(Counts { version: 1, knows_shrunk: false })],
            Vec::new(),
            &[],
        )
        .unwrap()
    };
    grow(&broker, "a", 1).await;
    let last = broker.append(EVENTS, message("evt.other.animal.x", b"not a commit".to_vec())).await.unwrap();
    let running = Running::start(&broker, folder.path(), set());
    running.until_sequence("counts", last.sequence).await;
    running.finish().await.unwrap();
    // The checkpoint stands on the message that does not decode, and is recognised there.
    let again = Running::start(&broker, folder.path(), set());
    again.until_sequence("counts", last.sequence).await;
    assert_eq!(again.row("counts", "a"), Some(json!({ "count": 1 })));
    again.finish().await.unwrap();
}

#[tokio::test]
async fn raised_version_builds_that_projection_anew() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = grow(&broker, "a", 4).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    running.until_sequence("latest", last).await;
    running.finish().await.unwrap();

    let newer = projections_with(Counts { version: 2, knows_shrunk: false });
    let running = Running::start(&broker, folder.path(), newer);
    let status = running.until("counts", |status| status.is_complete()).await;
    assert_eq!(status.complete_from, last);
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 4 })));
    let latest = running.until("latest", |status| status.is_complete()).await;
    assert_eq!(latest.complete_from, 4, "not rebuilt: still complete from where it was first built");
    running.finish().await.unwrap();
}

#[tokio::test]
async fn stream_made_anew_leads_to_a_rebuild_while_running() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = grow(&broker, "old", 3).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    let before = running.until("latest", |status| status.sequence == last).await;

    let context = async_nats::jetstream::new(server.client().await);
    context.delete_stream(EVENTS).await.unwrap();
    let options = millstream_jetstream::provision::ProvisionOptions::default();
    millstream_jetstream::provision::provision(&context, &options).await.unwrap();
    grow(&broker, "new", 5).await;
    let after = running
        .until("counts", |status| status.generation != before.generation && status.sequence == 5)
        .await;
    assert_ne!(after.generation, before.generation);
    assert_eq!(running.row("counts", "old"), None);
    assert_eq!(running.row("counts", "new"), Some(json!({ "count": 5 })));
    running.finish().await.unwrap();
}

#[tokio::test]
async fn other_message_at_the_checkpoint_leads_to_a_rebuild() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = grow(&broker, "a", 3).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    let generation = running.until("latest", |status| status.sequence == last).await.generation;
    running.finish().await.unwrap();

    // As if the tail had been lost and had grown again: same generation and length, another message at the end.
    let path = folder.path().join("rows.redb");
    let store = ReadStore::open(&path, 1024 * 1024).unwrap();
    let counts = ProjectionId::of_context("test", "counts");
    let mut checkpoint = store.snapshot().unwrap().checkpoint(&counts).unwrap().unwrap();
    assert_eq!((checkpoint.generation.as_str(), checkpoint.message_id.as_str()), (&*generation, "a-2"));
    checkpoint.message_id = "lost".to_owned();
    // Resetting throws the rows away: a projection that resumed now would have none.
    store.reset(&counts, &checkpoint).unwrap();
    drop(store);

    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 3 })));
    running.finish().await.unwrap();
}

#[tokio::test]
async fn checkpoint_beyond_the_end_of_the_stream_leads_to_a_rebuild() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = grow(&broker, "a", 3).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    running.finish().await.unwrap();
    let store = ReadStore::open(&folder.path().join("rows.redb"), 1024 * 1024).unwrap();
    let counts = ProjectionId::of_context("test", "counts");
    let mut checkpoint = store.snapshot().unwrap().checkpoint(&counts).unwrap().unwrap();
    checkpoint.sequence = 99;
    store.reset(&counts, &checkpoint).unwrap();
    drop(store);

    let running = Running::start(&broker, folder.path(), projections());
    running.until("counts", |status| status.sequence == last).await;
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 3 })));
    running.finish().await.unwrap();
}

#[tokio::test]
async fn second_process_of_the_same_name_says_so() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Running::start(&broker, one.path(), projections());
    let last = grow(&broker, "a", 1).await;
    first.until_sequence("latest", last).await;
    let second = Running::start(&server.broker().await, two.path(), projections());
    let error = second.ended().await.unwrap_err();
    assert!(error.to_string().contains("another process reads"), "{error}");
    let last = grow(&broker, "a", 1).await;
    first.until_sequence("latest", last).await;
    first.finish().await.unwrap();
}

#[tokio::test]
async fn missing_stream_ends_the_runner() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&server.broker().await, folder.path(), projections());
    let error = running.ended().await.unwrap_err();
    assert!(
        matches!(error, RunnerError::Read(_)) && error.to_string().contains("millstream setup"),
        "{error}"
    );
}

#[tokio::test]
async fn rows_of_work_in_hand_are_removed_only_unchanged() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = grow(&broker, "a", 1).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    let counts = ProjectionId::of_context("test", "counts");
    let rows = |value: &str| vec![("a".to_owned(), value.as_bytes().to_vec())];
    running.remover.remove(&counts, "counts", rows("{\"count\":7}")).await.unwrap();
    let last = grow(&broker, "b", 1).await;
    running.until_sequence("counts", last).await;
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 1 })));
    running.remover.remove(&counts, "counts", rows("{\"count\":1}")).await.unwrap();
    let last = grow(&broker, "b", 1).await;
    running.until_sequence("counts", last).await;
    assert_eq!(running.row("counts", "a"), None);
    let remover = running.remover.clone();
    running.finish().await.unwrap();
    remover.remove(&counts, "counts", rows("1")).await.unwrap_err();
}

#[tokio::test]
async fn file_that_is_in_use_is_refused() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&broker, folder.path(), projections());
    let error = ReadStore::open(&folder.path().join("rows.redb"), 1024 * 1024).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }));
    running.finish().await.unwrap();
}

#[tokio::test]
async fn server_killed_in_between_changes_nothing() {
    let mut server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&broker, folder.path(), projections());
    let last = grow(&broker, "a", 20).await;
    running.until_sequence("counts", last).await;
    server.kill().await;
    server.restart().await;
    let last = grow(&server.broker().await, "a", 20).await;
    running.until_sequence("counts", last).await;
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": 40 })));
    running.finish().await.unwrap();
}
