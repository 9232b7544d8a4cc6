//! Commands from the request to the outcome.

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    system::{System, fresh_folder},
    waiting::until,
};
use serde_json::json;

const REGISTER: &str = r#"{"name":"Tea","supplier":"acme"}"#;
const TILL: &str = "/v1/commands/retail/till/7_2026-01-02";

fn sale(number: u32) -> String {
    let lines = json!([{ "sku": "tea", "quantity": number, "unit_price": 300 }]);
    json!({ "sale": format!("S-{number}"), "currency": "USD", "lines": lines }).to_string()
}

/// The gateways of a system, as `up` tells them.
pub(crate) fn clients(system: &System) -> Vec<HttpClient> {
    let said = system.said();
    let lines = said.lines().filter_map(|line| line.split_once("commands over HTTP: http://"));
    lines.map(|(_, rest)| HttpClient::new(rest.trim_end_matches("/v1/commands"))).collect()
}

async fn outcome(client: &HttpClient, location: &str) -> serde_json::Value {
    until("the command has its outcome", async || {
        let answer = client.get(location).await;
        // On a loaded machine a view may take its time.
        assert!([200, 503].contains(&answer.status), "a command that is stored is known: {answer:?}");
        let outcome = answer.json();
        outcome["outcome"].as_str().is_some_and(|outcome| outcome != "pending").then_some(outcome)
    })
    .await
}

#[tokio::test]
async fn a_command_is_stored_decided_and_found_again() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &["--replicas", "gateway=2"]).await;
    system.expect_said("commands over HTTP").await;
    let all =
        until("both gateways are told", async || Some(clients(&system)).filter(|all| all.len() == 2)).await;
    let (client, other) = (&all[0], &all[1]);

    let stored = client.post("/v1/commands/retail/product/tea/register", REGISTER).await;
    assert_eq!(stored.status, 202, "{stored:?}");
    let id = stored.json()["command_id"].as_str().unwrap().to_owned();
    let location = stored.header("location").unwrap();
    assert!(location.starts_with(&format!("/v1/commands/{id}?position=")), "{location}");
    assert!(stored.header("millstream-position").unwrap().starts_with("COMMANDS:"), "{stored:?}");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(stored.header(name), Some(value), "{stored:?}");
    }
    // Any gateway knows what became of it.
    let found = outcome(other, location).await;
    assert_eq!((&found["command_id"], &found["outcome"]), (&json!(id), &json!("accepted")), "{found}");

    the_outcome_is_waited_for(client).await;
    versions_are_preconditions(client).await;
    a_key_makes_a_request_repeatable(client, other).await;
    a_key_is_its_command_s_when_that_is_stored_no_more(&system, client, other).await;
    let history = system.millstream(&["history", "retail", "till", "7_2026-01-02", "--json"]).await;
    assert!(history.stdout.contains(r#""actor":"local""#), "{}", history.stdout);
    let _said = system.stop().await;
}

async fn the_outcome_is_waited_for(client: &HttpClient) {
    let waiting = client.with("Prefer", "wait=20").with("Millstream-Correlation-Id", "day-2");
    let accepted = waiting.post(&format!("{TILL}/record-sale"), &sale(1)).await;
    assert_eq!(accepted.status, 200, "{accepted:?}");
    assert_eq!(accepted.header("preference-applied"), Some("wait=20"));
    assert_eq!(accepted.header("etag"), Some("\"v1\""), "{accepted:?}");
    let body = accepted.json();
    assert_eq!(accepted.header("millstream-position"), body["query_position"].as_str(), "{accepted:?}");
    assert_eq!((&body["outcome"], &body["version"]), (&json!("accepted"), &json!(1)), "{body}");
    let empty = json!({ "sale": "S-9", "currency": "USD", "lines": [] }).to_string();
    let rejected = waiting.post(&format!("{TILL}/record-sale"), &empty).await;
    let (status, code) = rejected.problem();
    assert_eq!((status, code.as_str()), (409, "lines-empty"), "{rejected:?}");
    assert_eq!(rejected.json()["outcome"], "rejected", "{rejected:?}");
}

async fn versions_are_preconditions(client: &HttpClient) {
    let waiting = client.with("Prefer", "wait=20");
    let path = format!("{TILL}/record-sale");
    let second = waiting.with("If-Match", "\"v1\"").post(&path, &sale(2)).await;
    assert_eq!((second.status, second.header("etag")), (200, Some("\"v2\"")), "{second:?}");
    for stale in [waiting.with("If-Match", "\"v1\""), waiting.with("If-None-Match", "*")] {
        let conflict = stale.post(&path, &sale(3)).await;
        assert_eq!(conflict.problem(), (412, "version-conflict".to_owned()));
        assert_eq!(conflict.header("etag"), Some("\"v2\""), "the version that there is: {conflict:?}");
        assert_eq!(conflict.json()["version"], 2, "{conflict:?}");
    }
    let fresh = waiting.with("If-None-Match", "*");
    let first = fresh.post("/v1/commands/retail/till/8_2026-01-02/record-sale", &sale(1)).await;
    assert_eq!(first.status, 200, "{first:?}");
}

async fn a_key_makes_a_request_repeatable(client: &HttpClient, other: &HttpClient) {
    let path = format!("{TILL}/record-sale");
    let keyed =
        |client: &HttpClient| client.with("Prefer", "wait=20").with("Idempotency-Key", "till 7, sale 4");
    let first = keyed(client).post(&path, &sale(4)).await;
    assert_eq!((first.status, first.header("etag")), (200, Some("\"v3\"")), "{first:?}");
    assert!(first.header("millstream-position").unwrap().starts_with("EVENTS:"), "{first:?}");
    for client in [client, other] {
        let again = keyed(client).post(&path, &sale(4)).await;
        same(&again, &first);
        let differs = keyed(client).post(&path, &sale(5)).await;
        assert_eq!(differs.problem(), (422, "idempotency-key-reused".to_owned()));
        let elsewhere = keyed(client).post(&format!("{TILL}/close"), "{}").await;
        assert_eq!(elsewhere.problem(), (422, "idempotency-key-reused".to_owned()));
    }
    let next = client.with("Prefer", "wait=20").post(&path, &sale(6)).await;
    assert_eq!(next.header("etag"), Some("\"v4\""), "nothing took effect in between: {next:?}");
    // Without waiting, the second is told where the first is.
    let later = client.with("Idempotency-Key", "k").post(&path, &sale(7)).await;
    let location = later.header("location").unwrap().to_owned();
    assert_eq!(outcome(client, &location).await["outcome"], "accepted");
    let again = other.with("Idempotency-Key", "k").post(&path, &sale(7)).await;
    same(&again, &later);
    together_they_are_told_the_same(client, other).await;
}

/// Another command under a key was answered with the outcome of the first once that was no longer stored.
async fn a_key_is_its_command_s_when_that_is_stored_no_more(
    system: &System,
    client: &HttpClient,
    other: &HttpClient,
) {
    let path = format!("{TILL}/record-sale");
    let keyed =
        |client: &HttpClient| client.with("Prefer", "wait=20").with("Idempotency-Key", "till 7, sale 40");
    let first = keyed(client).post(&path, &sale(40)).await;
    assert_eq!(first.status, 200, "{first:?}");
    let position = first.json()["command_position"].as_u64().unwrap();
    let jetstream = async_nats::jetstream::new(system.broker().await.client().clone());
    let commands = jetstream.get_stream("COMMANDS").await.unwrap();
    assert!(commands.delete_message(position).await.unwrap());
    let differs = keyed(other).post(&path, &sale(41)).await;
    assert_eq!(differs.problem(), (422, "idempotency-key-reused".to_owned()));
    let again = keyed(client).post(&path, &sale(40)).await;
    assert_eq!((again.status, again.header("etag")), (200, first.header("etag")), "{again:?}");
}

/// A repeat has the first outcome, with the position by which its effect is read, and no second effect.
fn same(again: &HttpAnswer, first: &HttpAnswer) {
    assert_eq!((again.status, again.json()), (first.status, first.json()), "{again:?}");
    for name in ["etag", "location", "millstream-position"] {
        assert_eq!(again.header(name), first.header(name), "{again:?}");
    }
}

async fn together_they_are_told_the_same(client: &HttpClient, other: &HttpClient) {
    let requests = (0..8).map(|number| {
        let client = if number % 2 == 0 { client } else { other };
        let keyed = client.with("Prefer", "wait=20").with("Idempotency-Key", "till 7, sale 8");
        tokio::spawn(async move { keyed.post(&format!("{TILL}/record-sale"), &sale(8)).await })
    });
    let mut answers = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        answers.push(request.await.unwrap());
    }
    assert!(answers[0].header("millstream-position").unwrap().starts_with("EVENTS:"), "{answers:?}");
    for answer in &answers[1..] {
        same(answer, &answers[0]);
    }
}
