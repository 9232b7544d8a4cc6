//! With nothing but the `nats` CLI: what docs/first-steps.md and the README show, typed as a person types it.

use std::process::Stdio;

use end_to_end_tests::{
    binaries::binary,
    nats_cli::NatsCli,
    system::{System, fresh_folder},
    waiting::{PATIENCE, until},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::ChildStdout,
};

/// The rows of a query's answer, once there is one.
async fn answer(nats: &NatsCli, subject: &str, body: &str) -> Value {
    until(format!("an answer to {subject} {body}"), async || {
        let answer = nats.run(&["req", "--raw", subject, body]).await;
        serde_json::from_str(&answer.stdout).ok()
    })
    .await
}

/// The stock follows: its commits come when they come.
async fn expect_commits(commits: &mut Lines<BufReader<ChildStdout>>) {
    let mut unseen = vec![
        "product-registered",
        "delivery-received",
        "stock-received",
        "sale-recorded",
        "stock-issued",
        "till-closed",
    ];
    let seeing = async {
        while !unseen.is_empty() {
            let line = commits.next_line().await.unwrap().unwrap();
            unseen.retain(|event| !line.contains(&format!("\"{event}\"")));
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seeing).await;
    assert!(seen.is_ok(), "nats sub shows no {unseen:?}");
}

#[tokio::test]
async fn a_delivery_and_sales_are_typed_seen_and_reported() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };

    // See the commits as they come.
    let decode = format!("{} decode", binary("millstream").display());
    let mut watching = nats.command(&["sub", "--translate", &decode, "evt.>"]);
    let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut commits = BufReader::new(watching.stdout.take().unwrap()).lines();
    // It says so once the server has its subscription; without it the first commits would be missed.
    let mut talk = BufReader::new(watching.stderr.take().unwrap()).lines();
    while !talk.next_line().await.unwrap().unwrap().contains("Subscribing on evt.>") {}

    let product = r#"{"name":"Juarez Gold","supplier":"luxco","supplier_name":"Luxco"}"#;
    let published = nats.run(&["pub", "-J", "cmd.retail.product.75087.register", product]).await;
    assert!(published.stderr.contains("Stored in Stream: COMMANDS Sequence: 1"), "{published:?}");
    let delivery = r#"{"supplier":"luxco","location":"2506","currency":"USD","lines":[{"sku":"75087","quantity":120,"unit_cost":475}]}"#;
    nats.output(&["pub", "-J", "cmd.retail.delivery.D1.receive", delivery]).await;

    // One sale under an id, sent twice; one without.
    let sale = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"75087","quantity":60,"unit_price":713}]}"#;
    let till = "cmd.retail.till.2506_2012-01-31.record-sale";
    for _ in 0..2 {
        nats.output(&["pub", "-J", "-H", "Nats-Msg-Id:sale-1", till, sale]).await;
    }
    let other = r#"{"sale":"S2","currency":"USD","lines":[{"sku":"75087","quantity":2,"unit_price":713},{"sku":"1","quantity":1,"unit_price":99}]}"#;
    nats.output(&["pub", "-J", till, other]).await;
    nats.output(&["pub", "-J", "cmd.retail.till.2506_2012-01-31.close", "{}"]).await;

    expect_commits(&mut commits).await;
    watching.kill().await.unwrap();

    // The rows.
    let row = answer(&nats, "query.retail.sale.get", r#"{"key":"2506_2012-01-31/S1"}"#).await;
    assert_eq!(row["value"]["gross_amount"], 42_780, "{row}");
    let row = answer(&nats, "query.retail.delivery.get", r#"{"key":"D1"}"#).await;
    assert_eq!(row["value"]["delivery_cost"], 57_000, "{row}");
    let row = until("the outcome of sale-1", async || {
        let row = nats.run(&["req", "--raw", "query.retail.command.get", r#"{"key":"sale-1"}"#]).await;
        serde_json::from_str::<Value>(&row.stdout).ok()
    })
    .await;
    assert_eq!(row["value"]["outcome"], "accepted", "{row}");

    // The reports.
    let report = until("the sealed report of the store", async || {
        let row = answer(&nats, "query.retail.store-daily.get", r#"{"key":"2012-01-31/2506"}"#).await;
        (row["value"]["status"] == "sealed").then_some(row)
    })
    .await;
    let figures =
        ["sales", "units_sold", "gross_amount", "net_amount"].map(|name| report["value"][name].clone());
    assert_eq!(figures, [2, 63, 44_305, 44_305].map(Value::from), "{report}");
    let report = answer(&nats, "query.retail.supplier-daily.list", r#"{"prefix":"2012-01-31/"}"#).await;
    let suppliers: Vec<(&str, i64)> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (row["value"]["supplier"].as_str().unwrap(), row["value"]["gross_amount"].as_i64().unwrap())
        })
        .collect();
    assert_eq!(suppliers, [("luxco", 44_206), ("unassigned", 99)], "{report}");

    // Lag and services.
    let lag = nats.output(&["consumer", "report", "EVENTS"]).await;
    for reader in ["projector", "reporter"] {
        assert!(lag.contains(reader), "nats consumer report shows no {reader}: {lag}");
    }
    let services = nats.output(&["micro", "ls"]).await;
    for service in ["projector", "reporter"] {
        assert!(services.contains(service), "nats micro ls shows no {service}: {services}");
    }
    system.stop().await;
}
