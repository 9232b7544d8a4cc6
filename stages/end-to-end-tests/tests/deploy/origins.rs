//! What somebody can try who may send any command: to give those that only processes may give, and to use the ids of a
//! process's commands first. On a server with the production configuration and its stages.

use async_nats::{Client, HeaderMap, jetstream};
use end_to_end_tests::waiting::until;
use millstream_contract::{
    header,
    stream_names::{COMMANDS, EVENTS},
    subject::Origin,
};
use millstream_jetstream::broker::Broker as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    forgeries::start_stages, production_server::ProductionServer, stages_with_least_privilege::millstream,
};

const PRODUCT: &str = r#"{"name":"Tea","supplier":"acme"}"#;
const SALE: &str = r#"{"sale":"S-1","currency":"USD","lines":[{"sku":"tea","quantity":1,"unit_price":100}]}"#;
const ORDER: &str = r#"{"customer":"anna","location":"web","currency":"USD","lines":[{"sku":"none","quantity":1,"unit_price":100}]}"#;

/// Sends a command and returns its outcome.
async fn submit(client: &Client, address: &str, headers: &[(&'static str, &str)], body: &str) -> Value {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    let answer = client.request_with_headers(format!("submit.{address}"), map, body.to_owned().into()).await;
    serde_json::from_slice(&answer.unwrap().payload).unwrap()
}

/// The value of a row, once there is one.
async fn value(client: &Client, view: &str, key: &str) -> Option<Value> {
    let body = json!({ "key": key }).to_string();
    let answer = client.request(format!("query.{view}.get"), body.into()).await.ok()?;
    serde_json::from_slice::<Value>(&answer.payload).ok()?.get("value").cloned()
}

/// Uses the ids that the next commands of *stock-keeping* will have, in both headers, on commands that change nothing.
async fn squat(client: &Client, server: &ProductionServer) {
    let next = server.broker("operator").await.state(EVENTS).await.unwrap().last_sequence + 1;
    let context = jetstream::new(client.clone());
    for (sequence, version) in (next..next + 3).flat_map(|next| [(next, 1), (next, 2)]) {
        for name in [header::COMMAND_ID, header::NATS_MESSAGE_ID] {
            let mut headers = HeaderMap::new();
            headers.insert(name, format!("stock-keeping:{sequence}.{version}.0"));
            let subject = "cmd.retail.product.tea.register";
            let stored = context.publish_with_headers(subject, headers, PRODUCT.into()).await.unwrap();
            stored.await.unwrap();
        }
    }
}

#[tokio::test]
async fn nobody_gives_what_only_processes_give() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let _stages = start_stages(&server, &folder).await;
    let client = server.client("publisher").await;

    // An order without stock is neither confirmed nor expired by hand.
    let placed = submit(&client, "orders.order.O1.place", &[], ORDER).await;
    assert_eq!(placed["outcome"], "accepted", "{placed}");
    for command in ["confirm-reservation", "expire-payment"] {
        let outcome = submit(&client, &format!("orders.order.O1.{command}"), &[], "{}").await;
        assert_eq!((&outcome["outcome"], &outcome["code"]), (&json!("rejected"), &json!("internal-command")));
        let message = outcome["message"].as_str().unwrap();
        assert!(message.contains(command) && message.contains("process"), "{message}");
    }
    let cancelled =
        async || value(&client, "orders.order", "O1").await.filter(|row| row["state"] == "cancelled");
    let order = until("the order without stock is cancelled", cancelled).await;
    assert_eq!(order["cancelled_by"], "reservation-refused", "{order}");

    // The subject of processes is closed: what is sent there is not stored, what follows on the same connection is.
    client.publish("effect.orders.order.O1.confirm-reservation", "{}".into()).await.unwrap();
    let last = submit(&client, "retail.product.gin.register", &[], PRODUCT).await;
    let operator = server.broker("operator").await;
    for position in 1..=last["command_position"].as_u64().unwrap() {
        let message = operator.get(COMMANDS, position).await.unwrap().unwrap();
        let by_process =
            message.headers.get(header::ACTOR).is_some_and(|actor| actor.starts_with("process:"));
        let origin = if by_process { Origin::Effect } else { Origin::Sender };
        assert_eq!(Origin::of_stored_subject(&message.subject), origin, "{message:?}");
    }

    // The operator gives one in a process's place.
    let arguments = ["send", "orders", "order", "O1", "expire-payment", "--effect"];
    let told = millstream("operator", &server, folder.path(), &arguments).await;
    assert!(told.stdout.contains("accepted"), "{} {}", told.stdout, told.stderr);
    let verified = millstream("operator", &server, folder.path(), &["verify", "outcomes"]).await;
    let _verified = verified.expect_success("verify outcomes");
}

#[tokio::test]
async fn nobody_uses_the_ids_of_processes_first() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let _stages = start_stages(&server, &folder).await;
    let client = server.client("publisher").await;
    for (address, body) in
        [("retail.product.tea.register", PRODUCT), ("retail.stock.2506:tea.receive", r#"{"quantity":5}"#)]
    {
        let outcome = submit(&client, address, &[], body).await;
        assert_eq!(outcome["outcome"], "accepted", "{outcome}");
    }
    squat(&client, &server).await;
    let sold = submit(&client, "retail.till.2506_2012-01-31.record-sale", &[], SALE).await;
    assert_eq!(sold["outcome"], "accepted", "{sold}");
    until("the unit that was sold has left the stock", async || {
        value(&client, "retail.stock", "2506:tea").await.filter(|row| row["on_hand"] == 4)
    })
    .await;
    let id = [(header::COMMAND_ID, "stock-keeping:1.1.0")];
    let outcome = submit(&client, "retail.product.tea.register", &id, PRODUCT).await;
    assert_eq!(outcome["code"], "command-id-reserved", "{outcome}");
    let verified = millstream("operator", &server, folder.path(), &["verify", "outcomes"]).await;
    let _verified = verified.expect_success("verify outcomes");
}
