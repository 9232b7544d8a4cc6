//! Live rows: what a client sees, and for how long.

use std::fs;

use async_nats::{Client, HeaderMap, Message, Subscriber};
use end_to_end_tests::{
    http_client::HttpClient,
    live_stream::LiveStream,
    stage_process::StageProcess,
    system::{System, fresh_folder},
    waiting::{PATIENCE, until},
};
use futures::StreamExt as _;
use millstream_contract::{
    position::StreamPosition,
    view_change::{ViewChange, changed_subject},
};
use millstream_jetstream::testing::test_server::TestServer;
use serde_json::{Value, json};

use crate::{
    commands::clients,
    gateway, gateway_with_keys,
    keys::{YEARS_AHEAD, key},
};

const REGISTER: &str = "/v1/commands/retail/product/tea/register";
const REPRICE: &str = "/v1/commands/retail/product/tea/reprice";
const TEA: &str = r#"{"name":"Tea","supplier":"acme"}"#;
const WATCH_TEA: &str = "watch=retail/product/tea";

pub(crate) async fn register(client: &HttpClient) {
    let answer = client.with("Prefer", "wait=30").post(REGISTER, TEA).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

pub(crate) async fn reprice(client: &HttpClient, price: u32) {
    let body = json!({ "unit_price": price, "currency": "USD" }).to_string();
    until("a price is set", async || {
        let key = format!("price-{price}");
        let answer =
            client.with("Prefer", "wait=30").with("Idempotency-Key", &key).post(REPRICE, &body).await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// The price that an event shows.
pub(crate) fn price(data: &Value) -> Option<u64> {
    data["value"]["unit_price"].as_u64()
}

/// A view that does what a test wants.
pub(crate) struct FakeView {
    client: Client,
    questions: Subscriber,
}

impl FakeView {
    pub(crate) async fn start(server: &TestServer) -> Self {
        let client = server.client().await;
        let questions = client.subscribe("query.retail.product.get").await.unwrap();
        client.flush().await.unwrap();
        Self { client, questions }
    }

    pub(crate) async fn question(&mut self) -> Message {
        let question = tokio::time::timeout(PATIENCE, self.questions.next()).await;
        question.expect("the view is asked in time").unwrap()
    }

    pub(crate) async fn answer(&self, question: Message, position: &str, value: &Value) {
        let mut headers = HeaderMap::new();
        headers.insert("Millstream-Position", position);
        let body = json!({ "key": "tea", "value": value }).to_string();
        self.client.publish_with_headers(question.reply.unwrap(), headers, body.into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    async fn refuse(&self, question: Message, code: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", code);
        headers.insert("Nats-Service-Error", "no");
        self.client.publish_with_headers(question.reply.unwrap(), headers, "".into()).await.unwrap();
    }

    pub(crate) async fn hint(&self, position: &str) {
        let position: StreamPosition = position.parse().unwrap();
        let change = ViewChange { position, keys: Some(vec!["tea".to_owned()]) };
        self.client.publish(changed_subject("retail", "product"), change.to_json().into()).await.unwrap();
        self.client.flush().await.unwrap();
    }
}

#[tokio::test]
async fn a_row_comes_at_once_and_again_with_each_change() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let mut live = LiveStream::open(&client, &format!("{WATCH_TEA}&list=retail/product/te")).await;
    let head = live.head.to_lowercase();
    for header in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
        assert!(head.contains(header), "{head}");
    }
    let row = live.until(|event| event.name == "row").await;
    assert_eq!(row.data, json!({ "watch": "retail/product/tea", "key": "tea", "value": null }));
    assert!(row.id.unwrap().starts_with("EVENTS:"));
    let mut all = LiveStream::open(&client, "list=retail/product/te").await;
    let empty = json!({ "watch": "retail/product/te", "rows": [], "cursor": null });
    assert_eq!(all.next().await.unwrap().data, empty);

    register(&client).await;
    let row = live.until(|event| event.name == "row").await;
    assert_eq!(row.data["value"]["name"], "Tea", "{row:?}");
    for number in 1..=5 {
        reprice(&client, number).await;
        let row = live.until(|event| event.name == "row").await;
        assert_eq!(price(&row.data), Some(number.into()), "{row:?}");
        let list = all.until(|event| price(&event.data["rows"][0]) == Some(number.into())).await;
        assert_eq!((list.name.as_str(), &list.data["rows"][0]["key"]), ("list", &json!("tea")), "{list:?}");
    }
    for (query, expected) in [
        ("watch=retail/nothing/7", (404, "view-unknown")),
        ("watch=retail/till", (400, "query-malformed")),
        ("", (400, "query-malformed")),
    ] {
        let answer = client.get(&format!("/v1/live?{query}")).await;
        assert_eq!(answer.problem(), (expected.0, expected.1.to_owned()), "{query}");
    }
    for id in ["17", "COMMANDS:01JD:1"] {
        let answer = client.with("Last-Event-ID", id).get(&format!("/v1/live?{WATCH_TEA}")).await;
        assert_eq!(answer.problem(), (400, "position-malformed".to_owned()), "{id}");
    }
    let _said = system.stop().await;
}

#[tokio::test]
async fn a_key_that_is_revoked_or_grants_less_ends_its_streams() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let _view = FakeView::start(&server).await;
    let (process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let mut process = process.set("gateway.live_max=4").set("gateway.key_share=50");
    let entry = |seed: u8, name: &str, queries: &str| {
        let (entry, client) = key(&client, seed, name, YEARS_AHEAD, &[]);
        (format!("{entry}queries = [\"{queries}\"]\n\n"), client)
    };
    let (first, one) = entry(1, "one", "retail.product.*");
    let (second, another) = entry(2, "another", "retail.product.*");
    fs::write(&file, [first.as_str(), &second].concat()).unwrap();
    process.start_ready().await;
    let refused = one.get("/v1/live?watch=retail/till/7").await;
    assert_eq!(refused.problem(), (403, "query-not-granted".to_owned()));
    let refused = one.get("/v1/live?list=retail/till/7").await;
    assert_eq!(refused.problem(), (403, "query-not-granted".to_owned()));

    let mut live = LiveStream::open(&one, WATCH_TEA).await;
    let more = LiveStream::open(&one, WATCH_TEA).await;
    let answer = one.get(&format!("/v1/live?{WATCH_TEA}")).await;
    assert_eq!(answer.problem(), (429, "share-exceeded".to_owned()), "it has half of the places");
    let mut other = LiveStream::open(&another, WATCH_TEA).await;
    drop(more);
    until("there is a place again", async || {
        LiveStream::ask(&one, WATCH_TEA).await.head.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;

    let (less, _) = entry(2, "another", "retail.product.coffee");
    fs::write(&file, less).unwrap();
    for (stream, status, code) in [(&mut live, 401, "key-unknown"), (&mut other, 403, "query-not-granted")] {
        let end = stream.until(|event| event.name == "end").await;
        assert_eq!((&end.data["status"], &end.data["code"]), (&json!(status), &json!(code)), "{end:?}");
        assert_eq!(stream.next().await, None);
    }
    process.stop().await;
}

#[tokio::test]
async fn a_stream_ends_in_good_order_when_the_gateway_stops_and_goes_on_where_it_was() {
    let (folder, own) = (fresh_folder(), fresh_folder());
    let system = System::start(folder.path(), &[]).await;
    let other = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    register(&other).await;
    let (mut process, client) = gateway(&system.url(), own.path());
    process.start_ready().await;
    let mut live = LiveStream::open(&client, WATCH_TEA).await;
    reprice(&other, 1).await;
    live.until(|event| price(&event.data) == Some(1)).await;
    let id = live.last_id().unwrap().to_owned();
    process.stop().await;
    let end = live.until(|event| event.name == "end").await;
    assert_eq!(end.data["code"], "stopping", "{end:?}");
    assert_eq!(live.next().await, None, "no connection is broken");

    reprice(&other, 2).await;
    process.start_ready().await;
    let mut live = LiveStream::open(&client.with("Last-Event-ID", &id), WATCH_TEA).await;
    let event = live.next().await.unwrap();
    assert_eq!((event.name.as_str(), price(&event.data)), ("row", Some(2)), "the last state, and no reset");
    // What is of another stream, or behind its end, was never so.
    let generation = id.split(':').nth(1).unwrap();
    for id in [format!("EVENTS:{generation}:1000000"), "EVENTS:01JD:1".to_owned()] {
        let mut live = LiveStream::open(&client.with("Last-Event-ID", &id), WATCH_TEA).await;
        let reset = live.next().await.unwrap();
        assert_eq!(
            (reset.name.as_str(), &reset.data["watch"]),
            ("reset", &json!("retail/product/tea")),
            "{id}"
        );
        assert_eq!(price(&live.next().await.unwrap().data), Some(2));
    }
    process.stop().await;
    let _said = system.stop().await;
}

#[tokio::test]
async fn what_is_shown_never_goes_back_unless_the_stream_was_made_again() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let mut view = FakeView::start(&server).await;
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.live_recheck=1h");
    process.start_ready().await;
    let mut live = LiveStream::open(&client, WATCH_TEA).await;
    let question = view.question().await;
    view.answer(question, "EVENTS:01JD:5", &json!(5)).await;
    assert_eq!(live.next().await.unwrap().data["value"], 5);
    // A hint of what is shown already costs no question; this one is of what comes behind it.
    view.hint("EVENTS:01JD:5").await;
    view.hint("EVENTS:01JD:7").await;
    let question = view.question().await;
    // Another replica has less than what is shown; and another one more, but not all.
    view.answer(question, "EVENTS:01JD:4", &json!(4)).await;
    let question = view.question().await;
    view.answer(question, "EVENTS:01JD:6", &json!(6)).await;
    assert_eq!(live.next().await.unwrap().data["value"], 6, "not 4");
    let question = view.question().await;
    view.answer(question, "EVENTS:01JD:8", &json!(8)).await;
    let event = live.next().await.unwrap();
    assert_eq!((&event.data["value"], event.id.as_deref()), (&json!(8), Some("EVENTS:01JD:8")));

    view.hint("EVENTS:01JE:1").await;
    let question = view.question().await;
    view.answer(question, "EVENTS:01JE:1", &json!(1)).await;
    assert_eq!(live.next().await.unwrap().name, "reset");
    let event = live.next().await.unwrap();
    assert_eq!((&event.data["value"], event.id.as_deref()), (&json!(1), Some("EVENTS:01JE:1")));
    process.stop().await;
}

#[tokio::test]
async fn a_lost_hint_is_made_good_and_a_view_that_is_silent_is_told() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let mut view = FakeView::start(&server).await;
    let (process, client) = gateway(&server.url(), folder.path());
    // A stream goes on for longer than a client may take for another answer.
    let mut process = process
        .set("gateway.live_recheck=100ms")
        .set("gateway.body_timeout=100ms")
        .set("gateway.header_timeout=100ms");
    process.start_ready().await;
    let mut live = LiveStream::open(&client, WATCH_TEA).await;
    let question = view.question().await;
    view.answer(question, "EVENTS:01JD:1", &json!(1)).await;
    assert_eq!(live.next().await.unwrap().data["value"], 1);
    let question = view.question().await;
    // Nobody has said that it changed.
    view.answer(question, "EVENTS:01JD:2", &json!(2)).await;
    assert_eq!(live.next().await.unwrap().data["value"], 2);

    let problem = loop {
        tokio::select! {
            question = view.question() => view.refuse(question, "503").await,
            event = live.next() => break event.unwrap(),
        }
    };
    assert_eq!((problem.name.as_str(), &problem.data["code"]), ("problem", &json!("view-unavailable")));
    assert_eq!(problem.data["watch"], "retail/product/tea");
    // The same state again says that it holds again.
    let question = view.question().await;
    view.answer(question, "EVENTS:01JD:2", &json!(2)).await;
    assert_eq!(live.next().await.unwrap().data["value"], 2);
    process.stop().await;
}

/// Whoever waits for what is told of a process.
pub(crate) async fn told(process: &StageProcess, metric: &str, wanted: impl Fn(f64) -> bool) {
    until(format!("{metric} is as wanted"), async || process.metric(metric).await.filter(|now| wanted(*now)))
        .await;
}

/// It began with a row that was older than the command, and showed the effect with the next state.
#[tokio::test]
async fn a_stream_behind_a_command_begins_with_its_effect() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    register(&client).await;
    let mut sent = None;
    for wanted in 100..110 {
        let body = json!({ "unit_price": wanted, "currency": "USD" }).to_string();
        let answer = client.post(REPRICE, &body).await;
        let position = answer.header("millstream-position").unwrap().to_owned();
        let behind = client.with("Millstream-Position", &position).with("Prefer", "wait=30");
        let mut stream = LiveStream::open(&behind, WATCH_TEA).await;
        let first = stream.next().await.unwrap();
        assert_eq!((first.name.as_str(), price(&first.data)), ("row", Some(wanted)), "{first:?}");
        sent = Some(position);
    }
    let (generation, _) = sent.as_ref().unwrap().rsplit_once(':').unwrap();
    let behind = client.with("Millstream-Position", &format!("{generation}:999999"));
    let refused = LiveStream::ask(&behind, WATCH_TEA).await;
    assert!(refused.head.starts_with("HTTP/1.1 409 "), "{}", refused.head);
    let _said = system.stop().await;
}
