//! What holds of every decider for any commands, sensible or not: what was accepted can be folded, a replay gives the same
//! state, the same command at once again changes nothing, a refusal is repeated. And what holds of each history, told from
//! the events alone: refunds stay within payments, what is deleted stays deleted, reservations stay within the stock.
//!
//! The kits see to it that no rule panics and that no code comes out that is not declared.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use millstream::{
    contract::commit::EventEnvelope,
    decider::EventSet,
    testing::{dice::Dice, in_memory_system::InMemorySystem, sequential_handler::SequentialHandler},
};
use millstream_model::{
    comments::comment::CommentEvent,
    orders::order::OrderEvent,
    retail::{business_day::BusinessDayEvent, product::ProductEvent, stock::StockEvent, till::TillEvent},
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A command as someone types it.
#[derive(Debug, Clone)]
struct Typed {
    actor: Option<&'static str>,
    address: String,
    body: Value,
}

fn typed(address: String, body: Value) -> Typed {
    Typed { actor: Some("anna"), address, body }
}

/// Mostly small numbers; some that no rule allows.
fn quantity() -> impl Strategy<Value = i64> {
    prop_oneof![12 => 1_i64..6, 1 => Just(0), 1 => any::<i64>()]
}

/// Mostly one of a few ids; some that are none.
fn id(few: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![12 => few.prop_map(String::from), 1 => Just(String::new()), 1 => Just("a b\n".to_owned())]
}

fn date() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![6 => Just(None), 2 => Just(Some("2012-01-31")), 1 => Just(Some("2012-02-30"))]
}

fn currency() -> impl Strategy<Value = &'static str> {
    prop_oneof![9 => Just("USD"), 1 => Just("EUR"), 1 => Just("usd")]
}

fn lines(price: &'static str) -> impl Strategy<Value = Value> {
    let line = (id("[ab]"), quantity(), prop_oneof![8 => Just(100_i64), 1 => any::<i64>()])
        .prop_map(move |(sku, quantity, cents)| json!({ "sku": sku, "quantity": quantity, price: cents }));
    prop::collection::vec(line, 0..3).prop_map(Value::from)
}

/// Leaves out fields that are null.
fn given(mut body: Value) -> Value {
    body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    body
}

fn order() -> impl Strategy<Value = Typed> {
    let body = prop_oneof![
        4 => ("[ab]", currency(), lines("unit_price")).prop_map(|(customer, currency, lines)| {
            ("place", json!({ "customer": customer, "location": "w", "currency": currency, "lines": lines }))
        }),
        4 => (id("[pq]"), 0_i64..12, currency()).prop_map(|(payment, hundreds, currency)| {
            ("pay", json!({ "payment": payment, "amount": hundreds * 100, "currency": currency }))
        }),
        3 => id("[st]").prop_map(|shipment| ("ship", json!({ "shipment": shipment }))),
        2 => Just(("deliver", json!({}))),
        1 => prop::option::of(id("[why]")).prop_map(|reason| ("cancel", given(json!({ "reason": reason })))),
        4 => (id("[fgh]"), -1_i64..12)
            .prop_map(|(refund, hundreds)| ("refund", json!({ "refund": refund, "amount": hundreds * 50 }))),
        4 => Just(("confirm-reservation", json!({}))),
        1 => Just(("reject-reservation", json!({ "sku": "a", "quantity": 2, "available": 1 }))),
        1 => Just(("expire-payment", json!({}))),
        1 => Just(("expire-shipment", json!({}))),
    ];
    ("[12]", body).prop_map(|(order, (command, body))| typed(format!("orders.order.{order}.{command}"), body))
}

fn comment() -> impl Strategy<Value = Typed> {
    let actor = prop_oneof![
        6 => Just(Some("anna")), 3 => Just(Some("berta")), 1 => Just(Some("a/b")), 1 => Just(None)
    ];
    let body = prop_oneof![
        2 => (id("[PQ]"), id("[xy]"))
            .prop_map(|(picture, text)| ("create", json!({ "picture": picture, "text": text }))),
        4 => id("[xyz]").prop_map(|text| ("update", json!({ "text": text }))),
        1 => Just(("delete", json!({}))),
    ];
    (actor, "[12]", body).prop_map(|(actor, comment, (command, body))| Typed {
        actor,
        address: format!("comments.comment.{comment}.{command}"),
        body,
    })
}

fn stock() -> impl Strategy<Value = Typed> {
    let reservation = || id("[RST]");
    let reference = || prop::option::of(id("[RST]"));
    let body = prop_oneof![
        4 => (quantity(), reference(), date()).prop_map(|(quantity, reference, date)| {
            let body = json!({ "quantity": quantity, "reference": reference, "business_date": date });
            ("receive", given(body))
        }),
        4 => (quantity(), reference(), date()).prop_map(|(quantity, reference, date)| {
            let body = json!({ "quantity": quantity, "reference": reference, "business_date": date });
            ("issue", given(body))
        }),
        3 => (quantity(), reference(), "[wv]").prop_map(|(quantity, reference, to)| {
            ("transfer", given(json!({ "quantity": quantity, "reference": reference, "to": to })))
        }),
        3 => (reservation(), quantity()).prop_map(|(reservation, quantity)| {
            ("reserve", json!({ "reservation": reservation, "quantity": quantity }))
        }),
        3 => (reservation(), quantity()).prop_map(|(reservation, quantity)| {
            ("request-reservation", json!({ "reservation": reservation, "quantity": quantity }))
        }),
        3 => reservation().prop_map(|reservation| ("release", json!({ "reservation": reservation }))),
        1 => (quantity(), date()).prop_map(|(counted, date)| {
            ("adjust", given(json!({ "counted": counted, "business_date": date })))
        }),
        1 => quantity().prop_map(|minimum| ("set-minimum", json!({ "minimum": minimum }))),
    ];
    let place = prop_oneof![3 => Just("w"), 1 => Just("v")];
    (place, "[ab]", body).prop_map(|(place, sku, (command, body))| {
        typed(format!("retail.stock.{place}:{sku}.{command}"), body)
    })
}

fn other_retail() -> impl Strategy<Value = Typed> {
    prop_oneof![
        (id("[nm]"), id("[xyz]"), date()).prop_map(|(name, supplier, date)| {
            let body = json!({ "name": name, "supplier": supplier, "effective_from": date });
            typed("retail.product.a.register".into(), given(body))
        }),
        (quantity(), currency()).prop_map(|(price, currency)| {
            typed("retail.product.a.reprice".into(), json!({ "unit_price": price, "currency": currency }))
        }),
        Just(typed("retail.product.a.discontinue".into(), json!({}))),
        (id("[xy]"), currency(), lines("unit_cost"), date()).prop_map(|(supplier, currency, lines, date)| {
            let body = json!({
                "supplier": supplier, "location": "w", "currency": currency, "lines": lines, "received_on": date,
            });
            typed("retail.delivery.D.receive".into(), given(body))
        }),
        (id("[12]"), currency(), lines("unit_price")).prop_map(|(sale, currency, lines)| {
            let body = json!({ "sale": sale, "currency": currency, "lines": lines });
            typed("retail.till.w_2012-01-31.record-sale".into(), body)
        }),
        (id("[12]"), prop::option::of("[12]"), currency(), lines("unit_price")).prop_map(
            |(entry, sale, currency, lines)| {
                let body = json!({ "return": entry, "sale": sale, "currency": currency, "lines": lines });
                typed("retail.till.w_2012-01-31.record-return".into(), given(body))
            }
        ),
        Just(typed("retail.till.w_2012-01-31.close".into(), json!({}))),
        Just(typed("retail.business-day.2012-01-31.close".into(), json!({}))),
        Just(typed("retail.business-day.someday.close".into(), json!({}))),
    ]
}

fn commands() -> impl Strategy<Value = Vec<Typed>> {
    let command = prop_oneof![4 => order(), 2 => comment(), 4 => stock(), 3 => other_retail()];
    prop::collection::vec(command, 1..80)
}

/// Whether the same command at once again is another event: nothing but its own id could tell it from the first.
fn has_no_id(command: &Typed) -> bool {
    command.address.starts_with("retail.business-day.")
        || (command.address.starts_with("retail.stock.")
            && [".receive", ".issue", ".transfer"].iter().any(|name| command.address.ends_with(name))
            && command.body.get("reference").is_none())
}

fn decided(commands: &[Typed]) -> SequentialHandler {
    let mut handler = SequentialHandler::new(millstream_model::aggregates(), "any");
    let mut time: Timestamp = "2012-01-31T12:00:00Z".parse().unwrap();
    for command in commands {
        time += SignedDuration::from_mins(7);
        let Typed { actor, address, body } = command;
        let body = body.to_string();
        let mut decide = || handler.decide_as_allowed(*actor, address, &body, time);
        let first = decide();
        if has_no_id(command) {
            continue;
        }
        let again = decide();
        match first {
            Ok(_) => assert_eq!(again, Ok(vec![]), "{address} {body} a second time"),
            Err(rejection) => assert_eq!(again.unwrap_err().code, rejection.code, "{address} {body}"),
        }
    }
    handler
}

fn each<E: EventSet>(handler: &SequentialHandler, aggregate: &str, mut fold: impl FnMut(&str, E)) {
    let commits = handler.history().commits().iter();
    let wanted = commits.filter(|commit| commit.stream_id.aggregate() == aggregate);
    let envelopes: Vec<EventEnvelope<'_>> = wanted.flat_map(|commit| commit.envelopes()).collect();
    for envelope in envelopes {
        let event = E::from_envelope(&envelope).unwrap_or_else(|error| panic!("{envelope:?}: {error}"));
        fold(envelope.stream_id.id(), event);
    }
}

#[derive(Default)]
struct OrderStory {
    amount: Option<i64>,
    paid: Option<i64>,
    refunds: BTreeMap<String, i64>,
    steps: BTreeSet<&'static str>,
}

fn orders_are_sound(handler: &SequentialHandler) {
    let mut orders: BTreeMap<String, OrderStory> = BTreeMap::new();
    each(handler, "order", |id, event: OrderEvent| {
        let order = orders.entry(id.to_owned()).or_default();
        let (name, _) = event.event_type();
        let first = order.steps.insert(name);
        assert!(first || name == "order-refunded", "{id}: {name} twice");
        assert!(name == "order-placed" || order.amount.is_some(), "{id}: {name} before it was placed");
        let has = |step: &str| order.steps.contains(step);
        match event {
            OrderEvent::Placed(placed) => {
                let sum: i64 = placed.lines.iter().map(|line| line.quantity * line.unit_price).sum();
                assert_eq!(placed.amount, sum);
                order.amount = Some(sum);
            }
            OrderEvent::Reserved(_) => assert!(!has("order-paid") && !has("order-cancelled")),
            OrderEvent::Paid(paid) => {
                assert!(has("order-reserved") && !has("order-cancelled"));
                assert_eq!(Some(paid.amount), order.amount);
                order.paid = Some(paid.amount);
            }
            OrderEvent::Shipped(_) => assert!(has("order-paid") && !has("order-cancelled")),
            OrderEvent::Delivered(_) => assert!(has("order-shipped")),
            OrderEvent::Cancelled(cancelled) => {
                assert!(!has("order-shipped"));
                assert_eq!(cancelled.refundable, order.paid.unwrap_or(0));
            }
            OrderEvent::Refunded(refunded) => {
                assert!(has("order-cancelled") || has("order-shipped"));
                assert!(refunded.amount > 0);
                assert_eq!(order.refunds.insert(refunded.refund.clone(), refunded.amount), None);
                let (sum, paid): (i64, _) = (order.refunds.values().sum(), order.paid.unwrap());
                assert!(sum <= paid, "{id}: {sum} of {paid} given back");
                assert_eq!(refunded.full, sum == paid);
            }
        }
    });
}

fn comments_are_sound(handler: &SequentialHandler) {
    let mut comments: BTreeMap<String, Option<String>> = BTreeMap::new();
    each(handler, "comment", |id, event: CommentEvent| match event {
        CommentEvent::Created(created) => {
            assert_eq!(comments.insert(id.to_owned(), Some(created.text)), None, "{id} is there already");
        }
        CommentEvent::Updated(updated) => {
            let text = comments.get_mut(id).unwrap().as_mut().expect("what is deleted stays deleted");
            assert_ne!(*text, updated.text, "{id}: an update that changes nothing");
            *text = updated.text;
        }
        CommentEvent::Deleted(_) => {
            assert!(comments.insert(id.to_owned(), None).unwrap().is_some(), "{id} is deleted twice");
        }
    });
}

#[derive(Default)]
struct StockStory {
    on_hand: i64,
    open: BTreeMap<String, i64>,
}

fn stocks_are_sound(handler: &SequentialHandler) {
    let mut stocks: BTreeMap<String, StockStory> = BTreeMap::new();
    let mut under_way = 0;
    each(handler, "stock", |id, event: StockEvent| {
        let stock = stocks.entry(id.to_owned()).or_default();
        let available = stock.on_hand - stock.open.values().sum::<i64>();
        match event {
            StockEvent::Received(received) => stock.on_hand += received.quantity,
            StockEvent::Issued(issued) => {
                stock.on_hand -= issued.quantity;
                assert_eq!(issued.below_zero, stock.on_hand < 0, "{id}");
                let held = issued.reference.and_then(|reference| stock.open.remove(&reference));
                assert_eq!(issued.reserved, held.unwrap_or(0), "{id}");
                assert!(held.is_none_or(|held| issued.quantity <= held), "{id}");
            }
            StockEvent::TransferredOut(out) => {
                assert!(out.quantity <= available, "{id}: {} of {available}", out.quantity);
                stock.on_hand -= out.quantity;
                under_way -= out.quantity;
            }
            StockEvent::TransferredIn(came) => {
                stock.on_hand += came.quantity;
                under_way += came.quantity;
            }
            StockEvent::Reserved(reserved) => {
                assert!(reserved.quantity <= available, "{id}: {} of {available}", reserved.quantity);
                assert_eq!(stock.open.insert(reserved.reservation, reserved.quantity), None);
            }
            StockEvent::ReservationRefused(refused) => {
                assert_eq!(refused.available, available, "{id}");
                assert!(refused.quantity > available, "{id}");
            }
            StockEvent::ReservationReleased(released) => {
                assert_eq!(stock.open.remove(&released.reservation), Some(released.quantity), "{id}");
            }
            StockEvent::Adjusted(adjusted) => {
                assert_ne!(adjusted.change, 0, "{id}");
                stock.on_hand += adjusted.change;
                assert_eq!(stock.on_hand, adjusted.counted, "{id}");
            }
            StockEvent::MinimumSet(set) => assert!(set.minimum >= 0, "{id}"),
        }
    });
    assert_eq!(under_way, 0, "what leaves one place for another arrives");
}

fn other_retail_is_sound(handler: &SequentialHandler) {
    let (mut registered, mut in_range) = (false, false);
    each(handler, "product", |id, event: ProductEvent| match event {
        ProductEvent::Registered(_) => (registered, in_range) = (true, true),
        ProductEvent::Repriced(repriced) => {
            assert!(in_range, "{id} gets a price outside of the range");
            assert!(repriced.unit_price >= 0);
        }
        ProductEvent::Discontinued(_) => {
            assert!(registered && in_range, "{id}");
            in_range = false;
        }
    });
    let deliveries = handler.history().commits().iter();
    let deliveries = deliveries.filter(|commit| commit.stream_id.aggregate() == "delivery");
    assert!(deliveries.count() <= 1, "one delivery is received once");
    let mut closings = 0;
    each(handler, "business-day", |_, BusinessDayEvent::Closed(closed)| {
        closings += 1;
        assert_eq!(closed.closing, closings);
    });
    let (mut closings, mut ids) = (0, BTreeSet::new());
    each(handler, "till", |_, event: TillEvent| match event {
        TillEvent::SaleRecorded(sale) => {
            assert_eq!(sale.late, closings > 0);
            assert!(ids.insert(("sale", sale.sale)));
        }
        TillEvent::ReturnRecorded(entry) => {
            assert_eq!(entry.late, closings > 0);
            assert!(ids.insert(("return", entry.return_id)));
        }
        TillEvent::Closed(closed) => {
            closings += 1;
            assert_eq!(closed.closing, closings);
        }
    });
}

/// Of orders and stocks, so that the processes have something to do.
fn for_processes() -> impl Strategy<Value = Vec<Typed>> {
    let command = prop_oneof![5 => order(), 3 => stock(), 1 => other_retail()];
    prop::collection::vec(command, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn accepted_commands_fold_repeat_and_keep_the_invariants(commands in commands()) {
        let handler = decided(&commands);
        handler.assert_replay_equals_incremental();
        orders_are_sound(&handler);
        comments_are_sound(&handler);
        stocks_are_sound(&handler);
        other_retail_is_sound(&handler);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Processes answer the same events with the same effects, and effects that are carried out again change nothing,
    /// whatever people do and however far the processes lag behind.
    #[test]
    fn processes_answer_any_history_repeatably(commands in for_processes(), seed in any::<u64>()) {
        let processes = millstream_model::processes();
        let mut system =
            InMemorySystem::new(millstream_model::aggregates(), processes).hesitant(Dice::new(seed));
        for Typed { actor, address, body } in &commands {
            // A refusal is as good an answer as any here.
            drop(system.send_by(*actor, address, &body.to_string()));
        }
        system.settle();
        system.assert_processes_repeatable();
        let commits = system.history().commits().len();
        system.repeat_all_effects();
        prop_assert_eq!(system.history().commits().len(), commits);
        // Long after every deadline, no order holds anything any more.
        system.advance_to(system.now() + SignedDuration::from_hours(24 * 60));
        let mut open = BTreeSet::new();
        for commit in system.history().commits() {
            for envelope in commit.envelopes().filter(|envelope| envelope.stream_id.aggregate() == "stock") {
                let stock = envelope.stream_id.id().to_owned();
                match StockEvent::from_envelope(&envelope).unwrap() {
                    StockEvent::Reserved(reserved) if reserved.requested => {
                        open.insert((stock, reserved.reservation));
                    }
                    StockEvent::ReservationReleased(released) => {
                        open.remove(&(stock, released.reservation));
                    }
                    StockEvent::Issued(issued) => {
                        open.remove(&(stock, issued.reference.unwrap_or_default()));
                    }
                    _ => {}
                }
            }
        }
        open.retain(|(_, reservation)| reservation.starts_with("order:"));
        prop_assert_eq!(open, BTreeSet::new());
        system.assert_processes_repeatable();
    }
}
