//! Several commands in one request: one answer line each, in order, and no line pays for another.

use std::fs;

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use serde_json::{Value, json};

use crate::{
    commands::clients,
    gateway, gateway_with_keys,
    keys::{YEARS_AHEAD, key},
};

const TILL: &str = "7_2026-01-02";

fn line(aggregate: &str, id: &str, command: &str, body: &Value) -> Value {
    json!({ "context": "retail", "aggregate": aggregate, "id": id, "command": command, "body": body })
}

fn sale(number: usize) -> Value {
    let lines = [json!({ "sku": "tea", "quantity": 1, "unit_price": 300 })];
    line(
        "till",
        TILL,
        "record-sale",
        &json!({ "sale": format!("S-{number}"), "currency": "USD", "lines": lines }),
    )
}

fn with(mut line: Value, name: &str, value: impl Into<Value>) -> Value {
    line[name] = value.into();
    line
}

async fn post(client: &HttpClient, lines: &[String]) -> HttpAnswer {
    client.with("Content-Type", "application/jsonl").request("POST", "/v1/commands", &lines.join("\n")).await
}

fn texts(lines: &[Value]) -> Vec<String> {
    lines.iter().map(Value::to_string).collect()
}

/// The lines of an answer.
fn answers(answer: &HttpAnswer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/jsonl"), "{answer:?}");
    answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Number, status and code of each line of an answer.
fn told(answer: &HttpAnswer) -> Vec<(u64, u64, String)> {
    let number = |line: &Value, name: &str| line[name].as_u64().unwrap();
    let code = |line: &Value| line["code"].as_str().unwrap_or_default().to_owned();
    answers(answer).iter().map(|line| (number(line, "line"), number(line, "status"), code(line))).collect()
}

#[tokio::test]
async fn each_line_is_answered_as_a_request_of_its_own() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let waiting = client.with("Prefer", "wait=30");
    let lines = [
        sale(1).to_string(),
        String::new(),
        "{\"context\":".to_owned(),
        with(sale(2), "expected_version", 1).to_string(),
        with(sale(3), "expected_version", 1).to_string(),
        line("till", TILL, "explode", &json!({})).to_string(),
        line("till", TILL, "record-sale", &json!({ "sale": "S-9", "currency": "USD", "lines": [] }))
            .to_string(),
        with(sale(4), "idempotency_key", "till 7, sale 4").to_string(),
        with(sale(5), "idempotency_key", "till 7, sale 4").to_string(),
        with(sale(6), "actor", "anna").to_string(),
        format!("{}\r", line("till", TILL, "close", &json!({}))),
        String::new(),
    ];
    let answer = post(&waiting, &lines).await;
    assert_eq!(answer.header("preference-applied"), Some("wait=30"), "{answer:?}");
    let ok = String::new;
    let expected = [
        (1, 200, ok()),
        (3, 400, "line-malformed".to_owned()),
        (4, 200, ok()),
        (5, 412, "version-conflict".to_owned()),
        (6, 404, "command-unknown".to_owned()),
        (7, 409, "lines-empty".to_owned()),
        (8, 200, ok()),
        (9, 422, "idempotency-key-reused".to_owned()),
        (10, 400, "line-malformed".to_owned()),
        (11, 200, ok()),
    ];
    assert_eq!(told(&answer), expected, "{answer:?}");
    let all = answers(&answer);
    let versions: Vec<u64> = all.iter().filter_map(|line| line["version"].as_u64()).collect();
    assert_eq!(versions, [1, 2, 2, 3, 4], "in the order of the lines, the conflict's among them: {answer:?}");
    assert!(all[0]["query_position"].as_str().unwrap().starts_with("EVENTS:"), "{answer:?}");
    assert!(all[1]["detail"].as_str().unwrap().contains("column 11"), "{answer:?}");

    // What is sent again under its key takes effect once, singly too.
    let again = post(&waiting, &lines[7..8]).await;
    let (first, again) = (&all[6], with(answers(&again)[0].clone(), "line", 8));
    assert!(first["query_position"].as_str().unwrap().starts_with("EVENTS:"), "{first}");
    assert_eq!(first, &again, "but for the number of the line");
    let body = sale(4)["body"].to_string();
    let singly = waiting.with("Idempotency-Key", "till 7, sale 4");
    let singly = singly.post(&format!("/v1/commands/retail/till/{TILL}/record-sale"), &body).await;
    assert_eq!(singly.json()["command_id"], first["command_id"], "{singly:?}");
    assert_eq!(singly.header("millstream-position"), first["query_position"].as_str(), "{singly:?}");

    the_order_of_lines_is_that_of_commands(&client, &system).await;
    let _said = system.stop().await;
}

async fn the_order_of_lines_is_that_of_commands(client: &HttpClient, system: &System) {
    let sales: Vec<Value> = (100..400).map(sale).collect();
    let answer = post(client, &texts(&sales)).await;
    let stored = answers(&answer);
    let positions: Vec<u64> = stored.iter().map(|line| line["command_position"].as_u64().unwrap()).collect();
    assert_eq!(positions.len(), 300);
    assert!(positions.is_sorted() && stored.iter().all(|line| line["status"] == 202), "{answer:?}");
    let last = stored.last().unwrap();
    let location = last["location"].as_str().unwrap();
    until("the last one is decided", async || {
        let answer = client.get(location).await;
        (answer.status == 200 && answer.json()["outcome"] == "accepted").then_some(())
    })
    .await;
    // What follows the last one's position sees it.
    let behind = client.with("Millstream-Position", last["query_position"].as_str().unwrap());
    let row = until("its row is there", async || {
        let answer = behind.get(&format!("/v1/retail/sale/{TILL}%2FS-399")).await;
        (![503, 504].contains(&answer.status)).then_some(answer)
    })
    .await;
    assert_eq!(row.status, 200, "{row:?}");
    let history = system.millstream(&["history", "retail", "till", TILL, "--json"]).await.stdout;
    let recorded: Vec<usize> =
        (100..400).map(|number| history.find(&format!("\"S-{number}\"")).unwrap()).collect();
    assert!(recorded.is_sorted() || recorded.iter().rev().is_sorted(), "in one order");
}

#[tokio::test]
async fn what_is_too_much_is_refused_as_a_whole_and_a_bad_line_alone() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process =
        process.set("gateway.body_max=1KiB").set("gateway.lines_bytes_max=8KiB").set("gateway.lines_max=20");
    process.start_ready().await;
    let broker = server.broker().await;
    let stored = async || broker.state("COMMANDS").await.unwrap().last_sequence;
    let sales = |count: usize| texts(&(0..count).map(sale).collect::<Vec<_>>());
    for (answer, expected) in [
        (post(&client, &sales(21)).await, (413, "too-many-commands")),
        (post(&client, &["x".repeat(9000)]).await, (413, "body-too-large")),
        (client.post("/v1/commands", &sales(1)[0]).await, (415, "media-type-unknown")),
        (post(&client.with("If-Match", "\"v1\""), &sales(1)).await, (400, "header-unknown")),
        (post(&client.with("Idempotency-Key", "k"), &sales(1)).await, (400, "header-unknown")),
        (post(&client.with("Millstream-Actor", "anna"), &sales(1)).await, (400, "actor-not-taken")),
        (post(&client.with("Content-Encoding", "gzip"), &sales(1)).await, (415, "content-encoding-unknown")),
        (client.get("/v1/commands").await, (405, "method-not-allowed")),
    ] {
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{answer:?}");
    }
    assert_eq!(stored().await, 0, "nothing of that is stored");

    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let mut bytes = Vec::new();
    for line in [
        sale(1).to_string().as_bytes(),
        b"{\"context\":\"\xff\"}",
        br#"["retail","till","7_2026-01-02","close",{}]"#,
        with(sale(2), "body", "x".repeat(2000)).to_string().as_bytes(),
        line("till", TILL, "close", &serde_json::from_str(&deep).unwrap()).to_string().as_bytes(),
        line("till", "a b", "close", &json!({})).to_string().as_bytes(),
        with(sale(3), "idempotency_key", "").to_string().as_bytes(),
        line("till", TILL, "close", &json!({})).to_string().as_bytes(),
    ] {
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    let head = format!(
        "POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/jsonl\r\n\
         Content-Length: {}\r\n\r\n",
        bytes.len()
    );
    let request = [head.as_bytes(), &bytes].concat();
    let answer = client.raw(&request).await.unwrap();
    let expected = [
        (1, 202, ""),
        (2, 400, "line-malformed"),
        (3, 400, "line-malformed"),
        (4, 413, "body-too-large"),
        (5, 422, "body-too-deep"),
        (6, 400, "address-malformed"),
        (7, 400, "line-malformed"),
        (8, 202, ""),
    ];
    assert_eq!(told(&answer), expected.map(|(line, status, code)| (line, status, code.to_owned())));
    assert_eq!(stored().await, 2);
    let nothing = post(&client, &[]).await;
    assert_eq!((nothing.status, nothing.body.as_str()), (200, ""), "{nothing:?}");
    process.stop().await;
}

#[tokio::test]
async fn the_rate_counts_commands_and_not_requests() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.rate=10");
    process.start_ready().await;
    let sales = |count: usize| texts(&(0..count).map(sale).collect::<Vec<_>>());
    assert_eq!(answers(&post(&client, &sales(10)).await).len(), 10, "as many as there may be in a second");
    let too_fast = until("the rate is used up", async || {
        let answer = post(&client, &sales(10)).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(too_fast.problem(), (429, "rate-exceeded".to_owned()));
    assert_eq!(too_fast.header("retry-after"), Some("1"), "{too_fast:?}");
    let never = until("the request itself is let in", async || {
        let answer = post(&client, &sales(12)).await;
        (answer.status != 429).then_some(answer)
    })
    .await;
    assert_eq!(never.problem(), (413, "too-many-commands".to_owned()));
    let stored = server.broker().await.state("COMMANDS").await.unwrap().last_sequence;
    assert_eq!(stored % 10, 0, "all of a request or nothing");
    process.stop().await;
}

#[tokio::test]
async fn each_line_is_granted_by_itself() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, till) = key(&client, 1, "till-7", YEARS_AHEAD, &["retail.till.7_*.record-sale"]);
    fs::write(&file, entry).unwrap();
    process.start_ready().await;
    let lines = [
        line("till", TILL, "close", &json!({})),
        sale(1),
        line("till", "8_2026-01-02", "record-sale", &sale(1)["body"]),
        line("millstream", "1", "set-aside", &json!({})),
    ];
    let answer = post(&till, &texts(&lines)).await;
    let refused = "command-not-granted".to_owned();
    let expected =
        [(1, 403, refused.clone()), (2, 202, String::new()), (3, 403, refused.clone()), (4, 403, refused)];
    assert_eq!(told(&answer), expected, "{answer:?}");
    assert!(answers(&answer)[1]["command_id"].as_str().unwrap().starts_with("till-7:"), "{answer:?}");
    assert_eq!(post(&client, &texts(&lines)).await.problem(), (401, "key-missing".to_owned()));
    assert_eq!(server.broker().await.state("COMMANDS").await.unwrap().last_sequence, 1);
    process.stop().await;
}
