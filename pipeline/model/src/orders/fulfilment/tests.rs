//! Fulfilment together with the aggregates that it works on: each way in which an order can go, and races between them.

use millstream::{
    decider::AggregateRegistry,
    testing::{dice::Dice, in_memory_system::InMemorySystem, memory_rows::MemoryRows, project::rows_of},
};
use serde_json::{Value, json};

use super::*;
use crate::{orders::order_view::OrderView, retail::stock_view::StockView};

const HOURS: Deadlines =
    Deadlines { payment: SignedDuration::from_hours(1), shipment: SignedDuration::from_hours(48) };

const PAY: &str = r#"{"payment":"P","amount":1000,"currency":"USD"}"#;

fn system() -> InMemorySystem {
    let registry = AggregateRegistry::new().with::<Order>().with::<Stock>();
    let mut system = InMemorySystem::new(registry, vec![Box::new(Fulfilment::new(HOURS))]);
    for sku in ["a", "b"] {
        system.send(&format!("retail.stock.main:{sku}.receive"), r#"{"quantity":10}"#).unwrap();
    }
    system
}

fn place(system: &mut InMemorySystem, order: &str, a: i64, b: i64) {
    let lines = json!([
        { "sku": "a", "quantity": a, "unit_price": 0 }, { "sku": "b", "quantity": b, "unit_price": 1000 },
    ]);
    let body = json!({ "customer": "anna", "location": "main", "currency": "USD", "lines": lines });
    system.send(&format!("orders.order.{order}.place"), &body.to_string()).unwrap();
}

fn advance(system: &mut InMemorySystem, hours: i64) {
    system.advance_to(system.now() + SignedDuration::from_hours(hours));
}

fn order_row(system: &InMemorySystem, order: &str) -> Value {
    let orders: MemoryRows = of_context("orders", system);
    orders.json("order", order)
}

fn of_context(context: &str, system: &InMemorySystem) -> MemoryRows {
    match context {
        "orders" => rows_of(&OrderView, system.history()),
        _ => rows_of(&StockView, system.history()),
    }
}

/// On hand and reserved, of both skus.
fn stock(system: &InMemorySystem) -> [(i64, i64); 2] {
    let rows = of_context("retail", system);
    ["main:a", "main:b"].map(|key| {
        let row = rows.json("stock", key);
        (row["on_hand"].as_i64().unwrap(), row["reserved"].as_i64().unwrap())
    })
}

fn assert_done(system: &InMemorySystem) {
    assert_eq!(system.process_rows(NAME).dump(), "");
    assert_eq!(system.timers().collect::<Vec<_>>(), vec![]);
    assert!(of_context("retail", system).keys("reservation").is_empty());
    system.assert_processes_repeatable();
}

#[test]
fn paid_and_shipped_order_takes_its_goods_out_of_stock() {
    let mut system = system();
    place(&mut system, "O-1", 2, 1);
    assert_eq!(order_row(&system, "O-1")["state"], "reserved");
    assert_eq!(stock(&system), [(10, 2), (10, 1)]);
    advance(&mut system, 0);
    system.send("orders.order.O-1.pay", PAY).unwrap();
    advance(&mut system, 47);
    system.send("orders.order.O-1.ship", r#"{"shipment":"S"}"#).unwrap();
    assert_eq!(order_row(&system, "O-1")["state"], "shipped");
    assert_eq!(stock(&system), [(8, 0), (9, 0)]);
    assert_done(&system);
    advance(&mut system, 1000);
    system.send("orders.order.O-1.deliver", "").unwrap();
    assert!(system.refused().is_empty(), "{:?}", system.refused());
    let history = order_row(&system, "O-1")["history"].clone();
    assert_eq!(history[1]["actor"], "process:fulfilment");
}

#[test]
fn order_beyond_what_is_available_is_cancelled_and_holds_nothing() {
    let mut system = system();
    place(&mut system, "O-1", 2, 11);
    let row = order_row(&system, "O-1");
    assert_eq!((&row["state"], &row["cancelled_by"]), (&json!("cancelled"), &json!("reservation-refused")));
    assert_eq!(row["cancellation_reason"], "11 of b ordered, 10 available");
    assert_eq!(stock(&system), [(10, 0), (10, 0)]);
    assert_done(&system);
}

#[test]
fn order_that_is_not_paid_in_time_is_cancelled() {
    let mut system = system();
    place(&mut system, "O-1", 2, 1);
    advance(&mut system, 2);
    assert_eq!(order_row(&system, "O-1")["cancelled_by"], "payment-expired");
    assert_eq!(stock(&system), [(10, 0), (10, 0)]);
    assert_eq!(system.send("orders.order.O-1.pay", PAY).unwrap_err().code, "pay-while-cancelled");
    assert_done(&system);
}

#[test]
fn order_that_is_not_shipped_in_time_is_refunded() {
    let mut system = system();
    place(&mut system, "O-1", 2, 1);
    system.send("orders.order.O-1.pay", PAY).unwrap();
    advance(&mut system, 49);
    let row = order_row(&system, "O-1");
    assert_eq!((&row["state"], &row["cancelled_by"]), (&json!("refunded"), &json!("shipment-expired")));
    assert_eq!(row["refunded_amount"], 1000);
    assert_eq!(stock(&system), [(10, 0), (10, 0)]);
    assert_done(&system);
}

#[test]
fn customer_can_cancel_until_it_is_shipped() {
    let mut system = system();
    place(&mut system, "O-1", 2, 1);
    system.send("orders.order.O-1.cancel", "").unwrap();
    assert_eq!(order_row(&system, "O-1")["state"], "cancelled");
    place(&mut system, "O-2", 2, 1);
    system.send("orders.order.O-2.pay", PAY).unwrap();
    system.send("orders.order.O-2.cancel", "").unwrap();
    assert_eq!(order_row(&system, "O-2")["state"], "refunded");
    assert_eq!(stock(&system), [(10, 0), (10, 0)]);
    assert_done(&system);
}

#[test]
fn order_of_one_sku_in_two_lines_is_reserved_once() {
    let mut system = system();
    let line = json!({ "sku": "a", "quantity": 2, "unit_price": 5 });
    let body = json!({ "customer": "anna", "location": "main", "currency": "USD", "lines": [line, line] });
    system.send("orders.order.O-1.place", &body.to_string()).unwrap();
    assert_eq!(stock(&system), [(10, 4), (10, 0)]);
    assert_eq!(order_row(&system, "O-1")["state"], "reserved");
}

#[test]
fn reservations_of_people_are_left_alone() {
    let mut system = system();
    for reservation in ["anna", "order", "an order:O-1"] {
        let body = json!({ "reservation": reservation, "quantity": 1 });
        system.send("retail.stock.main:a.reserve", &body.to_string()).unwrap();
    }
    place(&mut system, "O-1", 8, 1);
    assert_eq!(order_row(&system, "O-1")["cancelled_by"], "reservation-refused");
    assert_eq!(stock(&system), [(10, 3), (10, 0)]);
}

/// Whoever reserved, requested or issued in the name of an order before it was placed left it without an answer, or its goods reserved.
#[test]
fn nobody_takes_the_name_of_an_order_before_it_is_placed() {
    let mut system = system();
    for (command, body, code) in [
        ("reserve", json!({ "reservation": "order:O-1", "quantity": 2 }), "reservation-not-allowed"),
        ("request-reservation", json!({ "reservation": "order:O-1", "quantity": 2 }), "internal-command"),
        ("issue", json!({ "quantity": 2, "reference": "order:O-1" }), "reservation-unknown"),
    ] {
        let refused = system.send(&format!("retail.stock.main:a.{command}"), &body.to_string()).unwrap_err();
        assert_eq!(refused.code, code, "{refused}");
    }
    place(&mut system, "O-1", 2, 1);
    assert_eq!(order_row(&system, "O-1")["state"], "reserved");
    system.send("orders.order.O-1.pay", PAY).unwrap();
    system.send("orders.order.O-1.ship", r#"{"shipment":"S"}"#).unwrap();
    assert_eq!(stock(&system), [(8, 0), (9, 0)]);
    assert_done(&system);
}

#[test]
fn effects_carried_out_twice_change_nothing() {
    let mut system = system();
    place(&mut system, "O-1", 2, 1);
    system.send("orders.order.O-1.pay", PAY).unwrap();
    place(&mut system, "O-2", 20, 1);
    let before = (stock(&system), order_row(&system, "O-1"), order_row(&system, "O-2"));
    let commits = system.history().commits().len();
    system.repeat_all_effects();
    assert!(system.repeated() > 0);
    assert_eq!(system.history().commits().len(), commits);
    assert_eq!((stock(&system), order_row(&system, "O-1"), order_row(&system, "O-2")), before);
}

/// A refund by hand between a cancellation and its answer made the process ask for more than was left; its refusal was seen by
/// nobody, and the rest stayed owed.
#[test]
fn cancelled_order_is_refunded_what_is_left() {
    let mut raced = 0;
    for seed in 0..50 {
        let mut system = system();
        place(&mut system, "O-1", 2, 1);
        system.send("orders.order.O-1.pay", PAY).unwrap();
        let mut system = system.hesitant(Dice::new(seed));
        system.send("orders.order.O-1.cancel", "").unwrap();
        // Refused when the process was faster.
        let by_hand = system.send("orders.order.O-1.refund", r#"{"refund":"by hand","amount":100}"#);
        system.settle();
        let row = order_row(&system, "O-1");
        assert_eq!(
            (&row["state"], &row["refunded_amount"]),
            (&json!("refunded"), &json!(1000)),
            "seed {seed}"
        );
        assert!(system.refused().iter().all(|refused| refused.actor.is_none()), "{:?}", system.refused());
        assert_done(&system);
        raced += usize::from(by_hand.is_ok());
    }
    assert!(raced > 0, "no seed let the refund by hand come first");
}

/// People do what they like, at any time, while the process lags behind: whatever the race, nothing stays reserved.
#[test]
fn no_race_leaves_a_reservation_behind() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let mut system = system().hesitant(dice.fork(1));
        let steps = [
            ("pay", PAY),
            ("ship", r#"{"shipment":"S"}"#),
            ("cancel", ""),
            ("deliver", ""),
            ("refund", r#"{"refund":"R","amount":1000}"#),
            ("refund", r#"{"refund":"part","amount":300}"#),
        ];
        for number in 1..=6 {
            let (a, b) = (dice.between(1, 5), dice.between(1, 5));
            place(&mut system, &number.to_string(), i64::try_from(a).unwrap(), i64::try_from(b).unwrap());
            for _ in 0..dice.below(6) {
                let (command, body) = dice.pick(&steps);
                let body = body.replace("1000", &(b * 1000).to_string());
                let order = dice.between(1, number);
                // A refusal is as good an answer as any here.
                drop(system.send(&format!("orders.order.{order}.{command}"), &body));
            }
            if dice.chance(0.3) {
                advance(&mut system, i64::try_from(dice.below(4)).unwrap());
            }
        }
        advance(&mut system, 1000);
        assert_eq!(stock(&system).map(|(_, reserved)| reserved), [0, 0], "seed {seed}");
        assert_done(&system);
        let owed = system
            .refused()
            .iter()
            .find(|refused| refused.actor.is_some() && refused.address.contains("refund"));
        assert!(owed.is_none(), "seed {seed}: {owed:?}");
        let orders = of_context("orders", &system);
        let states: Vec<Value> =
            orders.keys("order").iter().map(|order| orders.json("order", order)["state"].clone()).collect();
        for state in &states {
            let at_rest = ["shipped", "delivered", "cancelled", "refunded"].map(|state| json!(state));
            assert!(at_rest.contains(state), "seed {seed}: {states:?}");
        }
    }
}

/// Orders of 2018 were cancelled for want of stock, or for a deadline that had passed before they came in.
#[test]
fn history_is_left_alone() {
    let mut system = system();
    let lines = json!([{ "sku": "a", "quantity": 99, "unit_price": 10 }, { "sku": "gone", "quantity": 1, "unit_price": 10 }]);
    let at = "2011-03-01T10:00:00Z";
    let body = json!({ "customer": "anna", "location": "main", "currency": "USD", "lines": lines, "happened_at": at });
    for order in ["O-1", "O-2", "O-3"] {
        system.send(&format!("orders.order.{order}.place"), &body.to_string()).unwrap();
    }
    let pay =
        json!({ "payment": "P", "amount": 1000, "currency": "USD", "happened_at": "2011-03-02T10:00:00Z" });
    system.send("orders.order.O-1.pay", &pay.to_string()).unwrap();
    system.send("orders.order.O-1.ship", r#"{"shipment":"S","happened_at":"2011-03-03T10:00:00Z"}"#).unwrap();
    system.send("orders.order.O-2.pay", &pay.to_string()).unwrap();
    system.send("orders.order.O-2.cancel", r#"{"happened_at":"2011-03-04T10:00:00Z"}"#).unwrap();
    advance(&mut system, 10_000);
    for (order, state) in [("O-1", "shipped"), ("O-2", "cancelled"), ("O-3", "placed")] {
        let row = order_row(&system, order);
        assert_eq!((&row["state"], &row["placed_at"]), (&json!(state), &json!(at)), "{order}");
        assert_eq!(row["refunded_amount"], json!(0), "{order}");
    }
    assert_eq!(stock(&system), [(10, 0), (10, 0)]);
    assert_done(&system);
    assert!(system.refused().is_empty(), "{:?}", system.refused());
}
