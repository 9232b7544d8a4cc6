//! A command handler whose files are damaged: it sets them aside, learns anew what they held, and goes on.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{num::NonZeroUsize, path::Path, time::Duration};

use async_nats::HeaderMap;
use futures::StreamExt;
use millstream_contract::{
    header,
    outcome::{Outcome, OutcomeReply},
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    group_append::AppendStrategy, nats_broker::NatsBroker, testing::test_server::TestServer,
};
use millstream_proof::{
    testing::{account::Account, stream_dump::dump},
    verification::verify,
};
use millstream_runtime::{
    health::Readiness,
    metrics::{Count, Metrics},
    shutdown::Shutdown,
};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    id_index::IdIndex,
    round::InternalCommands,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const CACHE: usize = 1024 * 1024;

struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), HandlerError>>,
    damaged: Count,
}

impl Running {
    /// A handler whose files are in `folder`.
    async fn start(server: &TestServer, run: &str, folder: &Path) -> Self {
        let (shutdown, damaged) = (Shutdown::new(), Count::default());
        let settings = HandlerSettings {
            name: "command-handler".to_owned(),
            internal_commands: InternalCommands::EffectsOnly,
            round_max: NonZeroUsize::new(1000).unwrap(),
            cache: CacheLimits {
                states: NonZeroUsize::new(1000).unwrap(),
                bytes: u64::MAX,
                unsaved_commits: NonZeroUsize::new(1000).unwrap(),
            },
            append_strategy: AppendStrategy::default(),
            lease_time_to_live: Duration::from_secs(3),
            purge: None,
        };
        let observed = Observed::new(&Metrics::new(), &Readiness::new());
        let index = IdIndex::open(&folder.join("command-ids.redb"), CACHE, damaged.clone()).unwrap();
        let snapshots = StateSnapshots::open(&folder.join("states.redb"), CACHE, &damaged).unwrap();
        let registry = AggregateRegistry::new().with::<Account>();
        let mut handler =
            CommandHandler::new(server.broker().await, registry, settings, run, index, snapshots, observed);
        let stop = shutdown.clone();
        Self { shutdown, damaged, task: tokio::spawn(async move { handler.run(stop).await }) }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

/// Deposits 1 under `id`.
async fn deposit(broker: &NatsBroker, id: &str) -> Outcome {
    let client = broker.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::REPLY, inbox.as_str());
    headers.insert(header::COMMAND_ID, id);
    let subject = "cmd.bank.account.ada.deposit";
    client.publish_with_headers(subject, headers, r#"{"amount":1}"#.into()).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(30), answers.next()).await.unwrap().unwrap();
    OutcomeReply::from_json(&serde_json::from_slice(&answer.payload).unwrap()).unwrap().outcome
}

/// A server, and the folder of a handler that has decided these deposits and stopped.
async fn after_deposits(ids: &[&str]) -> (TestServer, NatsBroker, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", folder.path()).await;
    for id in ids {
        assert!(matches!(deposit(&broker, id).await, Outcome::Accepted { .. }));
    }
    handler.stop().await;
    (server, broker, folder)
}

/// Flips one bit wherever `sought` stands in the file.
fn flip_a_bit_of(path: &Path, sought: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let places: Vec<usize> =
        bytes.windows(sought.len()).enumerate().filter(|(_, it)| *it == sought).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for place in places {
        *bytes.get_mut(place + 5).unwrap() ^= 0x10;
    }
    std::fs::write(path, bytes).unwrap();
}

/// One flipped bit in the index of ids made a repeated id be accepted twice.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_id_is_a_duplicate_although_a_bit_of_it_flipped_in_the_index() {
    let (server, broker, folder) = after_deposits(&["before", "once", "after"]).await;
    let hash = blake3::hash(b"once");
    flip_a_bit_of(&folder.path().join("command-ids.redb"), hash.as_bytes().get(..16).unwrap());

    let handler = Running::start(&server, "b", folder.path()).await;
    let again = deposit(&broker, "once").await;
    assert!(matches!(again, Outcome::Duplicate { of: 2, .. }), "{again:?}");
    assert_eq!(handler.damaged.get(), 1);
    let new = deposit(&broker, "new").await;
    assert!(matches!(new, Outcome::Accepted { version: 4, .. }), "{new:?}");
    handler.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_opened_are_set_aside_and_learnt_anew() {
    let (server, broker, folder) = after_deposits(&["once"]).await;
    for name in ["command-ids.redb", "states.redb"] {
        std::fs::write(folder.path().join(name), "a letter, no database").unwrap();
    }

    let handler = Running::start(&server, "b", folder.path()).await;
    assert_eq!(handler.damaged.get(), 2);
    let again = deposit(&broker, "once").await;
    assert!(matches!(again, Outcome::Duplicate { of: 1, .. }), "{again:?}");
    let new = deposit(&broker, "new").await;
    assert!(matches!(new, Outcome::Accepted { version: 2, .. }), "{new:?}");
    handler.stop().await;
}

/// Where redb met a page that it cannot make sense of, its panic ended the handler at each start.
#[tokio::test(flavor = "multi_thread")]
async fn states_with_a_damaged_page_are_set_aside_and_read_anew() {
    const PAGE: usize = 4096;
    let (server, broker, folder) = after_deposits(&["once"]).await;
    let states = folder.path().join("states.redb");
    let mut bytes = std::fs::read(&states).unwrap();
    for page in bytes.chunks_mut(PAGE).filter(|page| page.windows(10).any(|it| it == b"generation")) {
        page.fill(0xee);
    }
    std::fs::write(&states, bytes).unwrap();

    let handler = Running::start(&server, "b", folder.path()).await;
    let new = deposit(&broker, "new").await;
    assert!(matches!(new, Outcome::Accepted { version: 2, .. }), "{new:?}");
    assert_eq!(handler.damaged.get(), 1);
    handler.stop().await;
}
