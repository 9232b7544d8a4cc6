//! Queries as clients see them: rows, pages, positions, refusals, and what `nats micro` shows.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures::{StreamExt, stream::FuturesUnordered};
use millstream_contract::{commit::EventEnvelope, header, stream_names::EVENTS};
use millstream_domain::projection::{Projection, ProjectionError, Rows};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_read_side::{
    projection_runner::ProjectionSet,
    query_service::{QueryService, QueryServiceConfig},
};
use millstream_runtime::metrics::Metrics;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{PATIENCE, Running, commit, grow, projections};

/// An answer: code (200 for a good one), text or body, position.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) text: String,
    pub(crate) position: Option<String>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 200, "{self:?}");
        serde_json::from_str(&self.text).unwrap()
    }

    fn keys(&self) -> Vec<String> {
        let json = self.json();
        let rows = json["rows"].as_array().unwrap();
        rows.iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
    }

    fn cursor(&self) -> Option<String> {
        self.json()["cursor"].as_str().map(str::to_owned)
    }
}

async fn ask_with(client: &Client, subject: &str, body: &str, headers: &[(&str, &str)]) -> Reply {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let request = client.request_with_headers(format!("query.test.{subject}"), map, body.to_owned().into());
    let answer = tokio::time::timeout(PATIENCE, request).await.unwrap().unwrap();
    let header = |name: &str| {
        answer.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.to_string())
    };
    Reply {
        code: header("Nats-Service-Error-Code").map_or(200, |code| code.parse().unwrap()),
        text: header("Nats-Service-Error")
            .unwrap_or_else(|| String::from_utf8(answer.payload.to_vec()).unwrap()),
        position: header(header::POSITION),
    }
}

pub(crate) async fn ask(client: &Client, subject: &str, body: &str) -> Reply {
    ask_with(client, subject, body, &[]).await
}

pub(crate) async fn serve(server: &TestServer, running: &Running) -> QueryService {
    serve_with(server, running, |_| {}).await
}

pub(crate) async fn serve_as(broker: &NatsBroker, running: &Running) -> QueryService {
    let config = QueryServiceConfig::new("projector", "0.1.0");
    QueryService::start(broker, running.store.clone(), &running.views, &Metrics::new(), config).await.unwrap()
}

async fn serve_with(
    server: &TestServer,
    running: &Running,
    adjust: impl FnOnce(&mut QueryServiceConfig),
) -> QueryService {
    let mut config = QueryServiceConfig::new("projector", "0.1.0");
    adjust(&mut config);
    let (store, views) = (running.store.clone(), &running.views);
    QueryService::start(&server.broker().await, store, views, &Metrics::new(), config).await.unwrap()
}

/// The view `counts` of a server of its own, in which `a` was counted.
struct Counted {
    server: TestServer,
    broker: NatsBroker,
    client: Client,
    running: Running,
    _folder: TempDir,
}

impl Counted {
    /// Returns when the view shows so many events.
    async fn to(count: usize) -> Self {
        let server = TestServer::start_provisioned().await;
        let (broker, client) = (server.broker().await, server.client().await);
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(&broker, folder.path(), projections());
        let last = grow(&broker, "a", count).await;
        running.until_sequence("counts", last).await;
        Self { server, broker, client, running, _folder: folder }
    }
}

#[tokio::test]
async fn rows_come_with_the_position_they_are_of() {
    let Counted { server, broker, client, running, _folder } = Counted::to(3).await;
    let service = serve(&server, &running).await;

    let generation = broker.state(EVENTS).await.unwrap().generation;
    let reply = ask(&client, "counts.get", r#"{"key":"a"}"#).await;
    assert_eq!(reply.json(), json!({ "key": "a", "value": { "count": 3 } }));
    assert_eq!(reply.position, Some(format!("EVENTS:{generation}:3")));
    let reply = ask(&client, "counts.list", "").await;
    assert_eq!(reply.json(), json!({ "rows": [{ "key": "a", "value": { "count": 3 } }], "cursor": null }));

    let reply = ask(&client, "counts.get", r#"{"key":"b"}"#).await;
    assert_eq!((reply.code, reply.text.as_str()), (404, "test.counts has no row \"b\""));
    assert_eq!(reply.position, Some(format!("EVENTS:{generation}:3")));
    for (operation, body, named) in [
        ("get", r#"{"kee":"a"}"#, "kee"),
        ("get", r#"{"key":5}"#, "key"),
        ("get", "hello", "body"),
        ("list", r#"{"limit":-1}"#, "limit"),
        ("list", r#"{"cursor":"?"}"#, "cursor"),
    ] {
        let reply = ask(&client, &format!("counts.{operation}"), body).await;
        assert!(reply.code == 400 && reply.text.contains(named), "{body}: {reply:?}");
    }
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn pages_add_up_in_both_directions_and_survive_changes_in_between() {
    let server = TestServer::start_provisioned().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let folder = tempfile::tempdir().unwrap();
    for number in 0..7 {
        grow(&broker, &format!("a{number}"), 1).await;
    }
    let last = grow(&broker, "b0", 1).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    let service = serve(&server, &running).await;

    let first = ask(&client, "counts.list", r#"{"prefix":"a","limit":3}"#).await;
    assert_eq!(first.keys(), ["a0", "a1", "a2"]);
    // A row that appears before the cursor is not seen, one behind it is; neither disturbs the paging.
    grow(&broker, "a00", 1).await;
    let last = grow(&broker, "a33", 1).await;
    running.until_sequence("counts", last).await;
    let mut keys = first.keys();
    let mut cursor = first.cursor();
    while let Some(next) = cursor {
        let body = json!({ "prefix": "a", "limit": 3, "cursor": next }).to_string();
        let page = ask(&client, "counts.list", &body).await;
        keys.extend(page.keys());
        cursor = page.cursor();
    }
    assert_eq!(keys, ["a0", "a1", "a2", "a3", "a33", "a4", "a5", "a6"]);

    let last_two = ask(&client, "counts.list", r#"{"reverse":true,"limit":2}"#).await;
    assert_eq!(last_two.keys(), ["b0", "a6"]);
    let body = json!({ "reverse": true, "limit": 2, "cursor": last_two.cursor() }).to_string();
    assert_eq!(ask(&client, "counts.list", &body).await.keys(), ["a5", "a4"]);
    let range = ask(&client, "counts.list", r#"{"from":"a2","to":"a4"}"#).await;
    assert_eq!((range.keys(), range.cursor()), (vec!["a2".into(), "a3".into(), "a33".into()], None));
    service.stop().await;
    running.finish().await.unwrap();
}

/// A server whose messages have at most 8 KiB.
async fn small_messages() -> TestServer {
    let server = TestServer::start_with(|config| config.extra = "max_payload: 8192".to_owned()).await;
    let context = async_nats::jetstream::new(server.client().await);
    let options = millstream_jetstream::provision::ProvisionOptions::default();
    millstream_jetstream::provision::provision(&context, &options).await.unwrap();
    server
}

#[tokio::test]
async fn large_lists_end_where_the_message_would_be_too_large() {
    let server = small_messages().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let folder = tempfile::tempdir().unwrap();
    let name = |number: usize| format!("{number:03}-{}", "x".repeat(90));
    let mut last = 0;
    for number in 0..100 {
        last = grow(&broker, &name(number), 1).await;
    }
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    let service = serve(&server, &running).await;
    let (mut keys, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let body = json!({ "limit": 10_000, "cursor": cursor }).to_string();
        let page = ask(&client, "counts.list", &body).await;
        assert!(page.text.len() <= 8 * 1024);
        keys.extend(page.keys());
        cursor = page.cursor();
        pages += 1;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(keys, (0..100).map(name).collect::<Vec<_>>());
    assert!(pages > 1);
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn query_waits_until_it_reads_the_writes_it_asks_for() {
    let server = TestServer::start_provisioned().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&broker, folder.path(), projections());
    let service = serve(&server, &running).await;
    let generation = broker.state(EVENTS).await.unwrap().generation;
    for number in 1..=20 {
        let sequence = grow(&broker, "a", 1).await;
        let position = format!("EVENTS:{generation}:{sequence}");
        let headers = [(header::POSITION, position.as_str()), (header::WAIT_MS, "15000")];
        let reply = ask_with(&client, "counts.get", r#"{"key":"a"}"#, &headers).await;
        assert_eq!(reply.json()["value"]["count"], number);
    }

    let beyond = format!("EVENTS:{generation}:1000");
    let headers = [(header::POSITION, beyond.as_str()), (header::WAIT_MS, "50")];
    let reply = ask_with(&client, "counts.get", r#"{"key":"a"}"#, &headers).await;
    assert_eq!(reply.code, 504);
    assert!(reply.text.contains("it is at EVENTS:") && reply.text.contains(":20"), "{}", reply.text);

    // One that is asked before the event is there is answered as soon as it is, and until then no transaction waits for others.
    let hurry = &running.views.get("test", "counts").unwrap().hurry;
    assert!(!hurry.is_asked_for(), "nobody waits");
    let next = format!("EVENTS:{generation}:21");
    let headers = [(header::POSITION, next.as_str()), (header::WAIT_MS, "15000")];
    let waiting = ask_with(&client, "counts.get", r#"{"key":"late"}"#, &headers);
    let growing = async {
        let asked = async {
            while !hurry.is_asked_for() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("who waits is in a hurry");
        grow(&broker, "late", 1).await
    };
    let (reply, _) = tokio::join!(waiting, growing);
    assert_eq!(reply.json()["value"]["count"], 1);
    assert!(!hurry.is_asked_for(), "nobody waits any more");
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn positions_that_cannot_be_reached_are_refused_at_once() {
    let Counted { server, client, running, _folder, .. } = Counted::to(1).await;
    let service = serve(&server, &running).await;
    for (position, wait, code, named) in [
        ("EVENTS:01JD0ZV6V8Q6Y0Q3M1R5J3X2A4:1", "15000", 409, "another generation"),
        ("OUTCOMES:01JD0ZV6V8Q6Y0Q3M1R5J3X2A4:1", "15000", 400, "follows EVENTS"),
        ("17", "15000", 400, "Millstream-Position"),
        ("EVENTS:g:1", "soon", 400, "Millstream-Wait-Ms"),
    ] {
        let headers = [(header::POSITION, position), (header::WAIT_MS, wait)];
        let reply = ask_with(&client, "counts.get", r#"{"key":"a"}"#, &headers).await;
        assert!(reply.code == code && reply.text.contains(named), "{position}: {reply:?}");
    }
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn halted_view_says_why_and_others_answer() {
    let server = TestServer::start_provisioned().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&broker, folder.path(), projections());
    grow(&broker, "a", 1).await;
    let last = broker.append(EVENTS, commit("thing.a", "shrunk", "s")).await.unwrap().sequence;
    running.until_sequence("latest", last).await;
    running.until("counts", |status| status.halted.is_some()).await;
    let service = serve(&server, &running).await;
    let reply = ask(&client, "counts.get", r#"{"key":"a"}"#).await;
    assert_eq!(reply.code, 503);
    assert!(reply.text.contains("halted at EVENTS 2") && reply.text.contains("shrunk"), "{}", reply.text);
    assert_eq!(ask(&client, "latest.get", r#"{"key":"a"}"#).await.json()["value"], last);

    // A query that waits when the view halts is told so instead of waiting to the end.
    let generation = broker.state(EVENTS).await.unwrap().generation;
    let position = format!("EVENTS:{generation}:{}", last + 100);
    let headers = [(header::POSITION, position.as_str()), (header::WAIT_MS, "30000")];
    let reply = tokio::time::timeout(
        Duration::from_secs(10),
        ask_with(&client, "counts.get", r#"{"key":"a"}"#, &headers),
    );
    assert_eq!(reply.await.expect("it does not wait").code, 503);
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn view_that_is_being_built_is_not_shown_by_halves() {
    let server = TestServer::start_provisioned().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let folder = tempfile::tempdir().unwrap();
    let last = grow(&broker, "a", 5).await;
    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    running.finish().await.unwrap();
    // As if a rebuild that is to end at 9 had been cut off at 5.
    let store = millstream_store::read_store::ReadStore::open(&folder.path().join("rows.redb"), 1024 * 1024);
    let store = store.unwrap();
    let counts = millstream_store::read_store::ProjectionId::of_context("test", "counts");
    let mut checkpoint = store.snapshot().unwrap().checkpoint(&counts).unwrap().unwrap();
    checkpoint.complete_from = 9;
    store.reset(&counts, &checkpoint).unwrap();
    drop(store);

    let running = Running::start(&broker, folder.path(), projections());
    running.until_sequence("counts", last).await;
    let service = serve(&server, &running).await;
    let reply = ask(&client, "counts.list", "").await;
    assert!(reply.code == 503 && reply.text.contains("at 5 of 9"), "{reply:?}");
    grow(&broker, "b", 4).await;
    running.until("counts", |status| status.is_complete()).await;
    assert_eq!(ask(&client, "counts.list", "").await.keys(), ["b"]);
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn waiting_queries_of_one_client_leave_others_their_places() {
    // While a view becomes able to answer, a request may come twice, and each copy takes a place: it is able before it is asked.
    let Counted { server, broker, client, running, _folder } = Counted::to(1).await;
    let other = server.client().await;
    let service = serve_with(&server, &running, |config| {
        // A query has its place until a moment after its answer was sent: more than are asked here at once.
        config.in_flight_max = 20;
        config.waiting_max = 5;
        config.waiting_client_max = 3;
    });
    let service = service.await;
    let generation = broker.state(EVENTS).await.unwrap().generation;
    let position = format!("EVENTS:{generation}:2");
    let headers = [(header::POSITION, position.as_str()), (header::WAIT_MS, "30000")];
    let wait = |client| ask_with(client, "counts.get", r#"{"key":"a"}"#, &headers);
    let mut replies: FuturesUnordered<_> = (0..10).map(|_| wait(&client)).collect();
    // Three wait; the others are refused before there is anything to answer the three with.
    for _ in 0..7 {
        let refused = replies.next().await.unwrap();
        assert!(refused.code == 429 && refused.text.contains("of this client"), "{refused:?}");
    }
    // Whoever does not wait is answered, this client as well, and others may wait.
    for each in [&client, &other] {
        assert_eq!(ask(each, "counts.get", r#"{"key":"a"}"#).await.json()["value"]["count"], 1);
    }
    let mut others: FuturesUnordered<_> = (0..3).map(|_| wait(&other)).collect();
    let refused = others.next().await.unwrap();
    assert!(refused.code == 429 && refused.text.starts_with("5 queries wait"), "{refused:?}");
    grow(&broker, "a", 1).await;
    for waiting in [&mut replies, &mut others] {
        while let Some(reply) = waiting.next().await {
            assert_eq!(reply.json()["value"]["count"], 2);
        }
    }
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn a_burst_of_one_client_leaves_others_places_to_be_answered_at_once() {
    let Counted { server, client, running, _folder, .. } = Counted::to(1).await;
    let service = serve_with(&server, &running, |config| config.in_flight_max = 20).await;
    let burst = (0..500).map(|_| ask(&client, "counts.list", ""));
    let mut replies: FuturesUnordered<_> = burst.collect();
    // There are 15 places for the client of the burst, and 5 for these, one each.
    let others = futures::future::join_all((0..5).map(async |_| {
        let other = server.client().await;
        ask(&other, "counts.get", r#"{"key":"a"}"#).await
    }));
    let refused = async {
        let mut refused = 0;
        while let Some(reply) = replies.next().await {
            if reply.code == 429 {
                assert_eq!(reply.text, "15 queries of this client are being answered already; try again");
                refused += 1;
            }
        }
        refused
    };
    let (others, refused) = tokio::join!(others, refused);
    for reply in others {
        assert_eq!(reply.json()["value"]["count"], 1);
    }
    assert!(refused > 0, "the burst was none");
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn long_and_strange_requests_get_a_short_error() {
    let Counted { server, client, running, _folder, .. } = Counted::to(1).await;
    let service = serve(&server, &running).await;
    let long = "k".repeat(1_000_000);
    for (body, code) in [
        (json!({ "key": long }), 400),
        (json!({ "key": "k".repeat(60_000) }), 404),
        (json!({ "key": "\0\r\n\t\u{1b}[2J\u{2028}" }), 404),
        (json!({ "k".repeat(60_000): 1 }), 400),
        (json!({ "\r\nNats-Service-Error: x": 1 }), 400),
    ] {
        let reply = ask(&client, "counts.get", &body.to_string()).await;
        assert!(reply.code == code && reply.text.len() <= 1_000, "{} {}", reply.code, reply.text.len());
    }
    let headers = [(header::WAIT_MS, long.get(..60_000).unwrap())];
    let reply = ask_with(&client, "counts.get", r#"{"key":"a"}"#, &headers).await;
    assert!(reply.code == 400 && reply.text.len() <= 1_000, "{} {}", reply.code, reply.text.len());
    let nested = "[".repeat(60_000);
    assert_eq!(ask(&client, "counts.list", &nested).await.code, 400);
    service.stop().await;
    running.finish().await.unwrap();
}

#[tokio::test]
async fn row_that_no_answer_can_hold_is_marked_and_hides_no_other() {
    let server = small_messages().await;
    let (broker, client) = (server.broker().await, server.client().await);
    let folder = tempfile::tempdir().unwrap();
    let set = ProjectionSet::new(vec![Box::new(Growing)], Vec::new(), &[]).unwrap();
    let running = Running::start(&broker, folder.path(), set);
    for id in ["a", "b", "c", "d"] {
        grow(&broker, id, if ["b", "c"].contains(&id) { 20 } else { 1 }).await;
    }
    let last = broker.state(EVENTS).await.unwrap().last_sequence;
    running.until_sequence("growing", last).await;
    let service = serve(&server, &running).await;

    let (mut rows, mut cursor) = (Vec::new(), None);
    loop {
        let page = ask(&client, "growing.list", &json!({ "limit": 2, "cursor": cursor }).to_string()).await;
        rows.extend(page.json()["rows"].as_array().unwrap().clone());
        cursor = page.cursor();
        if cursor.is_none() {
            break;
        }
    }
    let keys: Vec<&str> = rows.iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a", "b", "c", "d"]);
    assert_eq!(rows[0]["value"].as_array().unwrap().len(), 1);
    for row in &rows[1..3] {
        assert!(row.get("value").is_none() && row["too_large"]["bytes"].as_u64().unwrap() > 10_000, "{row}");
        assert!(row["too_large"]["bytes_max"].as_u64().unwrap() <= 8_192, "{row}");
    }
    let reply = ask(&client, "growing.get", r#"{"key":"b"}"#).await;
    assert!(reply.code == 413 && reply.text.contains("max_payload"), "{reply:?}");
    service.stop().await;
    running.finish().await.unwrap();
}

/// A row for each thing, which grows by half a kilobyte with every event.
pub(crate) struct Growing;

impl Projection for Growing {
    fn context(&self) -> &'static str {
        "test"
    }

    fn name(&self) -> &'static str {
        "growing"
    }

    fn views(&self) -> &'static [&'static str] {
        &["growing"]
    }

    fn handles(&self, _aggregate: &str) -> bool {
        true
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        let mut lines: Vec<String> = rows.read("growing", envelope.stream_id.id())?.unwrap_or_default();
        lines.push("x".repeat(512));
        rows.write("growing", envelope.stream_id.id(), &lines);
        Ok(())
    }
}

#[tokio::test]
async fn service_shows_its_endpoints_and_where_the_views_stand() {
    let Counted { server: _server, broker, client, running, _folder } = Counted::to(2).await;
    running.until("kinds", |status| status.is_complete()).await;
    let config = QueryServiceConfig::new("projector", "0.1.0");
    let service =
        QueryService::start(&broker, running.store.clone(), &running.views, &Metrics::new(), config).await;
    let service = service.unwrap();
    ask(&client, "counts.get", r#"{"key":"a"}"#).await;

    let info = client.request("$SRV.INFO.projector", "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let subjects: Vec<&str> = info["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| endpoint["subject"].as_str().unwrap())
        .collect();
    assert!(subjects.contains(&"query.test.counts.get") && subjects.contains(&"query.test.kinds.list"));
    let stats = client.request("$SRV.STATS.projector", "".into()).await.unwrap();
    let stats: Value = serde_json::from_slice(&stats.payload).unwrap();
    let endpoints = stats["endpoints"].as_array().unwrap();
    let counts = endpoints.iter().find(|each| each["subject"] == "query.test.counts.get").unwrap();
    assert_eq!(counts["num_requests"], 1);
    assert!(counts["data"]["position"].as_str().unwrap().ends_with(":2"), "{counts}");
    assert_eq!(counts["data"]["halted"], Value::Null);

    service.stop().await;
    // Answered behind the end of the subscriptions, on the same connection.
    broker.state(EVENTS).await.unwrap();
    let gone = client.request("query.test.counts.get", "{}".into()).await.unwrap_err();
    assert_eq!(gone.kind(), async_nats::client::RequestErrorKind::NoResponders);
    running.finish().await.unwrap();
}
