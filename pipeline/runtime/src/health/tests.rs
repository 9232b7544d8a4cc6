//! The health address from outside, over a plain socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Status and body of a GET request.
async fn get_path(address: SocketAddr, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn served() -> (SocketAddr, Readiness, Metrics) {
    let (readiness, metrics) = (Readiness::new(), Metrics::new());
    let any_port = "127.0.0.1:0".parse().unwrap();
    let address = serve(any_port, readiness.clone(), metrics.clone()).await.unwrap();
    (address, readiness, metrics)
}

#[tokio::test]
async fn readiness_tells_each_reason_until_all_conditions_hold() {
    let (address, readiness, _) = served().await;
    let nats = readiness.condition("nats");
    let reader = readiness.condition("reader EVENTS");
    nats.fails("not connected to nats://a");
    let expected = "nats: not connected to nats://a\nreader EVENTS: starting\n";
    assert_eq!(get_path(address, "/readyz").await, (503, expected.to_owned()));
    nats.holds();
    reader.holds();
    assert_eq!(get_path(address, "/readyz").await, (200, "ready\n".to_owned()));
}

/// A stage was seen as ready before it had opened its file: it had not added its conditions yet.
#[test]
fn nothing_is_ready_until_who_joins_later_has_added_a_condition() {
    let readiness = Readiness::new();
    let joining = readiness.until_joined("stage");
    readiness.condition("nats").holds();
    assert_eq!(readiness.reasons(), ["stage: starting"]);
    let views = joining.condition("views");
    assert_eq!(readiness.reasons(), ["views: starting"]);
    views.holds();
    assert!(readiness.reasons().is_empty());
}

#[tokio::test]
async fn a_process_without_its_server_is_alive() {
    let (address, readiness, _) = served().await;
    readiness.condition("nats").fails("the connection to NATS is lost");
    assert_eq!(get_path(address, "/livez").await, (200, "alive\n".to_owned()));
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_text() {
    let (address, readiness, metrics) = served().await;
    metrics.connection().connected.set(1);
    let (status, body) = get_path(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("millstream_nats_connected 1\n"), "{body}");
    assert!(body.contains("millstream_ready 1\n"), "{body}");
    readiness.condition("views").fails("till halted");
    let (_, body) = get_path(address, "/metrics").await;
    assert!(body.contains("millstream_ready 0\n"), "{body}");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let (address, readiness, metrics) = served().await;
    let error = serve(address, readiness, metrics).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Configuration);
}

/// A handler whose outcomes could not be stored waited for ever, and said that it was ready.
#[tokio::test(start_paused = true)]
async fn work_that_waits_without_progress_makes_the_process_unready_and_says_why() {
    let readiness = Readiness::new();
    let joining = readiness.until_joined("stage");
    let commands = joining.progress("commands");
    commands.work_through(9);
    tokio::time::advance(STALLED_AFTER).await;
    assert!(readiness.reasons().is_empty(), "at rest, no work is its own");

    commands.reached(4);
    tokio::time::advance(STALLED_AFTER / 2).await;
    commands.work_through(12);
    commands.reached(4);
    readiness.unstored("OUTCOMES", "stream OUTCOMES is full");
    tokio::time::advance(STALLED_AFTER / 2).await;
    let expected = "commands: no progress for 10 s although there is work (done through 4 of 12); stream OUTCOMES is full";
    assert_eq!(readiness.reasons(), [expected]);

    commands.reached(5);
    assert!(readiness.reasons().is_empty(), "what gets on is ready");
    tokio::time::advance(STALLED_AFTER).await;
    let expected = "commands: no progress for 10 s although there is work (done through 5 of 12)";
    assert_eq!(readiness.reasons(), [expected], "an old refusal is no cause");
    commands.reached(12);
    tokio::time::advance(STALLED_AFTER).await;
    assert!(readiness.reasons().is_empty(), "what is done does not wait");
}

#[tokio::test(start_paused = true)]
async fn part_that_cannot_learn_of_work_or_is_held_is_stalled_until_it_knows_better() {
    let readiness = Readiness::new();
    let effects = readiness.progress("effects");
    effects.held("the server does not answer");
    tokio::time::advance(STALLED_AFTER / 2).await;
    effects.held("stream COMMANDS is full");
    assert!(readiness.reasons().is_empty());
    tokio::time::advance(STALLED_AFTER / 2).await;
    let expected = "effects: no progress for 10 s although there is work: stream COMMANDS is full";
    assert_eq!(readiness.reasons(), [expected]);
    effects.nothing_waits();
    assert!(readiness.reasons().is_empty());

    effects.reached(3);
    effects.held("the server does not answer");
    tokio::time::advance(STALLED_AFTER).await;
    assert_eq!(readiness.reasons().len(), 1);
    effects.work_through(3);
    assert!(readiness.reasons().is_empty(), "nothing waits after all");
    effects.work_through(4);
    effects.rest();
    tokio::time::advance(STALLED_AFTER).await;
    assert!(readiness.reasons().is_empty());
    assert_eq!(effects.position(), None);
}
