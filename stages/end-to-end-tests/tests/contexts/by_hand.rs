//! Orders, stock and comments with nothing but the `nats` CLI: what docs/contexts.md shows, typed as a person types it.

use end_to_end_tests::{
    nats_cli::NatsCli,
    system::{System, fresh_folder},
    waiting::until,
};
use serde_json::{Value, json};

/// Publishes a command as someone, or as nobody.
async fn send(nats: &NatsCli, actor: Option<&str>, subject: &str, body: &str) {
    let header = actor.map(|actor| format!("Millstream-Actor:{actor}"));
    let mut arguments = vec!["pub", "-J"];
    arguments.extend(header.iter().flat_map(|header| ["-H", header]));
    arguments.extend([subject, body]);
    nats.output(&arguments).await;
}

/// A row's value; none while there is no such row.
async fn row(nats: &NatsCli, view: &str, key: &str) -> Option<Value> {
    let subject = format!("query.{view}.get");
    let answer = nats.run(&["req", "--raw", &subject, &json!({ "key": key }).to_string()]).await;
    serde_json::from_str::<Value>(&answer.stdout).ok().map(|answer| answer["value"].clone())
}

/// Waits until the fields of a row are as wanted.
async fn expect_row(nats: &NatsCli, view: &str, key: &str, wanted: Value) -> Value {
    until(format!("{view} {key} says {wanted}"), async || {
        let row = row(nats, view, key).await?;
        wanted.as_object().unwrap().iter().all(|(field, value)| row[field] == *value).then_some(row)
    })
    .await
}

async fn rows(nats: &NatsCli, view: &str, prefix: &str) -> Vec<Value> {
    let subject = format!("query.{view}.list");
    let answer = nats.output(&["req", "--raw", &subject, &json!({ "prefix": prefix }).to_string()]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["rows"].as_array().unwrap().iter().map(|row| row["value"].clone()).collect()
}

const ORDER: &str = r#"{"customer":"anna","location":"web","currency":"USD","lines":[{"sku":"tea","quantity":2,"unit_price":450}]}"#;

#[tokio::test]
async fn an_order_is_placed_paid_and_shipped() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };

    send(&nats, None, "cmd.retail.stock.web:tea.receive", r#"{"quantity":5,"reference":"box 1"}"#).await;
    send(&nats, Some("anna"), "cmd.orders.order.O1.place", ORDER).await;
    expect_row(&nats, "orders.order", "O1", json!({ "state": "reserved", "amount": 900 })).await;
    let stock = json!({ "on_hand": 5, "reserved": 2, "available": 3 });
    expect_row(&nats, "retail.stock", "web:tea", stock).await;

    send(&nats, None, "cmd.orders.order.O1.pay", r#"{"payment":"P1","amount":900,"currency":"USD"}"#).await;
    expect_row(&nats, "orders.orders-by-state", "paid/O1", json!({ "order": "O1" })).await;
    send(&nats, Some("warehouse"), "cmd.orders.order.O1.ship", r#"{"shipment":"S1","carrier":"post"}"#).await;
    expect_row(&nats, "retail.stock", "web:tea", json!({ "on_hand": 3, "reserved": 0, "available": 3 }))
        .await;
    send(&nats, None, "cmd.orders.order.O1.deliver", "{}").await;
    let order =
        expect_row(&nats, "orders.order", "O1", json!({ "state": "delivered", "carrier": "post" })).await;
    let history: Vec<(&str, &str)> = order["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["event"].as_str().unwrap(), entry["actor"].as_str().unwrap_or("nobody")))
        .collect();
    assert_eq!(
        history,
        [
            ("order-placed", "anna"),
            ("order-reserved", "process:fulfilment"),
            ("order-paid", "nobody"),
            ("order-shipped", "warehouse"),
            ("order-delivered", "nobody"),
        ]
    );
    assert!(row(&nats, "orders.orders-by-state", "paid/O1").await.is_none(), "it has moved on");
    assert!(rows(&nats, "retail.reservation", "").await.is_empty(), "no reservation is left over");

    // The steps that fail: too few in stock; called off after it was paid; a step that is not allowed.
    let many = ORDER.replace("\"quantity\":2", "\"quantity\":4");
    send(&nats, None, "cmd.orders.order.O2.place", &many).await;
    let refused = json!({ "state": "cancelled", "cancelled_by": "reservation-refused" });
    expect_row(&nats, "orders.order", "O2", refused).await;
    send(&nats, None, "cmd.orders.order.O3.place", ORDER).await;
    expect_row(&nats, "orders.order", "O3", json!({ "state": "reserved" })).await;
    send(&nats, None, "cmd.orders.order.O3.pay", r#"{"payment":"P3","amount":900,"currency":"USD"}"#).await;
    send(&nats, None, "cmd.orders.order.O3.cancel", r#"{"reason":"found it cheaper"}"#).await;
    expect_row(&nats, "orders.order", "O3", json!({ "state": "refunded", "refunded_amount": 900 })).await;
    expect_row(&nats, "retail.stock", "web:tea", json!({ "on_hand": 3, "reserved": 0, "available": 3 }))
        .await;
    nats.output(&["pub", "-J", "-H", "Nats-Msg-Id:late", "cmd.orders.order.O3.ship", r#"{"shipment":"S3"}"#])
        .await;
    expect_row(&nats, "orders.command", "late", json!({ "code": "ship-while-refunded" })).await;
    let by_customer = rows(&nats, "orders.orders-by-customer", "anna/").await;
    let states: Vec<&str> = by_customer.iter().map(|order| order["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["delivered", "cancelled", "refunded"]);
    system.stop().await;
}

#[tokio::test]
async fn comments_are_their_authors_and_vanish_when_deleted() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let Some(nats) = system.nats().await else { return };
    let create = |text: &str| json!({ "picture": "P1", "text": text }).to_string();
    send(&nats, Some("anna"), "cmd.comments.comment.C1.create", &create("Lovely!")).await;
    send(&nats, Some("berta"), "cmd.comments.comment.C2.create", &create("First")).await;
    send(&nats, Some("berta"), "cmd.comments.comment.C1.update", r#"{"text":"Awful!"}"#).await;
    send(&nats, Some("anna"), "cmd.comments.comment.C1.update", r#"{"text":"Very lovely!"}"#).await;
    send(&nats, Some("berta"), "cmd.comments.comment.C2.delete", "{}").await;
    expect_row(&nats, "comments.comment", "C1", json!({ "author": "anna", "text": "Very lovely!" })).await;
    until("C2 has vanished", async || {
        rows(&nats, "comments.comments-by-author", "berta/").await.is_empty().then_some(())
    })
    .await;
    let on_picture = rows(&nats, "comments.comments-by-picture", "P1/").await;
    assert_eq!(on_picture.len(), 1, "{on_picture:?}");
    let history =
        system.millstream(&["history", "comments", "comment", "C2"]).await.expect_success("history");
    assert!(
        history.stdout.contains("comment-deleted") && history.stdout.contains("First"),
        "{}",
        history.stdout
    );
    system.stop().await;
}
