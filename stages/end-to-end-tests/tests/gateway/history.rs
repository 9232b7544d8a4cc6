//! Histories over HTTP: events from the newest on, states as of a moment, no more than the key grants.

use std::fs;

use end_to_end_tests::{
    http_client::HttpClient,
    system::{System, fresh_folder},
    waiting::until,
};
use serde_json::{Value, json};

use crate::{
    commands::clients,
    gateway_with_keys,
    keys::{YEARS_AHEAD, key},
    queries::answered,
};

const TEA: &str = "/v1/history/retail/product/tea";

/// Sends commands that take effect, and answers with the position of the last one's events.
async fn fill(client: &HttpClient) -> String {
    let wait = client.with("Prefer", "wait=20");
    let mut position = String::new();
    for (id, command, body) in [
        ("tea", "register", json!({ "name": "Tea", "supplier": "acme" })),
        ("gin", "register", json!({ "name": "Gin", "supplier": "acme" })),
        ("tea", "reprice", json!({ "unit_price": 300, "currency": "USD" })),
        ("tea", "reprice", json!({ "unit_price": 350, "currency": "USD" })),
    ] {
        let path = format!("/v1/commands/retail/product/{id}/{command}");
        let answer = wait.post(&path, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("millstream-position").unwrap().clone_into(&mut position);
    }
    position
}

fn versions(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["version"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn events_are_read_from_the_newest_on_and_states_as_of_a_moment() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let last = fill(&client).await;

    let whole = answered(&client, TEA).await;
    assert_eq!((whole.status, versions(&whole.json())), (200, vec![3, 2, 1]), "{whole:?}");
    assert_eq!(whole.header("millstream-position"), Some(&*last));
    let page = whole.json();
    let newest = &page["events"][0];
    assert_eq!((&newest["type"], &newest["data"]["unit_price"]), (&json!("product-repriced"), &json!(350)));
    assert_eq!((&newest["actor"], &page["before"]), (&json!("local"), &Value::Null));

    let (mut path, mut seen, mut second) = (format!("{TEA}?limit=1"), Vec::new(), 0);
    loop {
        let page = answered(&client, &path).await;
        seen.extend(versions(&page.json()));
        if seen.len() == 2 {
            second = page.json()["events"][0]["sequence"].as_u64().unwrap();
        }
        let Some(link) = page.header("link") else { break };
        path = link.split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned();
    }
    assert_eq!(seen, [3, 2, 1]);

    for (at, version, price) in [
        (second.to_string(), 2, json!(300)),
        (last.clone(), 3, json!(350)),
        ("2999-01-01".to_owned(), 3, json!(350)),
    ] {
        let state = answered(&client, &format!("{TEA}?at={at}")).await;
        let state = state.json();
        assert_eq!(
            (&state["version"], state.to_string().contains(&price.to_string())),
            (&json!(version), true),
            "{state}"
        );
    }
    let before = answered(&client, &format!("{TEA}?at=1999-01-01")).await.json();
    assert_eq!((&before["version"], &before["recorded_at"]), (&json!(0), &Value::Null), "{before}");

    what_is_not_there_is_told(&client, second).await;
    what_one_has_just_sent_is_in_it(&client).await;
    let _said = system.stop().await;
}

async fn what_is_not_there_is_told(client: &HttpClient, second: u64) {
    let gin = second - 1;
    for (path, status, code) in [
        // Another aggregate's commit is not to be had by its place.
        (format!("{TEA}?before={gin}"), 404, "history-unknown"),
        (format!("{TEA}?before=1000000"), 404, "history-unknown"),
        (format!("{TEA}?before=0"), 404, "history-unknown"),
        ("/v1/history/retail/product/none?at=2012-01-31".to_owned(), 404, "history-unknown"),
        (format!("{TEA}?at=01"), 400, "query-malformed"),
        ("/v1/history/retail/product/none".to_owned(), 404, "history-unknown"),
        ("/v1/history/retail/nothing/tea".to_owned(), 404, "aggregate-unknown"),
        ("/v1/history/retail/product/a%20b".to_owned(), 400, "address-malformed"),
        (format!("{TEA}?limit=0"), 400, "query-malformed"),
        (format!("{TEA}?limit=501"), 400, "query-malformed"),
        (format!("{TEA}?limit=1&at=2012-01-31"), 400, "query-malformed"),
        (format!("{TEA}?at=yesterday"), 400, "query-malformed"),
        (format!("{TEA}?at=COMMANDS:01JD0ZV6V8Q6Y0Q3M1R5J3X2A4:1"), 400, "position-malformed"),
        (format!("{TEA}?at=EVENTS:01JD0ZV6V8Q6Y0Q3M1R5J3X2A4:1"), 409, "position-of-another-generation"),
        (format!("{TEA}?reverse=true"), 400, "query-malformed"),
    ] {
        let answer = answered(client, &path).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{path}: {answer:?}");
    }
    // What has not happened yet is neither a moment nor waited for.
    let whole = answered(client, TEA).await;
    let generation = whole.header("millstream-position").unwrap().split(':').nth(1).unwrap();
    let future = format!("EVENTS:{generation}:1000000");
    let behind = client.with("Millstream-Position", &future);
    for (client, path) in [
        (client, format!("{TEA}?at=1000000")),
        (client, format!("{TEA}?at={future}")),
        (&behind, TEA.to_owned()),
    ] {
        let answer = client.get(&path).await;
        assert_eq!(answer.problem(), (504, "position-not-reached".to_owned()), "{path}: {answer:?}");
    }
}

async fn what_one_has_just_sent_is_in_it(client: &HttpClient) {
    let body = json!({ "unit_price": 400, "currency": "USD" }).to_string();
    let sent = client.post("/v1/commands/retail/product/tea/reprice", &body).await;
    let behind = client.with("Millstream-Position", sent.header("millstream-position").unwrap());
    let page = answered(&behind.with("Prefer", "wait=20"), TEA).await;
    assert_eq!(versions(&page.json()).first(), Some(&4), "{page:?}");
}

#[tokio::test]
async fn a_key_reads_the_histories_that_it_grants() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let open = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let _last = fill(&open).await;
    let own = fresh_folder();
    let (mut process, client, file) = gateway_with_keys(&system.url(), own.path());
    let (with, reader) = key(&client, 1, "reader", YEARS_AHEAD, &[]);
    let (without, sender) = key(&client, 2, "sender", YEARS_AHEAD, &["*.*.*.*"]);
    fs::write(&file, format!("{with}histories = [\"retail.product.t*\"]\n{without}queries = [\"*.*.*\"]\n"))
        .unwrap();
    process.start_ready().await;
    assert_eq!(answered(&reader, TEA).await.status, 200);
    for (client, path) in [
        (&reader, "/v1/history/retail/product/gin"),
        (&reader, "/v1/history/orders/order/t1"),
        (&sender, TEA),
    ] {
        let answer = answered(client, path).await;
        assert_eq!(answer.problem(), (403, "history-not-granted".to_owned()), "{path}: {answer:?}");
    }
    process.stop().await;
    let _said = system.stop().await;
}
