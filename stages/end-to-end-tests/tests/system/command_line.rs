//! What a person asks `millstream` about a day, and in which form it answers.

use end_to_end_tests::{
    program::Ended,
    system::{System, fresh_folder},
};
use millstream_contract::{position::StreamPosition, stream_names::EVENTS};
use millstream_jetstream::broker::Broker as _;
use serde_json::{Value, json};

const TILL: [&str; 3] = ["retail", "till", "7_2026-01-31"];

async fn send(system: &System, address: [&str; 3], command: &str, body: &Value) -> Ended {
    let body = body.to_string();
    let arguments = [&["send"], &address[..], &[command, &body, "--actor", "ann", "--json"]].concat();
    system.millstream(&arguments).await
}

async fn accepted(system: &System, address: [&str; 3], command: &str, body: Value) -> Value {
    let sent = send(system, address, command, &body).await.expect_success("millstream send");
    let outcome: Value = serde_json::from_str(&sent.stdout).unwrap();
    assert_eq!(outcome["outcome"], "accepted", "{outcome}");
    outcome
}

fn sale(id: &str, sku: &str, quantity: i64, unit_price: i64) -> Value {
    json!({
        "sale": id, "currency": "USD",
        "lines": [{"sku": sku, "quantity": quantity, "unit_price": unit_price}],
    })
}

/// The lines of a report as CSV, without the header.
async fn csv(system: &System, name: &str, more: &[&str]) -> Vec<String> {
    let arguments = [&["report", name, "--date", "2026-01-31", "--format", "csv"], more].concat();
    let printed = system.millstream(&arguments).await.expect_success("millstream report").stdout;
    printed.lines().skip(1).map(str::to_owned).collect()
}

#[tokio::test]
async fn report_has_revisions_formats_and_keys() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    accepted(&system, TILL, "record-sale", sale("A", "1", 2, 1050)).await;
    let back = json!({"return": "R", "sale": "A", "currency": "USD", "lines": [{"sku": "1", "quantity": 1, "unit_price": 1050}]});
    accepted(&system, TILL, "record-return", back).await;
    accepted(&system, TILL, "close", json!({})).await;
    let sealed = "7,2026-01-31,1,sealed,1,1,2,1,21.00,10.50,10.50,USD";
    assert_eq!(csv(&system, "store-daily", &[]).await, [sealed]);

    // A sale after the close restates the day; what was sealed stays as it was.
    accepted(&system, TILL, "record-sale", sale("B", "2", 3, 5)).await;
    let open = "7,2026-01-31,2,open,2,1,5,1,21.15,10.50,10.65,USD";
    assert_eq!(csv(&system, "store-daily", &["--key", "7"]).await, [open]);
    assert_eq!(csv(&system, "store-daily", &["--revision", "1"]).await, [sealed]);
    accepted(&system, TILL, "close", json!({})).await;
    assert_eq!(csv(&system, "store-daily", &[]).await, [open.replace("open", "sealed")]);

    let report = async |more: &[&str]| {
        system.millstream(&[&["report", "store-daily", "--date", "2026-01-31"], more].concat()).await
    };
    let json: Value = serde_json::from_str(&report(&["--format", "json"]).await.stdout).unwrap();
    let figures = ["gross_amount", "refund_amount", "net_amount"].map(|name| json[0][name].clone());
    assert_eq!(figures, [2115, 1050, 1065].map(Value::from), "{json}");
    let table = report(&[]).await.stdout;
    assert!(table.contains("gross amount") && table.contains("21.15"), "{table}");
    let nobody = report(&["--key", "8", "--format", "json"]).await;
    assert_eq!((nobody.code(), &*nobody.stdout), (Some(13), "[]\n"));
    let unknown = system.millstream(&["report", "hourly", "--date", "2026-01-31"]).await;
    assert_eq!(unknown.code(), Some(64), "{unknown:?}");
    assert!(unknown.stderr.contains("store-daily, supplier-daily"), "{unknown:?}");
    system.stop().await;
}

#[tokio::test]
async fn sku_that_nobody_registered_counts_as_unassigned_until_somebody_does() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    accepted(&system, TILL, "record-sale", sale("A", "1", 2, 1050)).await;
    accepted(&system, ["retail", "business-day", "2026-01-31"], "close", json!({})).await;
    let unassigned = "unassigned,,2026-01-31,1,sealed,0,0,0.00,2,0,21.00,0.00,21.00,USD";
    assert_eq!(csv(&system, "supplier-daily", &[]).await, [unassigned]);

    let product = json!({"name": "Tea", "supplier": "leaf", "supplier_name": "Leaf & Co"});
    accepted(&system, ["retail", "product", "1"], "register", product).await;
    let moved = [
        "leaf,Leaf & Co,2026-01-31,1,open,0,0,0.00,2,0,21.00,0.00,21.00,USD",
        "unassigned,,2026-01-31,2,open,0,0,0.00,0,0,0.00,0.00,0.00,USD",
    ];
    assert_eq!(csv(&system, "supplier-daily", &[]).await, moved);
    assert_eq!(
        csv(&system, "supplier-daily", &["--key", "unassigned", "--revision", "1"]).await,
        [unassigned]
    );
    system.stop().await;
}

#[tokio::test]
async fn sale_that_is_sent_again_changes_nothing_and_another_one_under_its_id_is_refused() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let first = accepted(&system, TILL, "record-sale", sale("A", "1", 2, 1050)).await;
    assert_eq!((&first["events"], &first["version"]), (&json!(1), &json!(1)));
    // Another command id each time: what makes it the same is the sale.
    let again = accepted(&system, TILL, "record-sale", sale("A", "1", 2, 1050)).await;
    assert_eq!((&again["events"], &again["version"]), (&json!(0), &json!(1)));
    let other = send(&system, TILL, "record-sale", &sale("A", "1", 3, 1050)).await;
    assert_eq!(other.code(), Some(10), "{other:?}");
    let outcome: Value = serde_json::from_str(&other.stdout).unwrap();
    assert_eq!((&outcome["outcome"], &outcome["code"]), (&json!("rejected"), &json!("sale-differs")));
    // Under the id of another command, nothing is done, whatever became of that one.
    let id = first["command_id"].as_str().unwrap();
    let lost = system.millstream(&["send", "retail", "product", "1", "register", "{}", "--id", id]).await;
    assert_eq!(lost.code(), Some(10), "{lost:?}");
    assert!(lost.stdout.contains("not done: its id was used by another command, at position 1"), "{lost:?}");

    let history = system.millstream(&["history", "retail", "till", TILL[2], "--json"]).await.json_lines();
    let [event] = &history[..] else { panic!("there is one event: {history:?}") };
    assert_eq!(
        (&event["sequence"], &event["version"], &event["type"], &event["actor"], &event["command_id"]),
        (&json!(1), &json!(1), &json!("sale-recorded"), &json!("ann"), &first["command_id"])
    );
    assert_eq!(event["data"]["lines"], sale("A", "1", 2, 1050)["lines"], "{event}");
    assert!(event["recorded_at"].is_string(), "{event}");
    system.stop().await;
}

#[tokio::test]
async fn rows_come_in_key_order_by_prefix_and_up_to_a_limit() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    for sku in ["b2", "a1", "b1", "c1"] {
        let body = json!({"name": sku.to_uppercase(), "supplier": "leaf"});
        accepted(&system, ["retail", "product", sku], "register", body).await;
    }
    let keys = async |more: &[&str]| -> Vec<String> {
        let arguments = [&["query", "retail", "product", "--json"], more].concat();
        let ended = system.millstream(&arguments).await.expect_success("millstream query");
        ended.json_lines().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&["--all"]).await, ["a1", "b1", "b2", "c1"]);
    assert_eq!(keys(&["--prefix", "b"]).await, ["b1", "b2"]);
    assert_eq!(keys(&["--limit", "3"]).await, ["a1", "b1", "b2"]);
    assert_eq!(keys(&["c1"]).await, ["c1"]);
    let nothing = system.millstream(&["query", "retail", "product", "d1", "--json"]).await;
    assert_eq!((nothing.code(), &*nothing.stdout), (Some(13), ""), "{nothing:?}");

    // What follows OUTCOMES waits for those; of rejections, nobody could ask at all.
    for (view, count) in [("command", 4), ("process-rejection", 0)] {
        let arguments = ["query", "retail", view, "--all", "--json"];
        let ended = system.millstream(&arguments).await.expect_success("millstream query");
        assert_eq!(ended.json_lines().len(), count, "{view}: {ended:?}");
    }

    // A position that nobody has reached is waited for, and then said.
    let broker = system.broker().await;
    let generation = broker.state(EVENTS).await.unwrap().generation;
    let future = StreamPosition::new(EVENTS, generation, 5).to_string();
    let arguments = ["query", "retail", "product", "--json", "--position", &future, "--wait", "10ms"];
    let behind = system.millstream(&arguments).await;
    assert_eq!((behind.code(), &*behind.stdout), (Some(69), ""), "{behind:?}");
    assert_eq!(keys(&["--as-it-is", "--prefix", "a"]).await, ["a1"]);
    system.stop().await;
}
