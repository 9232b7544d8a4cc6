//! Several handlers that share the partitions, against a real nats-server: who works on what, takeover and return, and the
//! change to another number under load. What random faults do to them is the simulation's business.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use millstream_contract::{
    outcome::{OutcomeRecord, RecordKind},
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{broker::Broker, nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_proof::{
    testing::{account::Account, stream_dump::messages},
    verification::{Dump, replay, verify},
};
use millstream_runtime::{health::Readiness, metrics::Metrics, shutdown::Shutdown};
use millstream_write_side::{
    command_handler::{
        HandlerError, HandlerSettings, Observed, PurgeSettings, Share, ShareHandlers, SharePlace,
    },
    id_index::IdIndex,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};
use tokio::task::JoinHandle;

/// A process with the handlers of all shares.
struct Process {
    shutdown: Shutdown,
    metrics: Metrics,
    shares: u32,
    task: JoinHandle<Result<(), HandlerError>>,
}

impl Process {
    async fn start(server: &TestServer, name: &str, shares: u32) -> Self {
        Self::start_purging(server, name, shares, None).await
    }

    async fn start_purging(
        server: &TestServer,
        name: &str,
        shares: u32,
        purge: Option<PurgeSettings>,
    ) -> Self {
        let (metrics, readiness, shutdown) = (Metrics::new(), Readiness::new(), Shutdown::new());
        let settings = HandlerSettings {
            name: format!("command-handler-{name}"),
            share: Share { index: 0, of: shares },
            round_max: NonZeroUsize::new(1000).unwrap(),
            cache: CacheLimits { states: NonZeroUsize::new(1000).unwrap(), bytes: u64::MAX },
            append_strategy: millstream_jetstream::group_append::AppendStrategy::default(),
            lease_time_to_live: Duration::from_secs(1),
            purge,
        };
        let ready = readiness.condition("shares");
        let observed = metrics.clone();
        let mut handlers = ShareHandlers::new(
            server.broker().await,
            AggregateRegistry::new().with::<Account>(),
            settings,
            &format!("{name}-{}", ulid::Ulid::generate()),
            IdIndex::in_memory().unwrap(),
            Box::new(move |share| {
                let observed = Observed::new(&observed, &readiness, share);
                Ok(SharePlace { snapshots: StateSnapshots::in_memory()?, observed })
            }),
            ready,
        );
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { handlers.run(stop).await });
        Self { shutdown, metrics, shares, task }
    }

    /// The shares on which it works.
    fn works_on(&self) -> Vec<u32> {
        let active = |share: &Share| self.metrics.handler(&share.name()).active.get() == 1;
        Share::each(self.shares).filter(active).map(|share| share.index).collect()
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }

    /// As `kill -9`: nothing is given back.
    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Deposits that come all the time, one after the other, from several senders.
struct Load {
    stop: Arc<AtomicBool>,
    stored: Arc<AtomicU64>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(server: &TestServer) -> Self {
        let (stop, stored) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut senders = Vec::new();
        for sender in 0..2 {
            let jetstream = async_nats::jetstream::new(server.client().await);
            let (stop, stored) = (stop.clone(), stored.clone());
            senders.push(tokio::spawn(async move {
                let mut number = 0;
                let mut pace = tokio::time::interval(Duration::from_millis(4));
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    pace.tick().await;
                    let subject = format!("cmd.bank.account.{}.deposit", number % 40);
                    let mut headers = async_nats::HeaderMap::new();
                    headers.insert("Millstream-Command-Id", format!("{sender}-{number}").as_str());
                    let body = r#"{"amount":1}"#.into();
                    let acknowledged =
                        jetstream.publish_with_headers(subject, headers, body).await.unwrap().await;
                    stored.fetch_max(acknowledged.unwrap().sequence, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, stored, senders }
    }

    /// Waits until what has been sent by now, and a little more, is decided.
    async fn goes_on(&self, broker: &NatsBroker) {
        let until = self.stored.load(Ordering::Relaxed) + 50;
        eventually("commands are decided", async || {
            let events = broker.state(EVENTS).await.unwrap().last_sequence;
            let through = newest_position(broker, events).await;
            (through >= until).then_some(())
        })
        .await;
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for ended in join_all(self.senders).await {
            ended.unwrap();
        }
        self.stored.load(Ordering::Relaxed)
    }
}

/// The last position of COMMANDS that the newest commit names.
async fn newest_position(broker: &NatsBroker, sequence: u64) -> u64 {
    if sequence == 0 {
        return 0;
    }
    let message = broker.get(EVENTS, sequence).await.unwrap().unwrap();
    let commit = millstream_contract::commit::StoredCommit::from_stored(&message).unwrap();
    commit.commit.last_position()
}

/// Waits for a condition that nothing announces.
async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn work_on(processes: &[(&Process, &[u32])]) {
    eventually("each has its shares", async || {
        processes.iter().all(|(process, shares)| process.works_on() == *shares).then_some(())
    })
    .await;
}

/// Every command up to `last` has one outcome and at most one effect, and all is as a sequential fold has it.
async fn verified(broker: &NatsBroker, last: u64) -> Vec<OutcomeRecord> {
    let mut outcomes = Vec::new();
    eventually("every command has an outcome", async || {
        let events = broker.state(EVENTS).await.unwrap().last_sequence;
        if newest_position(broker, events).await < last.saturating_sub(100) {
            return None;
        }
        outcomes = messages(broker, OUTCOMES).await;
        let lines = outcomes.iter().flat_map(|message| OutcomeRecord::from_stored(message).unwrap().outcomes);
        (lines.map(|line| line.position).collect::<BTreeSet<_>>().len() as u64 >= last).then_some(())
    })
    .await;
    let dump =
        Dump { commands: messages(broker, COMMANDS).await, events: messages(broker, EVENTS).await, outcomes };
    let registry = AggregateRegistry::new().with::<Account>();
    let mut violations = verify(&dump, true).violations;
    violations.extend(replay(&dump, &registry));
    assert_eq!(violations, []);
    dump.outcomes.iter().map(|message| OutcomeRecord::from_stored(message).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_work_and_one_carries_all_while_the_other_is_away() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let load = Load::start(&server).await;
    let first = Process::start(&server, "a", 4).await;
    work_on(&[(&first, &[0, 1, 2, 3])]).await;
    let second = Process::start(&server, "b", 4).await;
    work_on(&[(&first, &[0, 2]), (&second, &[1, 3])]).await;
    load.goes_on(&broker).await;

    second.crash().await;
    work_on(&[(&first, &[0, 1, 2, 3])]).await;
    load.goes_on(&broker).await;

    let second = Process::start(&server, "b", 4).await;
    work_on(&[(&first, &[0, 2]), (&second, &[1, 3])]).await;
    load.goes_on(&broker).await;

    first.stop().await;
    work_on(&[(&second, &[0, 1, 2, 3])]).await;
    let last = load.stop().await;
    verified(&broker, last).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_shares_begins_where_the_ones_before_ended() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let load = Load::start(&server).await;
    let mut process = Process::start(&server, "a", 1).await;
    for shares in [2, 4, 3, 1] {
        load.goes_on(&broker).await;
        process.stop().await;
        process = Process::start(&server, "a", shares).await;
        let each: Vec<u32> = (0..shares).collect();
        work_on(&[(&process, &each)]).await;
    }
    load.goes_on(&broker).await;
    let last = load.stop().await;
    let records = verified(&broker, last).await;
    let layouts = records.iter().filter_map(|record| record.layout.as_ref());
    assert_eq!(layouts.map(|layout| layout.shares).collect::<Vec<_>>(), [2, 4, 3, 1]);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_number_waits_until_nobody_works_on_the_shares_in_force() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let load = Load::start(&server).await;
    let first = Process::start(&server, "a", 2).await;
    work_on(&[(&first, &[0, 1])]).await;
    let second = Process::start(&server, "b", 2).await;
    work_on(&[(&first, &[0]), (&second, &[1])]).await;
    load.goes_on(&broker).await;
    let new = Process::start(&server, "c", 4).await;
    // As in a rolling update: one is replaced after the other.
    first.stop().await;
    work_on(&[(&second, &[0, 1]), (&new, &[])]).await;
    load.goes_on(&broker).await;
    second.stop().await;
    work_on(&[(&new, &[0, 1, 2, 3])]).await;
    let late = Process::start(&server, "a", 2).await;
    load.goes_on(&broker).await;
    let last = load.stop().await;
    let records = verified(&broker, last).await;
    let layouts = records.iter().filter(|record| record.kind == RecordKind::Layout);
    assert_eq!(layouts.count(), 2, "2 and 4, and nobody went back");
    late.stop().await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_to_which_nobody_sends_anything_do_not_keep_what_is_old() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let at_once = PurgeSettings {
        commands_after: Some(Duration::ZERO),
        outcomes_after: Some(Duration::ZERO),
        interval: Duration::from_millis(50),
    };
    let process = Process::start_purging(&server, "a", 4, Some(at_once)).await;
    work_on(&[(&process, &[0, 1, 2, 3])]).await;
    let fences = broker.state(OUTCOMES).await.unwrap().last_sequence;
    let jetstream = async_nats::jetstream::new(server.client().await);
    // All of one aggregate, which is one share's.
    for _ in 0..20 {
        let stored = jetstream.publish("cmd.bank.account.a.deposit", r#"{"amount":1}"#.into()).await.unwrap();
        stored.await.unwrap();
    }
    let purged = async |stream: &str, beyond: u64| {
        eventually("what is old is purged", async || {
            (broker.state(stream).await.unwrap().first_sequence > beyond).then_some(())
        })
        .await;
    };
    purged(COMMANDS, 19).await;
    jetstream.publish("cmd.bank.account.a.deposit", r#"{"amount":1}"#.into()).await.unwrap().await.unwrap();
    purged(OUTCOMES, fences).await;
    process.stop().await;
    let next = Process::start(&server, "b", 4).await;
    work_on(&[(&next, &[0, 1, 2, 3])]).await;
    jetstream.publish("cmd.bank.account.a.deposit", r#"{"amount":1}"#.into()).await.unwrap().await.unwrap();
    eventually("the last deposit is decided", async || {
        let events = broker.state(EVENTS).await.unwrap().last_sequence;
        (newest_position(&broker, events).await == 22).then_some(())
    })
    .await;
    next.stop().await;
}
