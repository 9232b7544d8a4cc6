//! What stock is worth, day by day.

use millstream::{
    decider::AggregateRegistry,
    report::Ledger,
    testing::{
        in_memory_system::InMemorySystem,
        memory_rows::MemoryRows,
        project::{History, assert_repeatable},
    },
};
use serde_json::{Value, json};

use super::*;
use crate::retail::{
    stock::{StockIssued, StockReceived},
    stock_keeping::StockKeeping,
    till::Till,
};

fn system() -> InMemorySystem {
    let registry =
        AggregateRegistry::new().with::<Delivery>().with::<Till>().with::<Stock>().with::<BusinessDay>();
    InMemorySystem::new(registry, vec![Box::new(StockKeeping)])
}

fn deliver(system: &mut InMemorySystem, id: &str, date: &str, quantity: i64, unit_cost: i64, currency: &str) {
    let body = json!({
        "supplier": "acme", "location": "7", "currency": currency, "received_on": date,
        "lines": [{ "sku": "a", "quantity": quantity, "unit_cost": unit_cost }],
    });
    system.send(&format!("retail.delivery.{id}.receive"), &body.to_string()).unwrap();
}

fn sell(system: &mut InMemorySystem, id: &str, date: &str, quantity: i64) {
    let body = json!({
        "sale": id, "currency": "USD", "lines": [{ "sku": "a", "quantity": quantity, "unit_price": 999 }],
    });
    system.send(&format!("retail.till.7_{date}.record-sale"), &body.to_string()).unwrap();
}

fn rows(system: &InMemorySystem) -> MemoryRows {
    assert_repeatable(&Ledger(StockValuation), system.history())
}

/// Units, units without cost, value, revision and status at the end of a date.
fn end(system: &InMemorySystem, date: &str) -> Value {
    let row = rows(system).json("stock-valuation", &format!("{date}/7"));
    let fields = ["units_on_hand", "units_without_cost", "stock_value", "revision", "status"];
    fields.iter().map(|field| row[*field].clone()).collect()
}

#[test]
fn rows_have_the_reports_columns() {
    let mut system = system();
    deliver(&mut system, "1", "2012-01-30", 10, 100, "USD");
    let row = rows(&system).json("stock-valuation", "2012-01-30/7");
    let expected = json!({
        "location": "7", "business_date": "2012-01-30", "revision": 1, "status": "open", "units_on_hand": 10,
        "units_without_cost": 0, "stock_value": 1000, "currency": "USD",
    });
    for column in COLUMNS {
        assert_eq!(row[column.name], expected[column.name], "{}", column.name);
    }
    assert_eq!(expected.as_object().unwrap().len(), COLUMNS.len());
}

#[test]
fn units_leave_at_the_average_of_what_is_there() {
    let mut system = system();
    deliver(&mut system, "1", "2012-01-30", 10, 100, "USD");
    deliver(&mut system, "2", "2012-01-30", 10, 200, "USD");
    sell(&mut system, "S1", "2012-01-30", 4);
    assert_eq!(end(&system, "2012-01-30"), json!([16, 0, 2400, 1, "open"]));
    sell(&mut system, "S2", "2012-01-30", 20);
    assert_eq!(end(&system, "2012-01-30"), json!([-4, 0, -800, 1, "open"]), "at the last cost below zero");
    deliver(&mut system, "3", "2012-01-30", 5, 300, "USD");
    assert_eq!(end(&system, "2012-01-30"), json!([1, 0, 300, 1, "open"]));
}

#[test]
fn cost_of_a_delivered_line_is_for_what_comes_with_it() {
    let business_date: BusinessDate = "2012-01-30".parse().unwrap();
    let delivered = |unit_cost: i64| -> DeliveryReceived {
        serde_json::from_value(json!({
            "supplier": "acme", "location": "7", "currency": "USD", "business_date": business_date,
            "lines": [{ "sku": "a", "quantity": 10, "unit_cost": unit_cost }],
        }))
        .unwrap()
    };
    let received = |delivery: &str| {
        let reference = Some(delivery_reference(delivery, 1));
        StockEvent::Received(StockReceived { quantity: 10, reference, business_date })
    };
    let reference = Some(delivery_reference("D2", 1));
    let issued = StockIssued { quantity: 2, reference, reserved: 0, below_zero: false, business_date };
    let mut history = History::new("retail");
    history
        .add("delivery", "D1", [DeliveryEvent::Received(delivered(50))])
        .add("stock", "7:a", [received("D1")])
        .add("delivery", "D2", [DeliveryEvent::Received(delivered(100))])
        .add("stock", "7:a", [StockEvent::Issued(issued)])
        .add("stock", "7:a", [received("D2")]);
    let row = assert_repeatable(&Ledger(StockValuation), &history).json("stock-valuation", "2012-01-30/7");
    // Two left at the 50 that they had cost, whatever reference they left under.
    assert_eq!((&row["units_on_hand"], &row["stock_value"]), (&json!(18), &json!(8 * 50 + 10 * 100)));
}

#[test]
fn a_date_begins_with_what_the_one_before_ended_with() {
    let mut system = system();
    deliver(&mut system, "1", "2012-01-30", 10, 100, "USD");
    system.send("retail.business-day.2012-01-30.close", "{}").unwrap();
    system.send("retail.business-day.2012-01-31.close", "{}").unwrap();
    assert_eq!(end(&system, "2012-01-31"), json!([10, 0, 1000, 1, "sealed"]), "a day without movements");
    sell(&mut system, "S1", "2012-02-01", 3);
    assert_eq!(end(&system, "2012-02-01"), json!([7, 0, 700, 1, "open"]));
}

#[test]
fn emptied_place_has_a_row_of_zeroes_for_its_day() {
    let mut system = system();
    deliver(&mut system, "1", "2012-01-30", 10, 100, "USD");
    sell(&mut system, "S1", "2012-01-31", 10);
    assert_eq!(end(&system, "2012-01-31"), json!([0, 0, 0, 1, "open"]));
    system.send("retail.business-day.2012-01-31.close", "{}").unwrap();
    assert_eq!(end(&system, "2012-01-31"), json!([0, 0, 0, 1, "sealed"]));
    system.send("retail.business-day.2012-02-01.close", "{}").unwrap();
    assert!(rows(&system).keys("stock-valuation").iter().all(|key| !key.starts_with("2012-02")));
}

#[test]
fn a_late_movement_restates_its_day_and_all_later_ones() {
    let mut system = system();
    deliver(&mut system, "1", "2012-01-30", 10, 100, "USD");
    for date in ["2012-01-30", "2012-01-31"] {
        system.send(&format!("retail.business-day.{date}.close"), "{}").unwrap();
    }
    sell(&mut system, "S1", "2012-01-30", 3);
    assert_eq!(end(&system, "2012-01-30"), json!([7, 0, 700, 2, "open"]));
    assert_eq!(end(&system, "2012-01-31"), json!([7, 0, 700, 2, "open"]));
    let row = rows(&system).json("stock-valuation", "2012-01-31/7");
    assert_eq!(row["differences"][0]["reference"], "7:a sale 7_2012-01-30/S1/1");
    system.send("retail.business-day.2012-01-31.close", "{}").unwrap();
    assert_eq!(end(&system, "2012-01-31"), json!([7, 0, 700, 2, "sealed"]));
    // A day between others begins with what the day before it ended with.
    system.send("retail.business-day.2012-02-02.close", "{}").unwrap();
    sell(&mut system, "S2", "2012-02-01", 1);
    assert_eq!(end(&system, "2012-02-01"), json!([6, 0, 600, 1, "open"]));
    assert_eq!(end(&system, "2012-02-02"), json!([6, 0, 600, 2, "open"]));
}

#[test]
fn units_without_a_known_cost_have_no_value_until_there_is_one() {
    let mut system = system();
    system.send("retail.stock.7:a.receive", r#"{"quantity":4,"business_date":"2012-01-30"}"#).unwrap();
    assert_eq!(end(&system, "2012-01-30"), json!([4, 4, 0, 1, "open"]));
    deliver(&mut system, "1", "2012-01-30", 6, 100, "USD");
    assert_eq!(end(&system, "2012-01-30"), json!([10, 0, 1000, 1, "open"]));
    deliver(&mut system, "2", "2012-01-30", 10, 1, "EUR");
    assert_eq!(
        end(&system, "2012-01-30"),
        json!([20, 0, 2000, 1, "open"]),
        "another currency brings no cost"
    );
    system.send("retail.stock.7:a.adjust", r#"{"counted":19,"business_date":"2012-01-30"}"#).unwrap();
    assert_eq!(end(&system, "2012-01-30"), json!([19, 0, 1900, 1, "open"]));
}

#[test]
fn transferred_units_keep_their_value() {
    let mut system = system();
    deliver(&mut system, "1", "2012-01-30", 3, 100, "USD");
    deliver(&mut system, "2", "2012-01-30", 4, 107, "USD");
    let transfer = r#"{"to":"8","quantity":5,"business_date":"2012-01-31"}"#;
    system.send("retail.stock.7:a.transfer", transfer).unwrap();
    // 728 for 7, of which 5 take 520.
    assert_eq!(end(&system, "2012-01-31"), json!([2, 0, 208, 1, "open"]));
    let there = |system: &InMemorySystem| -> Value {
        let there = rows(system).json("stock-valuation", "2012-01-31/8");
        let fields = ["units_on_hand", "units_without_cost", "stock_value", "currency"];
        fields.iter().map(|field| there[*field].clone()).collect()
    };
    assert_eq!(there(&system), json!([5, 0, 520, "USD"]));

    // Back again: nothing was gained or lost on the way.
    system.send("retail.stock.8:a.transfer", &transfer.replace('8', "7")).unwrap();
    assert_eq!(end(&system, "2012-01-31"), json!([7, 0, 728, 1, "open"]));
    assert_eq!(there(&system), json!([0, 0, 0, "USD"]));
}

#[test]
fn units_from_a_place_of_another_currency_have_no_cost() {
    let mut system = system();
    deliver(&mut system, "1", "2012-01-30", 3, 100, "USD");
    let other = r#"{"supplier":"acme","location":"8","currency":"EUR","received_on":"2012-01-30",
        "lines":[{"sku":"b","quantity":1,"unit_cost":1}]}"#;
    system.send("retail.delivery.2.receive", other).unwrap();
    system
        .send("retail.stock.7:a.transfer", r#"{"to":"8","quantity":2,"business_date":"2012-01-31"}"#)
        .unwrap();
    assert_eq!(end(&system, "2012-01-31"), json!([1, 0, 100, 1, "open"]));
    let there = rows(&system).json("stock-valuation", "2012-01-31/8");
    assert_eq!((&there["units_without_cost"], &there["stock_value"]), (&json!(2), &json!(1)));
}
