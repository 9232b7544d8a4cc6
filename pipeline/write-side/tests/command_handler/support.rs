//! A handler that a test starts, stops and kills, and what is asked of it.

use std::{num::NonZeroUsize, path::Path, time::Duration};

use async_nats::HeaderMap;
use futures::StreamExt;
use millstream_contract::{
    header,
    outcome::{Outcome, OutcomeReply},
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_proof::testing::account::Account;
use millstream_runtime::{
    health::Readiness,
    metrics::{HandlerMetrics, Metrics},
    shutdown::Shutdown,
};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    id_index::IdIndex,
    round::InternalCommands,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};
use tokio::task::JoinHandle;

/// How long a test waits for what must come, on a machine with little to spare.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// After so many commits, changed states are in the file.
pub(crate) const UNSAVED: usize = 20;

pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: HandlerMetrics,
    pub(crate) task: JoinHandle<Result<(), HandlerError>>,
}

impl Running {
    pub(crate) async fn start(server: &TestServer, run: &str) -> Self {
        Self::start_with(server, run, StateSnapshots::in_memory().unwrap()).await
    }

    pub(crate) async fn start_with(server: &TestServer, run: &str, snapshots: StateSnapshots) -> Self {
        Self::start_deciding(server, run, snapshots, AggregateRegistry::new().with::<Account>()).await
    }

    pub(crate) async fn start_on(server: &TestServer, run: &str, index: IdIndex) -> Self {
        let registry = AggregateRegistry::new().with::<Account>();
        Self::start_whole(server, run, index, StateSnapshots::in_memory().unwrap(), registry).await
    }

    pub(crate) async fn start_deciding(
        server: &TestServer,
        run: &str,
        snapshots: StateSnapshots,
        registry: AggregateRegistry,
    ) -> Self {
        Self::start_whole(server, run, IdIndex::in_memory().unwrap(), snapshots, registry).await
    }

    pub(crate) async fn start_whole(
        server: &TestServer,
        run: &str,
        index: IdIndex,
        snapshots: StateSnapshots,
        registry: AggregateRegistry,
    ) -> Self {
        let shutdown = Shutdown::new();
        let settings = HandlerSettings {
            name: format!("command-handler-{run}"),
            internal_commands: InternalCommands::EffectsOnly,
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
        let metrics = observed.metrics.clone();
        let mut handler =
            CommandHandler::new(server.broker().await, registry, settings, run, index, snapshots, observed);
        let stop = shutdown.clone();
        Self { shutdown, metrics, task: tokio::spawn(async move { handler.run(stop).await }) }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }

    pub(crate) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Publishes a command and waits for its outcome.
pub(crate) async fn ask(broker: &NatsBroker, subject: &str, body: &str, headers: &[(&str, &str)]) -> Outcome {
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

pub(crate) async fn deposit_to_ten(broker: &NatsBroker) {
    for account in 0..10 {
        let outcome =
            ask(broker, &format!("cmd.bank.account.{account}.deposit"), r#"{"amount":5}"#, &[]).await;
        assert!(matches!(outcome, Outcome::Accepted { events: 1, .. }), "{outcome:?}");
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Waits for a condition that nothing announces.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
