//! A projection that is far behind catches up beside the others, which go on with the end of the stream.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millstream_contract::{
    commit::EventEnvelope,
    stream_names::{EVENTS, GENERATION_METADATA},
};
use millstream_domain::projection::{Projection, ProjectionError, Rows};
use millstream_jetstream::{
    broker::Broker as _,
    nats_broker::NatsBroker,
    testing::{restricted_server::RestrictedServer, test_server::TestServer},
};
use millstream_read_side::projection_runner::{ProjectionSet, RunnerConfig};
use millstream_runtime::stage_needs::stage_needs;
use serde_json::json;

use crate::support::{Counts, Kinds, Latest, PATIENCE, Running, as_stage, commit, grow, message};

/// So many events that a slow projection takes half a minute for them, unless it is told to hurry.
const EVENTS_BEFORE: usize = 30_000;

/// Counts as [`Counts`] does, a millisecond for each event, until it need not be slow any more. It sleeps and does not wait to be let on:
/// one thread writes for all projections, so a gate would stop the others as well.
struct Slow {
    counts: Counts,
    hurry: Arc<AtomicBool>,
}

impl Projection for Slow {
    fn context(&self) -> &'static str {
        self.counts.context()
    }

    fn name(&self) -> &'static str {
        self.counts.name()
    }

    fn version(&self) -> u32 {
        self.counts.version()
    }

    fn views(&self) -> &'static [&'static str] {
        self.counts.views()
    }

    fn tables(&self) -> &[&'static str] {
        self.counts.tables()
    }

    fn handles(&self, aggregate: &str) -> bool {
        self.counts.handles(aggregate)
    }

    #[expect(clippy::disallowed_methods, reason = "it is slow on purpose; nothing waits for it to be over")]
    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        if !self.hurry.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.counts.apply(envelope, rows)
    }
}

fn start(broker: &NatsBroker, folder: &Path, version: u32, hurry: &Arc<AtomicBool>) -> Running {
    start_with(broker, folder, version, hurry, |_| {})
}

fn start_with(
    broker: &NatsBroker,
    folder: &Path,
    version: u32,
    hurry: &Arc<AtomicBool>,
    adjust: impl FnOnce(&mut RunnerConfig),
) -> Running {
    let counts = Counts { version, knows_shrunk: false };
    let slow = Slow { counts, hurry: Arc::clone(hurry) };
    let set = ProjectionSet::new(vec![Box::new(slow), Box::new(Latest)], vec![Box::new(Kinds)], &["test"]);
    Running::start_with(broker, folder, set.unwrap(), |config| {
        // Whatever has been read is applied before it ends or begins anew: not too much.
        config.batch_max = 50;
        config.lane_distance = 100;
        adjust(config);
    })
}

async fn long_stream(broker: &NatsBroker, count: usize) -> u64 {
    let grown = (0..count).map(|number| commit("thing.a", "grown", &format!("a-{number}")));
    let appended = broker.append_each(EVENTS, grown.collect()).await;
    appended.into_iter().map(|appended| appended.unwrap().sequence).max().unwrap()
}

/// Whether the second consumer of EVENTS is there.
async fn reads_beside(server: &TestServer) -> bool {
    let context = async_nats::jetstream::new(server.client().await);
    context.get_stream(EVENTS).await.unwrap().consumer_info("projector-behind").await.is_ok()
}

async fn until_one_reader(server: &TestServer) {
    let one = async {
        while reads_beside(server).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, one).await.expect("one reader is enough again");
}

#[tokio::test]
async fn others_follow_the_stream_while_one_is_built_anew() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = long_stream(&broker, EVENTS_BEFORE).await;
    let hurry = Arc::new(AtomicBool::new(true));
    let running = start_with(&broker, folder.path(), 1, &hurry, |config| config.batch_max = 2_000);
    running.until_sequence("counts", last).await;
    running.until_sequence("latest", last).await;
    assert!(!reads_beside(&server).await, "all began together");
    running.finish().await.unwrap();

    hurry.store(false, Ordering::Relaxed);
    let running = start(&broker, folder.path(), 2, &hurry);
    running.until("counts", |status| status.sequence > 0 && !status.is_complete()).await;
    let new = grow(&broker, "b", 1).await;
    running.until_sequence("latest", new).await;
    let counts = running.until("counts", |_| true).await;
    assert!(!counts.is_complete(), "it is built while the other one is up to date: {counts:?}");
    assert_eq!(running.row("latest", "b"), Some(json!(new)));
    assert!(reads_beside(&server).await);
    running.finish().await.unwrap();

    // It goes on where it was, and joins the others when it has reached them.
    let running = start(&broker, folder.path(), 2, &hurry);
    let resumed = running.until("counts", |status| !status.generation.is_empty()).await;
    assert!(resumed.sequence >= counts.sequence, "{resumed:?} after {counts:?}");
    hurry.store(true, Ordering::Relaxed);
    running.until_sequence("counts", new).await;
    until_one_reader(&server).await;
    let newest = grow(&broker, "a", 1).await;
    running.until_sequence("counts", newest).await;
    running.until_sequence("latest", newest).await;
    assert_eq!(running.row("counts", "a"), Some(json!({ "count": EVENTS_BEFORE + 1 })));
    assert_eq!(running.row("counts", "b"), Some(json!({ "count": 1 })));
    assert_eq!(running.row("counts-total", "all"), Some(json!({ "count": EVENTS_BEFORE + 2 })));
    running.finish().await.unwrap();
}

/// With an accounts file of the release before, the server gives no answer about the second consumer. Each start asked for it first and
/// waited for ever, so nothing was folded.
#[tokio::test]
async fn lane_ahead_waits_for_no_answer_about_the_second_consumer() {
    let needs = stage_needs("projector", "").unwrap();
    let mut publish = needs.publish_subjects("$JS.API", "_INBOX_projector");
    publish.retain(|subject| !subject.ends_with("-behind"));
    let subscribe = needs.subscribe_subjects("_INBOX_projector");
    let server = RestrictedServer::start(&[("projector".to_owned(), publish, subscribe)]).await;
    let all = server.server().broker().await;
    let broker = as_stage(&server, "projector").await;
    let folder = tempfile::tempdir().unwrap();
    let hurry = Arc::new(AtomicBool::new(true));
    let last = grow(&all, "a", 300).await;
    let running = start(&broker, folder.path(), 1, &hurry);
    running.until_sequence("counts", last).await;
    running.finish().await.unwrap();

    // Neither does it wait when something is behind, which then stays there.
    let running = start(&broker, folder.path(), 2, &hurry);
    let new = grow(&all, "b", 1).await;
    running.until_sequence("latest", new).await;
    let counts = running.until("counts", |_| true).await;
    assert_eq!(counts.sequence, 0, "{counts:?}");
    running.finish().await.unwrap();
}

/// When the first reader noticed that the stream was another one, the second was dropped and left its consumer. All projections then
/// began together, and the lag of the consumer that nobody read grew for ever.
#[tokio::test]
async fn second_consumer_goes_when_the_first_reader_finds_another_stream() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let last = long_stream(&broker, 10_000).await;
    let hurry = Arc::new(AtomicBool::new(true));
    let running = start(&broker, folder.path(), 1, &hurry);
    running.until_sequence("counts", last).await;
    running.finish().await.unwrap();

    hurry.store(false, Ordering::Relaxed);
    let never = Duration::from_secs(3600);
    let running =
        start_with(&broker, folder.path(), 2, &hurry, |config| config.stream_check_interval = never);
    running.until("counts", |status| status.sequence > 0 && !status.is_complete()).await;
    assert!(reads_beside(&server).await);
    let context = async_nats::jetstream::new(server.client().await);
    let mut config = context.get_stream(EVENTS).await.unwrap().cached_info().config.clone();
    config.metadata.insert(GENERATION_METADATA.to_owned(), "another".to_owned());
    context.update_stream(config).await.unwrap();
    // Only the first reader notices it, because it must make its consumer anew.
    broker.remove_consumer(EVENTS, "projector").await.unwrap();
    running.until("latest", |status| &*status.generation == "another").await;
    until_one_reader(&server).await;
    hurry.store(true, Ordering::Relaxed);
    running.until_sequence("counts", last).await;
    running.finish().await.unwrap();
}

/// Nobody reads while all are halted, so the lag of a second consumer that had been left grew for ever.
#[tokio::test]
async fn second_consumer_goes_while_all_are_halted() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let context = async_nats::jetstream::new(server.client().await);
    let leave_second_consumer = async || {
        let durable_name = Some("projector-behind".to_owned());
        let config = async_nats::jetstream::consumer::pull::Config { durable_name, ..Default::default() };
        context.get_stream(EVENTS).await.unwrap().create_consumer(config).await.unwrap();
        assert!(reads_beside(&server).await);
    };
    leave_second_consumer().await;
    let folder = tempfile::tempdir().unwrap();
    let running = start(&broker, folder.path(), 1, &Arc::new(AtomicBool::new(true)));
    // That of the start goes at once, and another is there when all halt.
    until_one_reader(&server).await;
    leave_second_consumer().await;
    broker.append(EVENTS, message("evt.test.thing.a", b"garbage".to_vec())).await.unwrap();
    for view in ["counts", "latest"] {
        running.until(view, |status| status.halted.is_some()).await;
    }
    until_one_reader(&server).await;
    running.finish().await.unwrap();
}
