//! One suite of scenarios over a real nats-server and over its twin in memory. What holds for one holds for the other.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::{collections::BTreeMap, num::NonZeroUsize, path::Path, time::Duration};

use async_nats::{Subscriber, jetstream};
use futures::{FutureExt as _, StreamExt as _, stream::SelectAll};
use millstream_jetstream::{
    nats_broker::NatsBroker,
    provision::{ProvisionOptions, provision},
    testing::{
        broker_scenarios::{self, Ground},
        fault_plan::FaultPlan,
        memory_broker::{MemoryBroker, Recorded},
        operation::Operation,
        test_server::TestServer,
    },
};
use millstream_proof::testing::simulation::{ServerKind, SimulationSettings, simulate};
use tempfile::TempDir;

struct Server {
    server: TestServer,
    remembered: TempDir,
    heard: SelectAll<Subscriber>,
}

impl Ground for Server {
    type Broker = NatsBroker;

    async fn connect(&self) -> NatsBroker {
        self.server.broker().await
    }

    async fn kill(&self, broker: NatsBroker) {
        // With the last handle its connections are closed.
        drop(broker);
    }

    async fn restart(&mut self) {
        self.server.kill().await;
        self.server.restart().await;
    }

    async fn remember(&mut self) {
        self.server.kill().await;
        copy(&self.server.process().config().store_folder, self.remembered.path());
        self.server.restart().await;
    }

    async fn go_back(&mut self) {
        self.server.kill().await;
        std::fs::remove_dir_all(&self.server.process().config().store_folder).unwrap();
        copy(self.remembered.path(), &self.server.process().config().store_folder);
        self.server.restart().await;
    }

    async fn listen(&mut self, subjects: &[&str]) {
        let client = self.server.client().await;
        for subject in subjects {
            self.heard.push(client.subscribe((*subject).to_owned()).await.unwrap());
        }
        client.flush().await.unwrap();
    }

    async fn heard(&mut self) -> Vec<String> {
        let mut heard: Vec<_> = self.heard.next().await.into_iter().collect();
        while let Some(Some(message)) = self.heard.next().now_or_never() {
            heard.push(message);
        }
        heard.iter().map(|message| message.subject.to_string()).collect()
    }

    async fn limit(&self, stream: &str, messages_max: Option<u32>) {
        let context = jetstream::new(self.server.client().await);
        let mut config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
        config.max_messages = messages_max.map_or(-1, i64::from);
        context.update_stream(config).await.unwrap();
    }
}

struct Twin {
    broker: MemoryBroker,
    remembered: Vec<(String, u64)>,
}

impl Ground for Twin {
    type Broker = MemoryBroker;

    async fn connect(&self) -> MemoryBroker {
        self.broker.connect()
    }

    async fn kill(&self, broker: MemoryBroker) {
        broker.kill();
    }

    async fn restart(&mut self) {
        self.broker.restart();
    }

    async fn remember(&mut self) {
        self.remembered = self.broker.ends();
    }

    async fn go_back(&mut self) {
        let ends = self.broker.ends();
        for ((stream, end), (_, remembered)) in ends.iter().zip(&self.remembered) {
            self.broker.lose_tail(stream, end - remembered);
        }
    }

    async fn listen(&mut self, _subjects: &[&str]) {
        self.broker.forget_sent();
    }

    async fn heard(&mut self) -> Vec<String> {
        let heard = self.broker.sent().into_iter().map(|message| message.subject).collect();
        self.broker.forget_sent();
        heard
    }

    async fn limit(&self, stream: &str, messages_max: Option<u32>) {
        self.broker.limit_stream(stream, messages_max.and_then(|most| most.try_into().ok()));
    }
}

impl Twin {
    fn new() -> Self {
        Self { broker: MemoryBroker::new(1, FaultPlan::none()), remembered: Vec::new() }
    }
}

impl Server {
    async fn start() -> Self {
        let server = TestServer::start_provisioned().await;
        Self { server, remembered: TempDir::new().unwrap(), heard: SelectAll::new() }
    }
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn on_twin<T>(scenario: impl AsyncFnOnce(&mut Twin) -> T) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { scenario(&mut Twin::new()).await })
}

fn on_server<T>(scenario: impl AsyncFnOnce(&mut Server) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { scenario(&mut Server::start().await).await })
}

macro_rules! on_both {
    ($($scenario:ident),* $(,)?) => {
        mod twin {
            $(#[test] fn $scenario() { super::on_twin(async |ground| super::broker_scenarios::$scenario(ground).await); })*
        }
        mod server {
            $(#[test] fn $scenario() { super::on_server(async |ground| super::broker_scenarios::$scenario(ground).await); })*
        }
    };
}

on_both![
    expectation_is_of_the_subject_alone,
    one_of_many_with_the_same_expectation_is_stored,
    each_of_many_appends_has_its_own_answer,
    load_is_one_subject_from_a_position,
    last_and_get_are_current,
    message_comes_back_as_it_was_sent,
    state_names_generation_and_ends,
    commands_are_stored_by_partition,
    repeated_message_id_is_a_duplicate,
    full_stream_refuses_until_there_is_space,
    too_large_a_message_is_refused,
    batch_is_stored_whole,
    batch_with_a_conflict_stores_nothing,
    batch_with_a_repeated_message_id_stores_nothing,
    batches_side_by_side_do_not_mix,
    reader_starts_behind_its_position_and_goes_on,
    batches_are_bounded_and_a_cancelled_wait_loses_nothing,
    last_message_is_found_for_a_subject_with_wildcards,
    reader_goes_on_when_its_consumer_is_removed,
    reader_with_filters_gets_their_messages_alone,
    second_reader_of_a_name_ends_the_first,
    live_reader_is_not_replaced_by_mistake,
    reader_goes_on_after_a_restart,
    reader_notices_a_lost_tail_that_has_grown_again,
    reader_notices_a_lost_tail,
    position_beyond_the_end_is_a_lost_tail,
    lease_has_one_owner_until_given_back,
    lease_belongs_to_a_name,
    lease_lapses,
    lease_of_a_process_that_is_gone_is_free,
    owner_of_a_lease_is_there_after_a_restart_of_the_server,
    waiting_for_a_lease_ends_when_it_is_given_back,
    purge_takes_its_subject_up_to_its_position,
    reader_goes_on_while_what_it_has_read_is_purged,
    removed_message_is_passed_by,
    last_message_is_found_in_front_of_a_removed_one,
    reply_goes_to_places_for_replies_alone,
];

/// Seeds of random operations.
const SEEDS: u64 = 6;
/// Seeds of simulated handlers.
const SIMULATED_SEEDS: u64 = 30;
/// Seeds of simulated handlers for three servers.
const SIMULATED_SEEDS_OF_CLUSTER: u64 = 2;

/// The model is as honest as these tests: random operations get the same answers from both,
#[test]
fn random_operations_get_the_same_answers_from_twin_and_server() {
    for seed in 0..SEEDS {
        let twin = on_twin(async |ground| broker_scenarios::random_operations(ground, seed, 300).await);
        let server = on_server(async |ground| broker_scenarios::random_operations(ground, seed, 300).await);
        for (index, (twin, server)) in twin.iter().zip(&server).enumerate() {
            assert_eq!(twin, server, "operation {index} of seed {seed}");
        }
        let conflicts = twin.iter().filter(|answer| answer.ends_with("conflict")).count();
        let duplicates = twin.iter().filter(|answer| answer.contains(": duplicate of")).count();
        assert!(conflicts > 10 && duplicates > 3, "{conflicts} conflicts, {duplicates} duplicates");
    }
}

/// A load may be answered by a replica that lags, but not for long.
const LAG_MAX: Duration = Duration::from_secs(10);

struct Recording {
    seed: u64,
    kind: ServerKind,
    asked: Vec<Recorded>,
}

impl Recording {
    fn of(seed: u64, kind: ServerKind) -> Self {
        let settings = SimulationSettings { record: Some(kind), ..SimulationSettings::default() };
        Self { seed, kind, asked: simulate(seed, &settings).recorded }
    }
}

/// Puts what simulated handlers asked to a real server; says how often what was asked and answered.
async fn repeat(recording: &Recording, broker: &NatsBroker) -> BTreeMap<String, usize> {
    let Recording { seed, kind, asked } = recording;
    let mut counts = BTreeMap::new();
    for (index, (operation, answer)) in asked.iter().enumerate() {
        let mut found = operation.ask(broker).await;
        let deadline = tokio::time::Instant::now() + LAG_MAX;
        while found != *answer
            && matches!(operation, Operation::Load { .. })
            && *kind == ServerKind::Replicated
        {
            assert!(tokio::time::Instant::now() < deadline, "replicas lag for longer than {LAG_MAX:?}");
            found = operation.ask(broker).await;
        }
        assert_eq!(found, *answer, "operation {index} of seed {seed}: {operation:?}");
        let what = match operation {
            Operation::Append { .. } => format!("append {}", answer.split(' ').next().unwrap()),
            Operation::AppendAtomically { .. } => format!("batch {}", answer.split(' ').next().unwrap()),
            Operation::Load { .. } => "load".into(),
            Operation::Last { .. } => "last".into(),
            Operation::Get { .. } => "get".into(),
            Operation::State { .. } => "state".into(),
        };
        *counts.entry(what).or_default() += 1;
    }
    counts
}

/// and so do those that handlers under every fault have asked, in the order in which they reached the server.
#[test]
fn simulated_sequences_get_the_same_answers_from_a_server() {
    let mut counts = BTreeMap::<String, usize>::new();
    for seed in 0..SIMULATED_SEEDS {
        let recording = Recording::of(seed, ServerKind::Single);
        let of_seed = on_server(async |ground| repeat(&recording, &ground.connect().await).await);
        for (what, count) in of_seed {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{counts:?}");
    // A refused batch is rare among handlers that know each other's commits; the random operations above have many.
    for what in ["append at", "append conflict", "append duplicate", "batch at", "load", "last"] {
        let count = counts.get(what).copied().unwrap_or_default();
        assert!(count > 5, "only {count} times {what}: too few to say anything: {counts:?}");
    }
}

/// The same from three servers with replicated streams, which look at message ids first.
#[test]
fn simulated_sequences_get_the_same_answers_from_a_cluster() {
    for seed in 0..SIMULATED_SEEDS_OF_CLUSTER {
        let recording = Recording::of(seed, ServerKind::Replicated);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let [server, _second, _third] = TestServer::start_cluster().await;
            let options = ProvisionOptions { replicas: NonZeroUsize::new(3), ..ProvisionOptions::default() };
            provision(&jetstream::new(server.client().await), &options).await.unwrap();
            repeat(&recording, &server.broker().await).await;
        });
    }
}
