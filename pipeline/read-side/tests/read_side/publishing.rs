//! Revisions of reports on REPORTS: each once, in order, and none again after a rebuild.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream_contract::{
    commit::EventEnvelope,
    header,
    stored_message::StoredMessage,
    stream_names::{EVENTS, REPORTS},
};
use millstream_domain::{
    projection::{ProjectionError, Rows},
    report::{Column, ColumnKind, Entry, Ledger, OUTBOX, Posting, Report, ReportTables, SmolStr},
};
use millstream_jetstream::{
    broker::{Broker, ReaderConfig, StreamReader as _},
    nats_broker::NatsBroker,
    testing::{
        fault_plan::FaultPlan, memory_broker::MemoryBroker, restricted_server::RestrictedServer,
        test_server::TestServer,
    },
};
use millstream_read_side::{projection_runner::ProjectionSet, report_publisher::ReportPublisher};
use millstream_runtime::{health::Readiness, metrics::Metrics, stage_needs::stage_needs};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Running, as_stage, commit};

static TABLES: ReportTables = millstream_domain::report_tables!("tally-daily");
const COLUMNS: &[Column] = &[
    Column::new("tally", ColumnKind::Text),
    Column::new("revision", ColumnKind::Number),
    Column::new("status", ColumnKind::Text),
    Column::new("marks", ColumnKind::Count),
];

/// One mark a `marked`, one less a `rubbed`; `closed` seals.
struct TallyDaily;

impl Report for TallyDaily {
    fn context(&self) -> &'static str {
        "test"
    }

    fn tables(&self) -> &'static ReportTables {
        &TABLES
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn handles(&self, aggregate: &str) -> bool {
        aggregate == "tally"
    }

    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        _rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError> {
        let (key, date) = (SmolStr::from(envelope.stream_id.id()), SmolStr::new_static("2012-01-31"));
        let marks = match envelope.event_type {
            "marked" => 1,
            "rubbed" => -1,
            _ => return Ok(vec![Entry::Seal { date, key }]),
        };
        Ok(vec![Entry::Post(Posting {
            texts: vec![("tally", Some(key.clone()))],
            figures: vec![("marks", marks)],
            reference: envelope.broker_sequence.to_string().into(),
            date,
            key,
        })])
    }
}

fn tallies() -> ProjectionSet {
    ProjectionSet::new(vec![Box::new(Ledger(TallyDaily))], Vec::new(), &[]).unwrap()
}

/// A runner with its publisher.
struct Publishing {
    running: Running,
    readiness: Readiness,
    stop: CancellationToken,
    publisher: tokio::task::JoinHandle<()>,
}

impl Publishing {
    fn start(broker: &impl Broker, folder: &Path) -> Self {
        Self::start_every(broker, folder, Duration::ZERO)
    }

    /// With states of open revisions at intervals.
    fn start_every(broker: &impl Broker, folder: &Path, open_interval: Duration) -> Self {
        Self::over(broker, Running::start(broker, folder, tallies()), open_interval)
    }

    fn over(broker: &impl Broker, running: Running, open_interval: Duration) -> Self {
        let (store, remover) = (running.store.clone(), running.remover.clone());
        let readiness = Readiness::new();
        let progress = readiness.progress("publishing reports");
        let (metrics, views) = (Metrics::new(), &running.views);
        let publisher =
            ReportPublisher::new(broker.clone(), store, views, remover, metrics, progress, open_interval);
        let stop = CancellationToken::new();
        let work = publisher.run(stop.clone());
        let publisher = tokio::spawn(async move { work.await.unwrap() });
        Self { running, readiness, stop, publisher }
    }

    /// Waits until everything up to `sequence` is applied and the outbox is empty.
    async fn settled(&self, sequence: u64) {
        self.running.until_sequence("tally-daily", sequence).await;
        let view = self.running.views.get("test", "tally-daily").unwrap();
        let outbox = millstream_store::read_store::TableName::new(&view.projection, OUTBOX);
        let empty = async {
            while !self.is_empty(&outbox) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("the outbox is emptied");
    }

    fn is_empty(&self, outbox: &millstream_store::read_store::TableName) -> bool {
        use millstream_store::read_store::{Direction, KeyRange};
        let everything = KeyRange { lower: std::ops::Bound::Unbounded, upper: std::ops::Bound::Unbounded };
        let mut empty = true;
        let snapshot = self.running.store.snapshot().unwrap();
        let visited = snapshot.visit(outbox, everything, Direction::Ascending, |_, _| {
            empty = false;
            std::ops::ControlFlow::Break(())
        });
        visited.unwrap();
        empty
    }

    /// Waits until it is not ready, and says so.
    async fn not_ready(&self, why: &str) {
        let told = async {
            while !self.readiness.reasons().iter().any(|reason| reason.contains(why)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(2 * PATIENCE, told).await.expect("it is not ready, and says why");
    }

    async fn finish(self) {
        self.stop.cancel();
        self.publisher.await.unwrap();
        self.running.finish().await.unwrap();
    }
}

async fn tally(broker: &NatsBroker, key: &str, event: &str) -> u64 {
    let id = format!("{key}-{event}-{}", broker.state(EVENTS).await.unwrap().last_sequence);
    broker.append(EVENTS, commit(&format!("tally.{key}"), event, &id)).await.unwrap().sequence
}

/// Everything on REPORTS, as `key revision status marks`.
async fn published(broker: &NatsBroker) -> Vec<String> {
    let last = broker.last(REPORTS, ">").await.unwrap().map_or(0, |last| last.sequence);
    let config = ReaderConfig {
        stream: REPORTS.to_owned(),
        name: "looker".to_owned(),
        description: String::new(),
        after: 0,
        filters: Vec::new(),
        replace_live: true,
    };
    let mut messages = Vec::new();
    if last > 0 {
        let mut reader = broker.read(config).await.unwrap();
        while messages.last().is_none_or(|message: &StoredMessage| message.sequence < last) {
            messages.extend(reader.next_batch(1_000).await.unwrap());
        }
    }
    published_of(&messages)
}

fn published_of(messages: &[StoredMessage]) -> Vec<String> {
    let line = |message: &StoredMessage| {
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        assert!(message.headers.get(header::POSITION).is_some());
        let key = message.subject.split('.').nth(3).unwrap();
        format!("{key} {} {} {}", body["revision"], body["status"].as_str().unwrap(), body["marks"])
    };
    messages.iter().map(line).collect()
}

#[tokio::test]
async fn sealed_revisions_come_once_and_in_order_and_a_rebuild_publishes_nothing() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    for event in ["marked", "marked", "closed", "marked", "closed", "rubbed"] {
        tally(&broker, "a", event).await;
    }
    let last = tally(&broker, "b", "marked").await;
    let publishing = Publishing::start(&broker, folder.path());
    publishing.settled(last).await;
    let mut lines = published(&broker).await;
    lines.sort();
    assert_eq!(lines, ["a 1 sealed 2", "a 2 sealed 3", "a 3 open 2", "b 1 open 1"]);
    let of_a: Vec<String> =
        published(&broker).await.into_iter().filter(|line| line.starts_with('a')).collect();
    assert!(of_a.is_sorted(), "{of_a:?}");

    let last = tally(&broker, "b", "closed").await;
    publishing.settled(last).await;
    publishing.finish().await;
    let before = published(&broker).await;
    assert_eq!(before, ["a 1 sealed 2", "a 2 sealed 3", "a 3 open 2", "b 1 sealed 1"]);

    // From nothing, and again on the same file: the outbox fills and empties, and REPORTS stays as it is.
    let elsewhere = tempfile::tempdir().unwrap();
    for folder in [elsewhere.path(), folder.path()] {
        let publishing = Publishing::start(&broker, folder);
        publishing.settled(last).await;
        publishing.finish().await;
        assert_eq!(published(&broker).await, before);
    }
}

#[tokio::test]
async fn two_reporters_publish_each_state_once_and_never_go_back() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Publishing::start(&broker, one.path());
    let other_broker = server.broker().await;
    let running = Running::start_with(&other_broker, two.path(), tallies(), |config| {
        config.events_consumer = "projector-2".to_owned();
        config.outcomes_consumer = "projector-2-outcomes".to_owned();
    });
    let second = Publishing::over(&other_broker, running, Duration::ZERO);
    let mut last = 0;
    for round in 0..10 {
        for _ in 0..=round {
            last = tally(&broker, "a", "marked").await;
        }
        last = tally(&broker, "a", "closed").await.max(last);
    }
    first.settled(last).await;
    second.settled(last).await;
    let lines = published(&broker).await;
    let sealed: Vec<&String> = lines.iter().filter(|line| line.contains("sealed")).collect();
    let marks = |round: u32| (1..=round).sum::<u32>();
    let expected: Vec<String> = (1..=10).map(|round| format!("a {round} sealed {}", marks(round))).collect();
    assert_eq!(sealed, expected.iter().collect::<Vec<_>>());
    let revisions: Vec<u32> =
        lines.iter().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    assert!(revisions.is_sorted(), "{lines:?}");
    assert!(lines.windows(2).all(|pair| pair[0] != pair[1]), "{lines:?}");
    first.finish().await;
    second.finish().await;
}

#[tokio::test]
async fn revision_that_was_published_and_taken_back_is_withdrawn() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let publishing = Publishing::start(&broker, folder.path());
    let last = tally(&broker, "a", "marked").await;
    publishing.settled(last).await;
    let last = tally(&broker, "a", "rubbed").await;
    publishing.settled(last).await;
    assert_eq!(published(&broker).await, ["a 1 withdrawn 0"], "it stands in place of what was there");
    publishing.finish().await;
}

#[tokio::test]
async fn server_that_dies_in_between_loses_and_repeats_nothing() {
    let mut server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let publishing = Publishing::start(&broker, folder.path());
    let mut last = 0;
    for key in ["a", "b", "c"] {
        tally(&broker, key, "marked").await;
        last = tally(&broker, key, "closed").await;
    }
    publishing.running.until_sequence("tally-daily", last).await;
    server.kill().await;
    server.restart().await;
    let last = tally(&server.broker().await, "d", "marked").await;
    publishing.settled(last).await;
    publishing.finish().await;
    let lines = published(&server.broker().await).await;
    for key in ["a", "b", "c"] {
        let sealed = format!("{key} 1 sealed 1");
        assert_eq!(lines.iter().filter(|line| **line == sealed).count(), 1, "{lines:?}");
    }
    // Between subjects there is no order: one whose append got no answer comes later.
    assert!(lines.iter().any(|line| line == "d 1 open 1"), "{lines:?}");
}

/// Changes the bound of REPORTS.
async fn bound_reports(server: &TestServer, max_bytes: i64) {
    let context = async_nats::jetstream::new(server.client().await);
    let mut config = context.get_stream(REPORTS).await.unwrap().cached_info().config.clone();
    config.max_bytes = max_bytes;
    context.update_stream(config).await.unwrap();
}

#[tokio::test]
async fn of_an_open_revision_only_the_newest_state_is_kept_and_published_at_intervals() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let an_hour = Duration::from_secs(3600);
    let publishing = Publishing::start_every(&broker, folder.path(), an_hour);
    // The first state goes out at once, and with it the hour begins.
    let last = tally(&broker, "a", "marked").await;
    publishing.settled(last).await;
    let mut last = last;
    for _ in 0..50 {
        last = tally(&broker, "a", "marked").await;
    }
    publishing.running.until_sequence("tally-daily", last).await;
    // A sealed one does not wait for the hour, and stands in place of the open one.
    tally(&broker, "b", "marked").await;
    let last = tally(&broker, "b", "closed").await;
    let sealed = async {
        while !published(&broker).await.contains(&"b 1 sealed 1".to_owned()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, sealed).await.expect("a sealed revision is published within the hour");
    assert_eq!(published(&broker).await, ["a 1 open 1", "b 1 sealed 1"]);
    assert_eq!(broker.state(REPORTS).await.unwrap().last_sequence, 2, "50 changes are no message");
    publishing.finish().await;

    // The newest state comes when the interval allows it, also after a restart.
    let publishing = Publishing::start(&broker, folder.path());
    publishing.settled(last).await;
    assert_eq!(published(&broker).await, ["b 1 sealed 1", "a 1 open 51"]);
    let last = tally(&broker, "a", "closed").await;
    publishing.settled(last).await;
    let last = tally(&broker, "a", "rubbed").await;
    publishing.settled(last).await;
    assert_eq!(published(&broker).await, ["b 1 sealed 1", "a 1 sealed 51", "a 2 open 50"]);
    publishing.finish().await;
}

#[tokio::test]
async fn full_reports_take_a_sealed_revision_in_place_of_its_open_state_and_the_rest_is_told() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let publishing = Publishing::start(&broker, folder.path());
    let last = tally(&broker, "a", "marked").await;
    publishing.settled(last).await;
    let context = async_nats::jetstream::new(server.client().await);
    let bytes = context.get_stream(REPORTS).await.unwrap().cached_info().state.bytes;
    // As much room as one revision takes, sealed or not.
    bound_reports(&server, i64::try_from(bytes).unwrap() + 200).await;
    let last = tally(&broker, "a", "closed").await;
    publishing.settled(last).await;
    assert_eq!(published(&broker).await, ["a 1 sealed 1"]);

    tally(&broker, "b", "marked").await;
    let last = tally(&broker, "b", "closed").await;
    publishing.running.until_sequence("tally-daily", last).await;
    publishing.not_ready("REPORTS is full").await;
    assert_eq!(published(&broker).await, ["a 1 sealed 1"], "nothing is dropped");
    bound_reports(&server, 1024 * 1024).await;
    publishing.settled(last).await;
    assert_eq!(published(&broker).await, ["a 1 sealed 1", "b 1 sealed 1"]);
    publishing.finish().await;
}

/// With REPORTS full, every open revision was tried in every pass, each with a line in the log, once a second.
#[tokio::test]
async fn full_reports_are_asked_for_few_open_revisions_and_for_every_sealed_one() {
    const TALLIES: usize = 1_000;
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let folder = tempfile::tempdir().unwrap();
    let publishing = Publishing::start(&broker, folder.path());
    let last = tally(&broker, "z", "marked").await;
    publishing.settled(last).await;
    publishing.finish().await;
    let context = async_nats::jetstream::new(server.client().await);
    let bytes = context.get_stream(REPORTS).await.unwrap().cached_info().state.bytes;
    bound_reports(&server, i64::try_from(bytes).unwrap() + 100).await;

    // All wait in the outbox before the first pass, the sealed one behind the others.
    let running = Running::start(&broker, folder.path(), tallies());
    let marked = |number| commit(&format!("tally.k{number:04}"), "marked", &format!("marked-{number}"));
    for appended in broker.append_each(EVENTS, (0..TALLIES).map(marked).collect()).await {
        appended.unwrap();
    }
    let last = tally(&broker, "z", "closed").await;
    running.until_sequence("tally-daily", last).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let counting = {
        let refused = Arc::clone(&refused);
        server.broker().await.on_unstored(move |_, _| {
            refused.fetch_add(1, Ordering::Relaxed);
        })
    };
    let publishing = Publishing::over(&counting, running, Duration::ZERO);
    let sealed = async {
        while published(&broker).await != ["z 1 sealed 1"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, sealed)
        .await
        .expect("a sealed revision takes the place of its open state");
    let refused = refused.load(Ordering::Relaxed);
    assert!((1..=TALLIES / 5).contains(&refused), "{refused} refused");
    publishing.finish().await;
}

/// An append without an answer was no trouble, so that a reporter that could publish nothing was ready.
#[tokio::test]
async fn reporter_whose_appends_are_not_answered_is_not_ready() {
    let needs = stage_needs("reporter", "").unwrap();
    let mut publish = needs.publish_subjects("$JS.API", "_INBOX_reporter");
    publish.retain(|subject| !subject.starts_with("report."));
    let subscribe = needs.subscribe_subjects("_INBOX_reporter");
    let server = RestrictedServer::start(&[("reporter".to_owned(), publish, subscribe)]).await;
    let broker = as_stage(&server, "reporter").await;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start_with(&broker, folder.path(), tallies(), |config| {
        config.events_consumer = "reporter".to_owned();
    });
    let publishing = Publishing::over(&broker, running, Duration::ZERO);
    tally(&server.server().broker().await, "a", "marked").await;
    publishing.not_ready("it is unclear whether the append to report.test.tally-daily.a.").await;
    publishing.finish().await;
}

/// An append that took place without an answer replaced the state before, but nobody removed that state any more.
#[tokio::test]
async fn replaced_state_goes_when_the_append_took_place_without_an_answer() {
    let plan = FaultPlan {
        append_answer_lost: 1.0,
        answer_timeout: Duration::from_millis(100),
        ..FaultPlan::none()
    };
    let broker = MemoryBroker::new(1, plan);
    let folder = tempfile::tempdir().unwrap();
    let publishing = Publishing::start(&broker, folder.path());
    for (number, states) in [(1, ["a 1 open 1"]), (2, ["a 1 open 2"])] {
        let answer = broker.append(EVENTS, commit("tally.a", "marked", &format!("marked-{number}"))).await;
        assert!(answer.is_err(), "{answer:?}");
        publishing.settled(number).await;
        assert_eq!(published_of(&broker.dump(REPORTS)), states);
    }
    publishing.finish().await;
}
