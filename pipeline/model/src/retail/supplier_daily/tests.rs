//! What counts for whom, and what moves.

use millstream::{
    report::Ledger,
    testing::{
        memory_rows::MemoryRows,
        project::{History, assert_repeatable},
    },
};
use serde_json::json;

use super::*;
use crate::retail::{
    business_day::DayClosed,
    delivery::DeliveryLine,
    till::test_events::{closed, returned, sold},
};

const DATE: &str = "2012-01-31";
const TILL: &str = "2506_2012-01-31";

fn registered(supplier: &str, from: Option<&str>) -> ProductEvent {
    ProductEvent::Registered(ProductRegistered {
        name: "Gin".into(),
        supplier: supplier.into(),
        supplier_name: Some(format!("{supplier} Inc.")),
        effective_from: from.map(|date| date.parse().unwrap()),
    })
}

fn received(supplier: &str) -> DeliveryEvent {
    DeliveryEvent::Received(DeliveryReceived {
        supplier: supplier.into(),
        location: "2506".into(),
        currency: Currency::parse("USD").unwrap(),
        lines: vec![DeliveryLine { sku: "a".into(), quantity: 60, unit_cost: 475 }],
        business_date: DATE.parse().unwrap(),
    })
}

fn day_closed(closing: u32) -> BusinessDayEvent {
    BusinessDayEvent::Closed(DayClosed { closing })
}

fn report(history: &History) -> MemoryRows {
    assert_repeatable(&Ledger(SupplierDaily), history)
}

fn row(rows: &MemoryRows, supplier: &str) -> serde_json::Value {
    rows.json("supplier-daily", &format!("{DATE}/{supplier}:USD"))
}

#[test]
fn rows_have_the_reports_columns() {
    let mut history = History::new("retail");
    history
        .add("product", "a", [registered("luxco", None)])
        .add("product", "b", [registered("luxco", None)])
        .add("delivery", "D-1", [received("luxco")])
        .add("till", TILL, [sold("1", &[("a", 2, 500), ("b", 1, 99)])])
        .add("till", TILL, [returned("r", Some("1"), &[("a", 1, 500)]), closed(1)]);
    let rows = report(&history);
    let expected = json!({
        "supplier": "luxco", "supplier_name": "luxco Inc.", "business_date": DATE, "revision": 1, "status": "open",
        "deliveries": 1, "units_delivered": 60, "delivery_cost": 28500, "units_sold": 3, "units_returned": 1,
        "gross_amount": 1099, "refund_amount": 500, "net_amount": 599, "currency": "USD",
    });
    for column in COLUMNS {
        assert_eq!(row(&rows, "luxco")[column.name], expected[column.name], "{}", column.name);
    }
    assert_eq!(expected.as_object().unwrap().len(), COLUMNS.len());
    assert_eq!(row(&rows, "luxco")["inputs"], json!(3), "two skus of one supplier are one posting");
}

#[test]
fn unregistered_sku_counts_as_unassigned_and_moves_when_it_is_registered() {
    let mut history = History::new("retail");
    history.add("till", TILL, [sold("1", &[("a", 2, 500), ("b", 1, 99)])]);
    let rows = report(&history);
    assert_eq!(row(&rows, "unassigned")["net_amount"], json!(1099));
    assert_eq!(row(&rows, "unassigned")["supplier_name"], json!(null));

    history.add("product", "a", [registered("luxco", None)]);
    let rows = report(&history);
    assert_eq!(row(&rows, "unassigned")["net_amount"], json!(99));
    assert_eq!(row(&rows, "luxco")["net_amount"], json!(1000));

    history.add("product", "b", [registered("luxco", None)]);
    let rows = report(&history);
    assert_eq!(rows.keys("supplier-daily"), [format!("{DATE}/luxco:USD")]);
    assert_eq!(row(&rows, "luxco")["net_amount"], json!(1099));
}

#[test]
fn registration_restates_a_sealed_day_line_by_line() {
    let mut history = History::new("retail");
    history
        .add("till", TILL, [sold("1", &[("a", 2, 500), ("b", 1, 99)])])
        .add("business-day", DATE, [day_closed(1)])
        .add("product", "a", [registered("luxco", None)])
        .add("business-day", DATE, [day_closed(2)]);
    let rows = report(&history);
    let before = rows.json("supplier-daily.revisions", "2012-01-31/unassigned:USD#000001");
    assert_eq!((&before["gross_amount"], &before["status"]), (&json!(1099), &json!("sealed")));
    let after = row(&rows, "unassigned");
    assert_eq!((&after["gross_amount"], &after["revision"]), (&json!(99), &json!(2)));
    assert_eq!(after["status"], json!("sealed"));
    assert_eq!(
        after["differences"],
        json!([{
            "reference": "product a", "event_type": "product-registered", "broker_sequence": 3,
            "recorded_at": "2012-01-31T12:00:02Z",
            "figures": { "units_sold": -2, "gross_amount": -1000, "net_amount": -1000 },
        }])
    );
    assert_eq!(
        (&row(&rows, "luxco")["revision"], &row(&rows, "luxco")["units_sold"]),
        (&json!(1), &json!(2))
    );
}

#[test]
fn other_supplier_takes_over_from_its_date_on() {
    let mut history = History::new("retail");
    history
        .add("product", "a", [registered("luxco", None)])
        .add("till", TILL, [sold("1", &[("a", 2, 500)])])
        .add("till", "2506_2012-02-01", [sold("1", &[("a", 1, 500)])])
        .add("product", "a", [registered("other", Some("2012-02-01"))])
        .add("till", "7_2012-02-01", [sold("1", &[("a", 4, 500)])])
        .add("till", "7_2012-01-31", [sold("1", &[("a", 8, 500)])]);
    let rows = report(&history);
    assert_eq!(rows.keys("supplier-daily"), ["2012-01-31/luxco:USD", "2012-02-01/other:USD"]);
    assert_eq!(row(&rows, "luxco")["units_sold"], json!(10));
    assert_eq!(rows.json("supplier-daily", "2012-02-01/other:USD")["units_sold"], json!(5));
}

#[test]
fn rename_moves_nothing() {
    let mut history = History::new("retail");
    history
        .add("product", "a", [registered("luxco", None)])
        .add("till", TILL, [sold("1", &[("a", 2, 500)])])
        .add("business-day", DATE, [day_closed(1)])
        .add("product", "a", [registered("luxco", Some("2012-01-01"))]);
    assert_eq!(row(&report(&history), "luxco")["revision"], json!(1));
}

#[test]
fn supplier_gets_its_name_once_a_product_tells_it() {
    let mut history = History::new("retail");
    history.add("delivery", "D-1", [received("luxco")]);
    assert_eq!(row(&report(&history), "luxco")["supplier_name"], json!(null));
    history.add("product", "a", [registered("luxco", None)]);
    let rows = report(&history);
    assert_eq!(row(&rows, "luxco")["supplier_name"], json!("luxco Inc."));
    assert!(rows.keys(NAMELESS).is_empty());
}

#[test]
fn close_of_the_day_seals_every_supplier_of_that_date_only() {
    let mut history = History::new("retail");
    history
        .add("delivery", "D-1", [received("luxco")])
        .add("till", TILL, [sold("1", &[("a", 2, 500)])])
        .add("till", "2506_2012-02-01", [sold("1", &[("a", 1, 500)])])
        .add("business-day", DATE, [day_closed(1)]);
    let rows = report(&history);
    assert_eq!(row(&rows, "luxco")["status"], json!("sealed"));
    assert_eq!(row(&rows, "unassigned")["status"], json!("sealed"));
    assert_eq!(rows.json("supplier-daily", "2012-02-01/unassigned:USD")["status"], json!("open"));
}
