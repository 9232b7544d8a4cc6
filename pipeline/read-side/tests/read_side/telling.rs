//! What is told of changed rows: to those who watch, of rows that are whole, and nothing else.

use async_nats::{Client, Subscriber};
use futures::StreamExt as _;
use millstream_contract::{
    position::StreamPosition,
    stream_names::EVENTS,
    view_change::{KEYS_MAX, ViewChange, changed_subject, watched_subject},
};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_read_side::change_teller::ChangeTeller;
use millstream_runtime::metrics::Metrics;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{PATIENCE, Running, commit, grow, projections};

/// Somebody who watches.
struct Watcher {
    client: Client,
    changes: Subscriber,
}

impl Watcher {
    async fn new(server: &TestServer) -> Self {
        let client = server.client().await;
        let changes = client.subscribe("changed.>").await.unwrap();
        client.flush().await.unwrap();
        Self { client, changes }
    }

    /// Says that it watches a view, until it is told that any row may have changed; then it is heard.
    async fn watch(&mut self, view: &str) -> ViewChange {
        let told = async {
            loop {
                self.client.publish(watched_subject("test", view), "".into()).await.unwrap();
                let wait = tokio::time::timeout(std::time::Duration::from_millis(100), self.changes.next());
                if let Ok(message) = wait.await {
                    return change(view, message.unwrap());
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("somebody hears that a view is watched")
    }

    async fn next(&mut self, view: &str) -> ViewChange {
        let message = tokio::time::timeout(PATIENCE, self.changes.next()).await;
        change(view, message.expect("a change is told").unwrap())
    }
}

fn change(view: &str, message: async_nats::Message) -> ViewChange {
    assert_eq!(message.subject.as_str(), changed_subject("test", view));
    ViewChange::from_json(&message.payload).unwrap()
}

fn telling(broker: &NatsBroker, running: &Running) -> (Metrics, DropGuard) {
    let (metrics, stop) = (Metrics::new(), CancellationToken::new());
    tokio::spawn(ChangeTeller::new(broker.clone(), running.changed.clone(), &metrics).run(stop.clone()));
    (metrics, stop.drop_guard())
}

fn keys(keys: &[&str]) -> Option<Vec<String>> {
    Some(keys.iter().map(|key| (*key).to_owned()).collect())
}

#[tokio::test]
async fn who_watches_a_view_is_told_its_changed_keys_and_nobody_else_anything() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&broker, folder.path(), projections());
    let (metrics, _telling) = telling(&broker, &running);
    let last = grow(&broker, "a", 3).await;
    running.until_sequence("counts", last).await;
    let mut watcher = Watcher::new(&server).await;
    assert_eq!(metrics.changes_told().get(), 0, "nobody has watched");
    let generation = broker.state(EVENTS).await.unwrap().generation;
    let at = |sequence| StreamPosition::new(EVENTS, generation.clone(), sequence);
    // Whoever begins to watch may have asked before the first change that is noted for it.
    assert_eq!(watcher.watch("counts").await, ViewChange { position: at(last), keys: None });

    // The view of the same projection that nobody watches, and others, are not told of.
    let sequence = grow(&broker, "b", 1).await;
    assert_eq!(watcher.next("counts").await, ViewChange { position: at(sequence), keys: keys(&["b"]) });
    let sequence = grow(&broker, "a", 1).await;
    assert_eq!(watcher.next("counts").await, ViewChange { position: at(sequence), keys: keys(&["a"]) });
    assert_eq!(metrics.changes_told().get(), 3);
    running.finish().await.unwrap();
}

#[tokio::test]
async fn while_a_view_is_built_nothing_is_told_and_when_it_is_whole_that_is() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for number in 0..=KEYS_MAX {
        let message = commit(&format!("thing.key-{number}"), "grown", &format!("first-{number}"));
        last = broker.append(EVENTS, message).await.unwrap().sequence;
    }
    // One message a transaction, so that there are many while it is built.
    let running = Running::start_with(&broker, folder.path(), projections(), |config| config.batch_max = 1);
    let (metrics, _telling) = telling(&broker, &running);
    running.changed.watch("test", "counts", true);
    let mut watcher = Watcher::new(&server).await;
    running.until_sequence("counts", last).await;
    let sequence = grow(&broker, "end", 1).await;
    let position = |sequence| {
        StreamPosition::new(
            EVENTS,
            running.views.get("test", "counts").unwrap().status.borrow().position().generation,
            sequence,
        )
    };
    let mut seen = Vec::new();
    loop {
        let change = watcher.next("counts").await;
        assert!(change.position.sequence >= last, "told while it was built: {change:?}");
        let end = change.position == position(sequence);
        seen.push(change);
        if end {
            break;
        }
    }
    assert!(seen.len() <= 2 && seen[0].keys.is_none(), "{seen:?}");
    assert!(metrics.changes_told().get() <= 2);
    running.finish().await.unwrap();
}
