//! From which address a request comes, behind a proxy that is trusted and one that is not.

use std::fs;

use end_to_end_tests::{
    http_client::HttpClient,
    program,
    system::{fresh_folder, millstream},
    waiting::until,
};
use millstream_contract::audit::records;
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use serde_json::Value;

use crate::{
    gateway, gateway_with_keys,
    keys::{YEARS_AHEAD, key},
};

fn from(client: &HttpClient, address: &str) -> HttpClient {
    client.with("X-Forwarded-For", &format!("203.0.113.9, {address}"))
}

/// Refused requests of one client used up the rate of all who came by the same proxy.
#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_a_rate_of_its_own() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let mut process =
        process.set("gateway.trusted_proxies=127.0.0.0/8,10.0.0.1").set("gateway.rate_address=1");
    let (entry, till) = key(&client, 1, "till", YEARS_AHEAD, &["retail.till.*.close"]);
    fs::write(&file, entry).unwrap();
    process.start_ready().await;
    let stranger = client.with("Authorization", "Bearer millstream_x");
    until("a client sends too much", async || {
        (from(&stranger, "192.0.2.1").get("/v1/docs").await.status == 429).then_some(())
    })
    .await;
    for number in 2..40 {
        // None of them has sent anything before.
        let answer = from(&till, &format!("192.0.2.{number}"));
        let answer = answer.post("/v1/commands/retail/till/1_2026-01-02/close", "{}").await;
        assert_eq!(answer.status, 202, "{number}: {answer:?}");
    }
    process.stop().await;
    let broker = server.broker().await;
    let (mut addresses, mut limited) = (Vec::new(), false);
    for sequence in 1..=broker.state("AUDIT").await.unwrap().last_sequence {
        let message = broker.get("AUDIT", sequence).await.unwrap().unwrap();
        for (record, _) in records(&message).unwrap() {
            if record.code.as_deref() == Some("rate-exceeded") {
                assert_eq!(record.address.as_deref(), Some("192.0.2.1"), "{record:?}");
                limited = true;
            }
            addresses.extend(record.address);
        }
    }
    assert!(limited, "what was too much is recorded");
    assert!(
        addresses.contains(&"192.0.2.39".to_owned()) && !addresses.contains(&"127.0.0.1".to_owned()),
        "{addresses:?}"
    );
}

#[tokio::test]
async fn nobody_else_says_from_where_it_comes() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (process, client) = gateway(&server.url(), folder.path());
    let mut process = process.set("gateway.trusted_proxies=10.0.0.0/8").set("gateway.rate_address=1");
    process.start_ready().await;
    let mut number = 0;
    until("addresses that are made up count as one", async || {
        number += 1;
        (from(&client, &format!("192.0.2.{number}")).get("/v1/openapi.json").await.status == 429)
            .then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test]
async fn the_subjects_are_described_by_the_gateway_and_by_the_command_alike() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let told = client.get("/v1/asyncapi.json").await;
    process.stop().await;
    let mut command = millstream();
    command.args(["schema", "asyncapi"]);
    let printed = program::run(command, b"").await.expect_success("schema asyncapi").stdout;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(told.json(), printed);
    let channels = &printed["channels"];
    assert_eq!(channels["cmd.retail.till.record-sale"]["address"], "cmd.retail.till.{id}.record-sale");
    assert_eq!(channels["query.retail.store-daily.get"]["address"], "query.retail.store-daily.get");
    let sale = &printed["components"]["schemas"]["retail.till.record-sale"]["required"];
    assert_eq!(*sale, serde_json::json!(["currency", "lines", "sale"]));
}
