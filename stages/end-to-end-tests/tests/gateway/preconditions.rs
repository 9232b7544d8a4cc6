//! Commands that a deployment takes only from those who say which version they have seen.

use end_to_end_tests::system::fresh_folder;
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use serde_json::{Value, json};

use crate::gateway;

const PRODUCT: &str = "/v1/commands/retail/product/tea";
const PRICE: &str = r#"{"unit_price":450,"currency":"USD"}"#;

#[tokio::test]
async fn a_command_without_the_version_that_it_needs_is_refused() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    let required = "gateway.preconditions_required=retail.product.*.reprice,retail.till.7_*.*";
    let mut process = process.set(required);
    process.start_ready().await;
    let (reprice, register) = (format!("{PRODUCT}/reprice"), format!("{PRODUCT}/register"));
    let close = |till: &str| format!("/v1/commands/retail/till/{till}_2026-01-02/close");
    for (path, body) in [(&reprice, PRICE), (&close("7"), "{}")] {
        let refused = client.post(path, body).await;
        assert_eq!(refused.problem(), (428, "precondition-required".to_owned()), "{path}");
    }
    let unknown = client.post("/v1/commands/retail/till/7_2026-01-02/explode", "{}").await;
    assert_eq!(unknown.problem(), (404, "command-unknown".to_owned()), "which no version would help");
    let broker = server.broker().await;
    assert_eq!(broker.state("COMMANDS").await.unwrap().last_sequence, 0, "nothing of that is stored");

    let line = |version: Value| {
        let body: Value = serde_json::from_str(PRICE).unwrap();
        json!({
            "context": "retail", "aggregate": "product", "id": "tea", "command": "reprice", "body": body,
            "expected_version": version,
        })
        .to_string()
    };
    let lines = [line(Value::Null), line(json!(0)), line(json!(7))].join("\n");
    let lines =
        client.with("Content-Type", "application/jsonl").request("POST", "/v1/commands", &lines).await;
    let statuses: Vec<Value> = lines
        .body
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].clone())
        .collect();
    assert_eq!(statuses, [428, 202, 202], "{lines:?}");
    for (client, path, body) in [
        (client.with("If-Match", "\"v1\""), &reprice, PRICE),
        (client.with("If-None-Match", "*"), &close("7"), "{}"),
        (client.clone(), &close("8"), "{}"),
        (client.clone(), &register, r#"{"name":"Tea","supplier":"acme"}"#),
    ] {
        assert_eq!(client.post(path, body).await.status, 202, "{path}");
    }
    process.stop().await;
}

#[tokio::test]
async fn a_pattern_that_is_none_or_fits_no_command_is_refused_at_the_start() {
    for (pattern, said) in [
        ("retail.product.reprice", "is no pattern of commands"),
        ("retail.product.tea*.repriec", "did you mean retail.product.tea*.reprice?"),
        ("retail.prodct.*.reprice", "did you mean retail.product.*.reprice?"),
        ("retail.*.*.nothing", "fits no command that a client may send; `GET /v1/docs`"),
        ("*.*.*.*,retail.tills.*.*", "has retail.tills.*.*, which fits no command"),
    ] {
        let folder = fresh_folder();
        let (process, _) = gateway("nats://127.0.0.1:1", folder.path());
        let mut process = process.set(&format!("gateway.preconditions_required={pattern}"));
        process.start();
        assert_eq!(process.exit_code().await, 78, "{pattern}: {}", process.log());
        assert!(process.log().contains(said), "{pattern}: {}", process.log());
    }
}
