//! What is refused before anything is stored, and how much is taken.

use std::time::Duration;

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    system::fresh_folder,
    waiting::{PATIENCE, until},
};
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};

use crate::gateway;

/// A wait for space would be longer.
const AT_ONCE: Duration = Duration::from_secs(20);
const REGISTER: &str = "/v1/commands/retail/product/tea/register";
const TEA: &str = r#"{"name":"Tea","supplier":"acme"}"#;

#[tokio::test]
async fn what_can_never_take_effect_is_refused_and_not_stored() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.body_max=2KiB").set("gateway.body_timeout=500ms");
    process.start_ready().await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let large = format!(r#"{{"name":"{}","supplier":"acme"}}"#, "T".repeat(4096));
    for (path, body, expected) in [
        ("/v1/commands/retail/product/a%20b/register", TEA, (400, "address-malformed")),
        ("/v1/commands/retail/product/%ff/register", TEA, (400, "address-malformed")),
        ("/v1/commands/Retail/product/tea/register", TEA, (400, "address-malformed")),
        ("/v1/commands/retail/nothing/tea/register", TEA, (404, "aggregate-unknown")),
        ("/v1/commands/retail/product/tea/explode", TEA, (404, "command-unknown")),
        ("/v1/commands/retail/product/tea", TEA, (404, "address-unknown")),
        ("/v1/nothing", TEA, (404, "address-unknown")),
        ("/v1/commands/retail/product/tea/register?dry_run=1", TEA, (400, "query-malformed")),
        ("/v1/commands?dry_run=1", TEA, (400, "query-malformed")),
        (REGISTER, "{", (422, "body-malformed")),
        (REGISTER, r#"{"name":"Tea","supplier":"acme","colour":1}"#, (422, "body-malformed")),
        (REGISTER, &deep, (422, "body-too-deep")),
        (REGISTER, &large, (413, "body-too-large")),
        ("/v1/commands/retail/till/no-day/close", "{}", (422, "till-id-malformed")),
    ] {
        let answer = client.post(path, body).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{path}: {answer:?}");
    }
    for (name, value, expected) in [
        ("Millstream-Actor", "anna", (400, "actor-not-taken")),
        ("Millstream-Expected-Version", "1", (400, "header-unknown")),
        ("Millstream-Corelation-Id", "1", (400, "header-unknown")),
        ("If-Match", "7", (400, "precondition-malformed")),
        ("If-Match", "\"v01\"", (400, "precondition-malformed")),
        ("If-Match", "\"v+1\"", (400, "precondition-malformed")),
        ("Content-Encoding", "gzip", (415, "content-encoding-unknown")),
        ("Content-Encoding", "identity, br", (415, "content-encoding-unknown")),
        ("Idempotency-Key", "", (400, "header-malformed")),
        ("Origin", "https://evil.example", (403, "browser-refused")),
        ("Sec-Fetch-Site", "cross-site", (403, "browser-refused")),
        ("Host", "evil.example", (403, "browser-refused")),
    ] {
        let answer = client.with(name, value).post(REGISTER, TEA).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{name}: {answer:?}");
        let taken = (name == "Content-Encoding").then_some("identity");
        assert_eq!(answer.header("accept-encoding"), taken, "{answer:?}");
    }
    let form = client.with("Content-Type", "application/x-www-form-urlencoded");
    assert_eq!(form.request("POST", REGISTER, TEA).await.problem(), (415, "media-type-unknown".to_owned()));
    let other_method = client.request("DELETE", REGISTER, "").await;
    assert_eq!(other_method.problem(), (405, "method-not-allowed".to_owned()));
    assert_eq!(other_method.header("allow"), Some("POST"), "{other_method:?}");
    let unknown = client.get("/v1/commands/local:0?position=1").await;
    assert_eq!(unknown.problem(), (503, "outcomes-unavailable".to_owned()), "no projector runs");
    for position in ["no", "0", "-1"] {
        let answer = client.get(&format!("/v1/commands/x?position={position}")).await;
        assert_eq!(answer.problem(), (400, "query-malformed".to_owned()), "{position}");
    }
    let misspelt = client.with("Millstream-Positon", "1").get("/v1/commands/local:0").await;
    assert_eq!(misspelt.problem(), (400, "header-unknown".to_owned()), "nothing of ours is ignored anywhere");
    let half = "POST /v1/commands/retail/product/tea/register HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 50\r\nConnection: close\r\n\r\n{\"na";
    assert_eq!(client.raw(half.as_bytes()).await.unwrap().problem(), (408, "body-too-slow".to_owned()));
    let stored = server.broker().await.state("COMMANDS").await.unwrap().last_sequence;
    assert_eq!(stored, 0, "nothing of that is stored");
    assert_eq!(client.with("Content-Encoding", "Identity").post(REGISTER, TEA).await.status, 202);
    process.stop().await;
}

#[tokio::test]
async fn what_has_no_meaning_in_a_question_is_refused() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let (row, rows) = ("/v1/retail/product/tea", "/v1/retail/product");
    let (report, reports) = ("/v1/reports/store-daily/2026-01-02/7", "/v1/reports/store-daily");
    for path in [row, rows, report, reports, "/v1/commands/local:0", "/v1/openapi.json", "/v1/docs"] {
        for (name, value) in [("Idempotency-Key", "k"), ("If-Match", "\"v1\""), ("Millstream-Colour", "red")]
        {
            let answer = client.with(name, value).get(path).await;
            assert_eq!(answer.problem(), (400, "header-unknown".to_owned()), "{path} {name}");
        }
        let answer = client.get(&format!("{path}?colour=red")).await;
        assert_eq!(answer.problem(), (400, "query-malformed".to_owned()), "{path}");
    }
    for path in [row, rows, reports, "/v1/queries/retail/top-sellers", "/v1/live", "/v1/deadletters"] {
        // They would be the text U+FFFD.
        for bytes in ["prefix=%ff", "watch=retail/product/%C3", "%ff=1"] {
            let answer = client.get(&format!("{path}?{bytes}")).await;
            assert_eq!(answer.problem(), (400, "query-malformed".to_owned()), "{path}?{bytes}");
            assert!(answer.body.contains("are not UTF-8"), "{answer:?}");
        }
    }
    let page = client.get("/dead-letters?code=%ff").await;
    assert!(page.status == 400 && page.body.contains("are not UTF-8"), "{page:?}");
    // A number is written in one way.
    for asked in [
        format!("{rows}?limit=01"),
        format!("{rows}?limit=%2B1"),
        format!("{reports}?limit=01"),
        format!("{report}?revision=01"),
        format!("{report}?revision=%2B1"),
        format!("{report}?differences=01"),
        "/v1/commands/local:0?position=01".to_owned(),
        "/v1/commands/local:0?position=%2B1".to_owned(),
    ] {
        assert_eq!(client.get(&asked).await.problem(), (400, "query-malformed".to_owned()), "{asked}");
    }
    for position in ["EVENTS:01JD:01", "EVENTS:01JD:+1", "COMMANDS:01JD:01"] {
        let answer = client.with("Millstream-Position", position).get(row).await;
        assert_eq!(answer.problem(), (400, "position-malformed".to_owned()), "{position}");
    }
    // Two could be believed by two programs, one by each.
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: evil.example\r\n"] {
        let request = format!("GET /v1/openapi.json HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let answer = client.raw(request.as_bytes()).await.unwrap();
        assert_eq!(answer.problem(), (400, "header-malformed".to_owned()), "{hosts:?}");
    }
    process.stop().await;
}

/// A command whose outcome is waited for; without a handler there is none. It is the first of its server.
async fn waits_for_its_outcome(client: &HttpClient, server: &TestServer) -> JoinHandle<HttpAnswer> {
    let waiting = client.with("Prefer", "wait=30");
    let request = tokio::spawn(async move { waiting.post(REGISTER, TEA).await });
    let broker = server.broker().await;
    until("the command is stored", async || {
        (broker.state("COMMANDS").await.unwrap().last_sequence == 1).then_some(())
    })
    .await;
    request
}

#[tokio::test]
async fn who_sends_too_much_or_nothing_takes_nothing_from_the_others() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.rate=3").set("gateway.header_timeout=300ms");
    process.start_ready().await;
    let mut refused = None;
    for _ in 0..50 {
        let answer = client.post(REGISTER, TEA).await;
        if answer.status != 202 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("more than three a second are not taken");
    assert_eq!(refused.problem(), (429, "rate-exceeded".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("1"), "{refused:?}");

    // A client that never says what it wants, and one that says nothing more after its first request.
    for beginning in ["", "POST / HTTP/1.1\r\nHost:", "GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut silent = TcpStream::connect(client.address()).await.unwrap();
        silent.write_all(beginning.as_bytes()).await.unwrap();
        let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
        assert!(matches!(closed, Ok(Ok(_) | Err(_))), "{beginning:?} holds its connection for ever");
    }
    process.stop().await;
}

#[tokio::test]
async fn more_connections_than_there_are_places_are_closed_and_the_places_come_back() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    // None is closed because it says nothing.
    let mut process = process.set("gateway.header_timeout=1h").set("gateway.connections_max=8");
    process.start_ready().await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(TcpStream::connect(client.address()).await.unwrap());
    }
    let mut next = TcpStream::connect(client.address()).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, next.read(&mut [0; 16])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "there is no place for it: {closed:?}");
    for connection in &mut held {
        connection.write_all(b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        let answered = tokio::time::timeout(PATIENCE, connection.read_exact(&mut status)).await;
        assert!(matches!(answered, Ok(Ok(_))) && &status == b"HTTP/1.1 404", "{answered:?} {status:?}");
    }
    drop(held.pop());
    let request = b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    until("there is a place again", async || client.raw(request).await.ok()).await;
    process.stop().await;
}

#[tokio::test]
async fn more_requests_than_there_are_places_are_told_to_come_again() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.requests_max=1");
    process.start_ready().await;
    let request = waits_for_its_outcome(&client, &server).await;
    let busy = client.post(REGISTER, TEA).await;
    assert_eq!(busy.problem(), (503, "busy".to_owned()));
    assert_eq!(busy.header("retry-after"), Some("1"), "{busy:?}");
    let stored = server.broker().await.state("COMMANDS").await.unwrap().last_sequence;
    assert_eq!(stored, 1, "it is not stored");
    // Its client goes away.
    request.abort();
    until("there is a place again", async || (client.get("/v1/nothing").await.status == 404).then_some(()))
        .await;
    process.stop().await;
}

#[tokio::test]
async fn what_the_server_will_never_store_is_told_as_final() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let mut stream = jetstream.get_stream("COMMANDS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_message_size = 64;
    jetstream.update_stream(config).await.unwrap();
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let refused = client.post(REGISTER, TEA).await;
    assert_eq!(refused.problem(), (500, "store-refused".to_owned()));
    assert_eq!(refused.header("retry-after"), None, "to send it again changes nothing: {refused:?}");
    process.stop().await;
}

/// It was said only when the wait was over, as something of which nothing is known.
#[tokio::test]
async fn while_commands_is_full_each_sender_is_told_at_once_and_may_send_the_same_again() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let jetstream = async_nats::jetstream::new(server.client().await);
    let mut config = jetstream.get_stream("COMMANDS").await.unwrap().cached_info().config.clone();
    let before = config.max_bytes;
    config.max_bytes = 4096;
    jetstream.update_stream(&config).await.unwrap();
    let (process, client) = gateway(&server.url(), folder.path());
    // Longer than anybody here waits.
    let mut process = process.set("gateway.store_wait=60s");
    process.start_ready().await;
    let keyed = |number: usize| client.with("Idempotency-Key", &number.to_string());
    let (mut taken, mut told) = (0, None);
    while told.is_none() {
        let answer = timeout(AT_ONCE, keyed(taken).post(REGISTER, TEA)).await.expect("it answers at once");
        match answer.status {
            202 => taken += 1,
            _ => told = Some(answer),
        }
        assert!(taken < 4096, "it is never full");
    }
    let told = told.unwrap();
    assert_eq!(told.problem(), (503, "commands-full".to_owned()));
    assert_eq!(told.header("retry-after"), Some("1"), "{told:?}");
    let (said, id) = (told.json()["detail"].clone(), told.json()["command_id"].clone());
    for words in ["COMMANDS is full", "maximum bytes exceeded", "nothing of this request is stored"] {
        assert!(said.as_str().unwrap().contains(words), "{said}");
    }
    let line = r#"{"context":"retail","aggregate":"product","id":"tea","command":"register","body":{"name":"Tea","supplier":"acme"}}"#;
    let lines = client.with("Content-Type", "application/jsonl").with("Prefer", "wait=30");
    let lines =
        timeout(AT_ONCE, lines.request("POST", "/v1/commands", &format!("{line}\n{line}"))).await.unwrap();
    assert_eq!(lines.body.matches(r#""code":"commands-full""#).count(), 2, "{lines:?}");
    let broker = server.broker().await;
    assert_eq!(
        broker.state("COMMANDS").await.unwrap().last_sequence,
        taken as u64,
        "nothing is stored of them"
    );
    config.max_bytes = before;
    jetstream.update_stream(&config).await.unwrap();
    let again = keyed(taken).post(REGISTER, TEA).await;
    assert_eq!((again.status, &again.json()["command_id"]), (202, &id), "{again:?}");
    process.stop().await;
}

#[tokio::test]
async fn whoever_waits_when_it_ends_is_told_that_the_command_is_stored() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let request = waits_for_its_outcome(&client, &server).await;
    process.stop().await;
    let answer = request.await.unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(answer.header("location").unwrap().ends_with("?position=1"), "{answer:?}");
}

#[tokio::test]
async fn nobody_is_let_in_from_outside_without_keys() {
    let folder = fresh_folder();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let (process, _) = gateway("nats://127.0.0.1:1", folder.path());
        let mut process = process.set(&format!("gateway.listen={listen}"));
        process.start();
        assert_eq!(process.exit_code().await, 78, "{}", process.log());
        assert!(process.log().contains("gateway.keys_file is not set"), "{}", process.log());
    }
}

#[tokio::test]
async fn a_longest_wait_that_no_client_could_ask_for_is_refused() {
    let folder = fresh_folder();
    let (process, _) = gateway("nats://127.0.0.1:1", folder.path());
    let mut process = process.set("gateway.wait_max=500ms");
    process.start();
    assert_eq!(process.exit_code().await, 78, "{}", process.log());
    assert!(process.log().contains("must be at least 1s, or 0"), "{}", process.log());
}
