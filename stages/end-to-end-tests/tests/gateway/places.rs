//! What is in progress at a time: nobody takes the places of the others, and whoever goes away takes none.

use std::fs;

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    stage_process::StageProcess,
    system::{System, fresh_folder},
    waiting::{PATIENCE, until},
};
use futures::{StreamExt as _, future::join_all};
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    gateway_with_keys,
    keys::{YEARS_AHEAD, key},
};

const REGISTER: &str = "/v1/commands/retail/product/tea/register";
const TEA: &str = r#"{"name":"Tea","supplier":"acme"}"#;
const ROW: &str = "/v1/retail/product/tea";

/// A gateway with keys, and two clients that may do anything.
fn with_two_keys(url: &str, folder: &std::path::Path) -> (StageProcess, [HttpClient; 2]) {
    let (process, client, file) = gateway_with_keys(url, folder);
    let entries_and_clients = [(1, "one"), (2, "another")].map(|(seed, name)| {
        let (entry, client) = key(&client, seed, name, YEARS_AHEAD, &["*.*.*.*"]);
        (format!("{entry}queries = [\"*.*.*\"]\n\n"), client)
    });
    let [(first, one), (second, another)] = entries_and_clients;
    fs::write(file, [first, second].concat()).unwrap();
    (process, [one, another])
}

/// A request whose answer is not waited for.
fn begun(client: &HttpClient) -> JoinHandle<HttpAnswer> {
    let client = client.clone();
    tokio::spawn(async move { client.get(ROW).await })
}

fn assert_share_exceeded(answer: &HttpAnswer) {
    assert_eq!(answer.problem(), (429, "share-exceeded".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
}

/// A gateway is one client of the projector, which lets it have 128 waiting queries. One key took them all.
#[tokio::test]
async fn whoever_waits_for_what_never_comes_keeps_nobody_else_from_waiting() {
    let (folder, own) = (fresh_folder(), fresh_folder());
    let system = System::start(folder.path(), &[]).await;
    let (process, [one, another]) = with_two_keys(&system.url(), own.path());
    let mut process = process.set("gateway.wait_max=1h");
    process.start_ready().await;
    let first = another.with("Prefer", "wait=30").post(REGISTER, TEA).await;
    let position = first.header("millstream-position").unwrap();
    let never = &format!("{}:1000000", position.rsplit_once(':').unwrap().0);
    let behind = one.with("Millstream-Position", never).with("Prefer", "wait=3600");
    let waiting: Vec<_> = (0..200).map(|_| begun(&behind)).collect();
    let refused = || waiting.iter().filter(|request| request.is_finished()).count();
    until("as many wait as a view lets one client have", async || (refused() >= 200 - 128).then_some(()))
        .await;
    let another = another.with("Millstream-Position", never).with("Prefer", "wait=1");
    assert_eq!(another.get(ROW).await.problem(), (504, "position-not-reached".to_owned()), "it has waited");
    until("a key has a quarter of the places", async || (refused() == 200 - 32).then_some(())).await;
    waiting.iter().for_each(JoinHandle::abort);
    let ended = join_all(waiting).await;
    ended.iter().flatten().for_each(assert_share_exceeded);
    process.stop().await;
    let _said = system.stop().await;
}

/// The view kept a place of the gateway for as long as the client had wanted to wait, also when the client had gone.
#[tokio::test]
async fn a_place_comes_back_when_the_view_that_waited_for_a_client_that_has_gone_says_so() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let view = async_nats::connect(server.url()).await.unwrap();
    let mut questions = view.subscribe("query.retail.product.get").await.unwrap();
    view.flush().await.unwrap();
    let (process, [one, another]) = with_two_keys(&server.url(), folder.path());
    let mut process = process.set("gateway.waiting_max=4").set("gateway.key_share=50");
    process.start_ready().await;
    let behind =
        |client: &HttpClient| client.with("Millstream-Position", "EVENTS:01JD:9").with("Prefer", "wait=30");
    let waiting = [begun(&behind(&one)), begun(&behind(&one))];
    let mut asked = Vec::new();
    for _ in &waiting {
        asked.push(questions.next().await.unwrap());
    }
    for question in &asked {
        let wait = question.headers.as_ref().unwrap().get("Millstream-Wait-Ms").unwrap().as_str();
        assert!(wait.parse::<u64>().unwrap() <= 1000, "the view is told to wait for {wait} ms in one go");
    }
    assert_share_exceeded(&behind(&one).get(ROW).await);
    // Who does not wait needs no such place, and another key has places of its own.
    for client in [one.clone(), behind(&another)] {
        let answered = begun(&client);
        let question = questions.next().await.unwrap();
        view.publish(question.reply.unwrap(), r#"{"key":"tea","value":{}}"#.into()).await.unwrap();
        assert_eq!(answered.await.unwrap().status, 200);
    }
    // Both go away. Their places are those that the view keeps.
    for request in &waiting {
        request.abort();
    }
    until("the gateway has noticed", async || {
        let connections = process.metric("millstream_gateway_connections").await;
        (connections == Some(0.0)).then_some(())
    })
    .await;
    assert_share_exceeded(&behind(&one).get(ROW).await);
    for question in asked {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Service-Error", "retail.product has not reached EVENTS:01JD:9 within 1000 ms");
        headers.insert("Nats-Service-Error-Code", "504");
        view.publish_with_headers(question.reply.unwrap(), headers, "".into()).await.unwrap();
    }
    let again = until("there is a place again", async || {
        let answer = behind(&one).get(ROW).await;
        (answer.status != 429).then_some(answer)
    });
    let answered = async {
        let question = questions.next().await.unwrap();
        view.publish(question.reply.unwrap(), r#"{"key":"tea","value":{}}"#.into()).await.unwrap();
    };
    let (again, ()) = tokio::join!(again, answered);
    assert_eq!(again.status, 200, "nobody has asked again for those who have gone");
    process.stop().await;
}

#[tokio::test]
async fn who_waits_for_outcomes_leaves_requests_to_the_others() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, [one, another]) = with_two_keys(&server.url(), folder.path());
    let mut process = process.set("gateway.requests_max=4").set("gateway.key_share=50");
    process.start_ready().await;
    // No handler runs: there is no outcome.
    let waiting = one.with("Prefer", "wait=30");
    let requests = [(), ()].map(|()| {
        let waiting = waiting.clone();
        tokio::spawn(async move { waiting.post(REGISTER, TEA).await })
    });
    let broker = server.broker().await;
    let stored = async || broker.state("COMMANDS").await.unwrap().last_sequence;
    until("both are stored", async || (stored().await == 2).then_some(())).await;
    assert_share_exceeded(&one.post(REGISTER, TEA).await);
    assert_eq!(stored().await, 2, "it is not stored");
    assert_eq!(another.post(REGISTER, TEA).await.status, 202);
    requests.iter().for_each(JoinHandle::abort);
    until("there is a place again", async || (one.post(REGISTER, TEA).await.status == 202).then_some(()))
        .await;
    process.stop().await;
}

/// A request with several commands whose body is slow holds one of 64 places; one key held them all.
#[tokio::test]
async fn bodies_of_several_commands_that_never_end_keep_no_other_key_out() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, [one, another]) = with_two_keys(&server.url(), folder.path());
    let mut process = process.set("gateway.body_timeout=1h");
    process.start_ready().await;
    let line = format!(
        r#"{{"context":"retail","aggregate":"product","id":"tea","command":"register","body":{TEA}}}"#
    );
    let several = async |client: &HttpClient| {
        client.with("Content-Type", "application/jsonl").request("POST", "/v1/commands", &line).await
    };
    let head = |client: &HttpClient| {
        let key = client.header("Authorization").unwrap();
        format!(
            "POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\nContent-Type: application/jsonl\r\n\
             Content-Length: 50\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut connection = TcpStream::connect(one.address()).await.unwrap();
        connection.write_all(head(&one).as_bytes()).await.unwrap();
        // Its body is asked for: it is being read.
        let mut text = [0; 25];
        let read = tokio::time::timeout(PATIENCE, connection.read_exact(&mut text)).await;
        assert!(matches!(read, Ok(Ok(_))) && text.starts_with(b"HTTP/1.1 100"), "{read:?} {text:?}");
        held.push(connection);
    }
    assert_share_exceeded(&several(&one).await);
    assert_eq!(several(&another).await.status, 200);
    drop(held.pop());
    until("there is a place again", async || (several(&one).await.status == 200).then_some(())).await;
    process.stop().await;
}
