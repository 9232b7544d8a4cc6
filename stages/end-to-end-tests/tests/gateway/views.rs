//! Views that are slow, behind, or partly away: a stand-in says what they say, and when.

use std::time::Duration;

use end_to_end_tests::{
    system::fresh_folder,
    waiting::{PATIENCE, until},
};
use futures::StreamExt as _;
use millstream_contract::outcome::{Generations, OUTCOME_SUBJECT, OutcomeRecord, RecordKind};
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::Instant,
};

use crate::gateway;

const REGISTER: &str = "/v1/commands/retail/product/tea/register";
const TEA: &str = r#"{"name":"Tea","supplier":"acme"}"#;
const ROW: &str = "/v1/retail/product/tea";

/// What a view says.
enum Said {
    Nothing,
    NoRow,
    Row(Value),
}

/// Answers questions to `subject` with what `answer` says to the number of the question, the first being 0.
async fn stand_in(server: &TestServer, subject: &str, answer: impl Fn(usize) -> Said + Send + 'static) {
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut questions = client.subscribe(subject.to_owned()).await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Some(question) = questions.next().await {
            let mut headers = async_nats::HeaderMap::new();
            let body = match answer(number) {
                Said::Nothing => None,
                Said::NoRow => {
                    headers.insert("Nats-Service-Error", "there is no such row");
                    headers.insert("Nats-Service-Error-Code", "404");
                    Some(String::new())
                }
                Said::Row(value) => {
                    headers.insert("Millstream-Position", "EVENTS:01JD:1");
                    Some(json!({ "key": "tea", "value": value }).to_string())
                }
            };
            if let Some(body) = body {
                let reply = question.reply.unwrap();
                client.publish_with_headers(reply, headers, body.into()).await.unwrap();
            }
            number += 1;
        }
    });
}

#[tokio::test]
async fn a_command_under_a_new_key_is_not_kept_by_a_view_that_is_slow() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    stand_in(&server, "query.*.command.get", |_| Said::Nothing).await;
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let mut number = 0;
    // Whoever waited for the view would take five seconds each time, on a machine however fast.
    until("one is stored in less time than a view may take", async || {
        number += 1;
        let began = Instant::now();
        let answer = client.with("Idempotency-Key", &number.to_string()).post(REGISTER, TEA).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        (began.elapsed() < Duration::from_secs(4)).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test]
async fn a_command_is_followed_in_its_own_context() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    // Nobody answers for the other contexts.
    stand_in(&server, "query.retail.command.get", |number| match number {
        0 | 1 => Said::NoRow,
        _ => Said::Row(json!({
            "command_id": "x", "command_position": 1, "outcome": "accepted", "position": 1, "version": 1, "events": 1,
        })),
    })
    .await;
    stand_in(&server, "query.retail.product.get", |_| Said::Row(json!({ "name": "Tea" }))).await;
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let stored = client.post(REGISTER, TEA).await;
    assert_eq!(stored.status, 202, "{stored:?}");
    let location = stored.header("location").unwrap();
    assert_eq!(client.get(location).await.json()["outcome"], "pending");
    let position = stored.header("millstream-position").unwrap();
    let behind = client.with("Millstream-Position", position).with("Prefer", "wait=20");
    let row = behind.get(ROW).await;
    assert_eq!((row.status, &row.json()["value"]["name"]), (200, &json!("Tea")), "{row:?}");
    assert_eq!(client.get(location).await.json()["outcome"], "accepted");

    let none = position.strip_suffix(":1").unwrap();
    let none = client.with("Millstream-Position", &format!("{none}:0")).get(ROW).await;
    assert_eq!(none.problem(), (409, "position-unknown".to_owned()), "there is no position 0");
    process.stop().await;
}

/// It seemed to wait for its turn, so that a query behind it was not answered before its time was over.
#[tokio::test]
async fn a_command_whose_outcome_is_purged_is_one_that_is_decided() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    stand_in(&server, "query.*.command.get", |_| Said::NoRow).await;
    let view = async_nats::connect(server.url()).await.unwrap();
    let mut questions = view.subscribe("query.retail.product.get").await.unwrap();
    view.flush().await.unwrap();
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.wait_max=1h");
    process.start_ready().await;
    let mut stored = Vec::new();
    for _ in 0..2 {
        stored.push(client.post(REGISTER, TEA).await);
    }
    let [location, next] = [0, 1].map(|at: usize| stored[at].header("location").unwrap());
    assert_eq!(client.get(location).await.json()["outcome"], "pending");
    let waiting = client.with("Millstream-Position", stored[0].header("millstream-position").unwrap());
    let waiting = waiting.with("Prefer", "wait=3600");
    let query = tokio::spawn(async move { waiting.get(ROW).await });

    // What the first record tells is that one before it told of the first command.
    let broker = server.broker().await;
    let commands = broker.state("COMMANDS").await.unwrap().generation;
    let events = broker.state("EVENTS").await.unwrap().generation;
    let record = OutcomeRecord {
        record_id: "01JD".into(),
        kind: RecordKind::Fence,
        handler: "command-handler".into(),
        after: 1,
        through: 1,
        events_through: 1,
        outcomes: Vec::new(),
        generations: Generations { commands: commands.into(), events: events.as_str().into() },
    };
    let jetstream = async_nats::jetstream::new(view.clone());
    for (subject, body) in [("evt.retail.product.tea", vec![0]), (OUTCOME_SUBJECT, record.encode())] {
        jetstream.publish(subject, body.into()).await.unwrap().await.unwrap();
    }
    let question = tokio::time::timeout(PATIENCE, questions.next()).await.unwrap().unwrap();
    let behind = question.headers.as_ref().unwrap().get("Millstream-Position").unwrap().as_str();
    assert_eq!(behind, format!("EVENTS:{events}:1"), "all that was there when it was asked");
    view.publish(question.reply.unwrap(), r#"{"key":"tea","value":{}}"#.into()).await.unwrap();
    assert_eq!(query.await.unwrap().status, 200);
    assert_eq!(client.get(location).await.problem(), (410, "outcome-forgotten".to_owned()));
    assert_eq!(client.get(next).await.json()["outcome"], "pending", "of which no record can tell yet");
    process.stop().await;
}

#[tokio::test]
async fn a_command_that_is_sent_again_after_a_dead_letter_has_no_outcome_yet() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    stand_in(&server, "query.retail.command.get", |_| {
        Said::Row(json!({
            "command_id": "x", "command_position": 1, "outcome": "dead-lettered", "code": "rules-panicked", "message": "-",
        }))
    })
    .await;
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let keyed = client.with("Idempotency-Key", "k");
    let mut locations = Vec::new();
    for _ in 0..2 {
        let stored = keyed.post(REGISTER, TEA).await;
        assert_eq!(stored.status, 202, "{stored:?}");
        locations.push(stored.header("location").unwrap().to_owned());
    }
    assert!(locations[1].ends_with("?position=2"), "it is decided anew: {locations:?}");
    assert_eq!(client.get(&locations[0]).await.json()["outcome"], "dead-lettered");
    assert_eq!(client.get(&locations[1]).await.json()["outcome"], "pending");
    process.stop().await;
}

#[tokio::test]
async fn whoever_waits_for_a_row_or_for_the_rest_of_a_body_does_not_keep_it_from_ending() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (asked, mut questions) = mpsc::unbounded_channel();
    stand_in(&server, "query.retail.product.get", move |_| {
        asked.send(()).unwrap();
        Said::Nothing
    })
    .await;
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process =
        process.set("gateway.body_timeout=60s").set("gateway.header_timeout=60s").set("shutdown.limit=10s");
    process.start_ready().await;
    let waiting = client.with("Millstream-Position", "EVENTS:01JD:1").with("Prefer", "wait=30");
    let query = tokio::spawn(async move { waiting.get(ROW).await });
    questions.recv().await.unwrap();
    let mut headers = TcpStream::connect(client.address()).await.unwrap();
    headers.write_all(b"POST / HTTP/1.1\r\nHost:").await.unwrap();
    let mut command = TcpStream::connect(client.address()).await.unwrap();
    let head = format!(
        "POST {REGISTER} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 50\r\nExpect: 100-continue\r\n\r\n"
    );
    command.write_all(head.as_bytes()).await.unwrap();
    // Its body is asked for: it is being read.
    let mut text = vec![0; 25];
    let begun = tokio::time::timeout(PATIENCE, command.read_exact(&mut text)).await;
    assert!(matches!(begun, Ok(Ok(_))), "{begun:?}");
    command.write_all(b"{\"na").await.unwrap();

    process.signal(Signal::SIGTERM);
    let late = query.await.unwrap();
    assert_eq!(late.problem(), (504, "position-not-reached".to_owned()));
    assert_eq!(late.header("retry-after"), Some("1"), "{late:?}");
    command.read_to_end(&mut text).await.unwrap();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("HTTP/1.1 503") && text.contains("urn:millstream:problem:stopping"), "{text}");
    assert_eq!(process.exit_code().await, 0, "{}", process.log());
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_does_not_keep_its_connection() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    stand_in(&server, "query.retail.product.get", |_| Said::Row(json!("x".repeat(900_000)))).await;
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.body_timeout=500ms").set("gateway.header_timeout=500ms");
    process.start_ready().await;
    let mut silent = TcpStream::connect(client.address()).await.unwrap();
    // More than the buffers of both ends hold.
    let requests = format!("GET {ROW} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(100);
    silent.write_all(requests.as_bytes()).await.unwrap();
    until("answers are there", async || process.metric("millstream_gateway_requests_total{").await).await;
    until("the connection is closed", async || {
        let connections = process.metric("millstream_gateway_connections").await;
        (connections == Some(0.0)).then_some(())
    })
    .await;
    let taken = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
    assert!(!matches!(taken, Ok(Ok(length)) if length > 100 * 900_000), "all were taken: nothing was tried");
    process.stop().await;
}
