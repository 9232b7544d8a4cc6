//! The rules of an order, one by one, and every command in every state.

use millstream::{
    testing::given_when_then::{Given, given},
    values::money::QUANTITY_MAX,
};

use super::{status::REFUSALS, *};
use crate::lines::LINES_MAX;

const PLACE: &str = r#"{"customer":"anna","location":"2506","currency":"USD","lines":[
    {"sku":"a","quantity":2,"unit_price":500},{"sku":"b","quantity":1,"unit_price":99}]}"#;
const PAY: &str = r#"{"payment":"P-1","amount":1099,"currency":"USD"}"#;
const SHIP: &str = r#"{"shipment":"S-1","carrier":"post"}"#;

fn line(sku: &str, quantity: i64, unit_price: i64) -> OrderLine {
    OrderLine { sku: sku.into(), quantity, unit_price }
}

fn dollars() -> Currency {
    Currency::parse("USD").unwrap()
}

fn placed() -> OrderEvent {
    OrderEvent::Placed(OrderPlaced {
        customer: "anna".into(),
        location: "2506".into(),
        currency: dollars(),
        lines: vec![line("a", 2, 500), line("b", 1, 99)],
        amount: 1099,
        happened_at: None,
    })
}

fn reserved() -> OrderEvent {
    OrderEvent::Reserved(OrderReserved {})
}

fn paid() -> OrderEvent {
    OrderEvent::Paid(OrderPaid {
        payment: "P-1".into(),
        amount: 1099,
        currency: dollars(),
        happened_at: None,
    })
}

fn shipped() -> OrderEvent {
    OrderEvent::Shipped(OrderShipped {
        shipment: "S-1".into(),
        carrier: Some("post".into()),
        happened_at: None,
    })
}

fn cancellation(cause: CancellationCause, reason: Option<&str>, refundable: i64) -> OrderEvent {
    OrderEvent::Cancelled(OrderCancelled {
        cause,
        reason: reason.map(str::to_owned),
        refundable,
        happened_at: None,
    })
}

fn refunded(refund: &str, amount: i64, full: bool) -> OrderEvent {
    OrderEvent::Refunded(OrderRefunded {
        refund: refund.into(),
        amount,
        reason: None,
        full,
        happened_at: None,
    })
}

fn order(events: impl IntoIterator<Item = OrderEvent>) -> Given<Order> {
    given::<Order>("O-1", events)
}

/// Each state, and how an order gets there. A cancelled order that was paid is a case of its own.
fn paths() -> Vec<(OrderStatus, Vec<OrderEvent>)> {
    let cancelled = |refundable| cancellation(CancellationCause::Requested, None, refundable);
    vec![
        (OrderStatus::Placed, vec![placed()]),
        (OrderStatus::Reserved, vec![placed(), reserved()]),
        (OrderStatus::Paid, vec![placed(), reserved(), paid()]),
        (OrderStatus::Shipped, vec![placed(), reserved(), paid(), shipped()]),
        (
            OrderStatus::Delivered,
            vec![
                placed(),
                reserved(),
                paid(),
                shipped(),
                OrderEvent::Delivered(OrderDelivered { happened_at: None }),
            ],
        ),
        (OrderStatus::Cancelled, vec![placed(), reserved(), cancelled(0)]),
        (OrderStatus::Cancelled, vec![placed(), reserved(), paid(), cancelled(1099)]),
        (OrderStatus::Refunded, vec![placed(), reserved(), paid(), shipped(), refunded("R-0", 1099, true)]),
    ]
}

#[test]
fn every_illegal_step_is_refused_by_name_and_no_other() {
    let commands = [
        ("pay", r#"{"payment":"P-2","amount":1099,"currency":"USD"}"#),
        ("ship", r#"{"shipment":"S-2"}"#),
        ("deliver", "{}"),
        ("cancel", "{}"),
        ("refund", r#"{"refund":"R-9","amount":1}"#),
        ("refund-remainder", r#"{"refund":"R-9"}"#),
        ("confirm-reservation", "{}"),
        ("reject-reservation", r#"{"sku":"a","quantity":2,"available":1}"#),
        ("expire-payment", "{}"),
        ("expire-shipment", "{}"),
    ];
    let mut met = std::collections::BTreeSet::new();
    for (status, events) in paths() {
        for (command, body) in commands {
            let then = order(events.clone()).when_effect(command, body);
            let refusal = REFUSALS.iter().find(|each| each.0 == command && each.1 == status.as_str());
            match (then.result(), refusal) {
                (Err(rejection), Some((_, _, code))) => {
                    assert_eq!(rejection.code, *code);
                    assert_eq!(*code, format!("{command}-while-{status}"));
                    met.insert(*code);
                }
                (Err(rejection), None) => {
                    assert_eq!(rejection.code, "refund-without-payment", "{command} while {status}");
                }
                (Ok(events), Some(_)) => panic!("{command} while {status} led to {events:?}"),
                (Ok(_), None) => {}
            }
        }
    }
    assert_eq!(met.len(), REFUSALS.len(), "the table lists a step that is not refused");
}

#[test]
fn nothing_can_be_asked_of_an_order_that_was_not_placed() {
    for (command, body) in [
        ("pay", PAY),
        ("ship", SHIP),
        ("deliver", ""),
        ("cancel", ""),
        ("refund", r#"{"refund":"R","amount":1}"#),
        ("refund-remainder", r#"{"refund":"R"}"#),
        ("confirm-reservation", ""),
        ("reject-reservation", r#"{"sku":"a","quantity":2,"available":1}"#),
        ("expire-payment", ""),
        ("expire-shipment", ""),
    ] {
        order([]).when_effect(command, body).then_rejected("order-not-placed");
    }
}

#[test]
fn order_goes_from_placed_to_delivered() {
    order([])
        .when_typed("place", PLACE)
        .then([placed()])
        .when_effect("confirm-reservation", "")
        .then([reserved()])
        .when_typed("pay", PAY)
        .then([paid()])
        .when_typed("ship", SHIP)
        .then([shipped()])
        .when_typed("deliver", "")
        .then([OrderEvent::Delivered(OrderDelivered { happened_at: None })]);
}

#[test]
fn every_step_repeated_changes_nothing() {
    let delivered = OrderEvent::Delivered(OrderDelivered { happened_at: None });
    order([placed(), reserved(), paid(), shipped(), delivered])
        .when_typed("place", PLACE)
        .then_nothing()
        .when_typed("pay", PAY)
        .then_nothing()
        .when_typed("ship", SHIP)
        .then_nothing()
        .when_typed("deliver", "")
        .then_nothing()
        .when_typed("refund", r#"{"refund":"R","amount":1099}"#)
        .then([refunded("R", 1099, true)])
        .when_typed("refund", r#"{"refund":"R","amount":1099}"#)
        .then_nothing()
        .when_typed("deliver", "")
        .then_nothing()
        .when_typed("pay", PAY)
        .then_nothing();
}

#[test]
fn same_id_with_other_content_is_refused() {
    order([placed(), reserved(), paid(), shipped(), refunded("R", 5, false)])
        .when_typed("place", &PLACE.replace("anna", "berta"))
        .then_rejected("order-differs")
        .when_typed("pay", &PAY.replace("1099", "1098"))
        .then_rejected("payment-differs")
        .when_typed("ship", r#"{"shipment":"S-1"}"#)
        .then_rejected("shipment-differs")
        .when_typed("refund", r#"{"refund":"R","amount":6}"#)
        .then_rejected("refund-differs");
}

#[test]
fn payment_must_be_the_orders_amount_in_its_currency() {
    order([placed(), reserved()])
        .when_typed("pay", &PAY.replace("1099", "1098"))
        .then_rejected("payment-amount-differs")
        .when_typed("pay", &PAY.replace("USD", "EUR"))
        .then_rejected("currency-differs");
}

#[test]
fn cancelled_order_says_why_and_what_is_to_be_refunded() {
    let requested = CancellationCause::Requested;
    order([placed()])
        .when_typed("cancel", r#"{"reason":"changed my mind"}"#)
        .then([cancellation(requested, Some("changed my mind"), 0)])
        .when_typed("cancel", "")
        .then_nothing();
    order([placed(), reserved(), paid()])
        .when_typed("cancel", "")
        .then([cancellation(requested, None, 1099)])
        .when_typed("refund", r#"{"refund":"R","amount":1099}"#)
        .then([refunded("R", 1099, true)])
        .when_typed("cancel", "")
        .then_nothing();
}

#[test]
fn failing_steps_cancel_the_order() {
    let refused = cancellation(CancellationCause::ReservationRefused, Some("2 of a ordered, 1 available"), 0);
    let body = r#"{"sku":"a","quantity":2,"available":1}"#;
    order([placed()])
        .when_effect("reject-reservation", body)
        .then([refused])
        .when_effect("reject-reservation", body)
        .then_nothing();
    for events in [vec![placed()], vec![placed(), reserved()]] {
        order(events)
            .when_effect("expire-payment", "")
            .then([cancellation(CancellationCause::PaymentExpired, None, 0)])
            .when_effect("expire-payment", "")
            .then_nothing();
    }
    order([placed(), reserved(), paid()])
        .when_effect("expire-payment", "")
        .then_nothing()
        .when_effect("expire-shipment", "")
        .then([cancellation(CancellationCause::ShipmentExpired, None, 1099)])
        .when_effect("expire-shipment", "")
        .then_nothing();
}

#[test]
fn refunds_never_exceed_the_payment() {
    order([placed(), reserved(), paid(), shipped()])
        .when_typed("refund", r#"{"refund":"R-1","amount":99}"#)
        .then([refunded("R-1", 99, false)])
        .when_typed("refund", r#"{"refund":"R-2","amount":1001}"#)
        .then_rejected("refund-exceeds-payment")
        .when_typed("refund", r#"{"refund":"R-2","amount":0}"#)
        .then_rejected("refund-not-positive")
        .when_typed("refund", r#"{"refund":"R-2","amount":1000}"#)
        .then([refunded("R-2", 1000, true)])
        .when_typed("refund", r#"{"refund":"R-3","amount":1}"#)
        .then_rejected("refund-while-refunded");
}

#[test]
fn remainder_is_what_is_left_when_it_is_decided() {
    let cancelled = || cancellation(CancellationCause::Requested, None, 1099);
    order([placed(), reserved(), paid(), cancelled(), refunded("R-1", 99, false)])
        .when_typed("refund-remainder", r#"{"refund":"cancellation"}"#)
        .then([refunded("cancellation", 1000, true)])
        .when_typed("refund-remainder", r#"{"refund":"cancellation"}"#)
        .then_nothing()
        .when_typed("refund-remainder", r#"{"refund":"R-2"}"#)
        .then_nothing();
    order([placed(), cancellation(CancellationCause::Requested, None, 0)])
        .when_typed("refund-remainder", r#"{"refund":"R"}"#)
        .then_nothing();
    order([placed(), reserved(), paid()])
        .when_typed("refund-remainder", r#"{"refund":"R"}"#)
        .then_rejected("refund-remainder-while-paid");
    order([placed(), reserved(), paid(), cancelled()])
        .when_typed("refund-remainder", r#"{"refund":""}"#)
        .then_rejected("refund-not-allowed");
}

#[test]
fn bad_fields_are_refused_by_name() {
    for (from, to, code) in [
        ("anna", "Anna Smith", "customer-not-allowed"),
        ("2506", "", "location-not-allowed"),
        ("2506", "25:06", "stock-id-malformed"),
        ("USD", "$", "currency-malformed"),
        (r#""a""#, r#""a b""#, "sku-not-allowed"),
        (r#""quantity":2"#, r#""quantity":0"#, "quantity-not-positive"),
        (r#""quantity":2"#, r#""quantity":1000000001"#, "quantity-too-large"),
        ("500", "-500", "price-negative"),
        ("500", "1000000000000000", "amount-too-large"),
    ] {
        order([]).when_typed("place", &PLACE.replace(from, to)).then_rejected(code);
    }
    let body = r#"{"customer":"a","location":"b","currency":"USD","lines":[]}"#;
    order([]).when_typed("place", body).then_rejected("lines-empty");
    let given = || order([placed(), reserved(), paid()]);
    given().when_typed("pay", &PAY.replace("P-1", "")).then_rejected("payment-not-allowed");
    given().when_typed("ship", r#"{"shipment":""}"#).then_rejected("shipment-not-allowed");
    given().when_typed("ship", r#"{"shipment":"S","carrier":" "}"#).then_rejected("name-blank");
    given().when_typed("cancel", r#"{"reason":" "}"#).then_rejected("name-blank");
    given().when_typed("refund", r#"{"refund":"\n","amount":1}"#).then_rejected("refund-not-allowed");
}

#[test]
fn lines_are_bounded_and_one_skus_lines_count_together() {
    let place = |lines: Vec<OrderLine>| {
        let (customer, location, currency) = ("anna".into(), "2506".into(), "USD".into());
        OrderCommand::Place(PlaceOrder { customer, location, currency, lines, happened_at: None })
    };
    order([]).when(&place(vec![line("a", QUANTITY_MAX, 0); 2])).then_rejected("quantity-too-large");
    order([]).when(&place(vec![line("a", 1, 1); LINES_MAX + 1])).then_rejected("lines-too-many");
    order([]).when(&place(vec![line("a", 1, 1); LINES_MAX])).then_accepted();
}

/// An order of 2018 waited for a reservation, and was cancelled for want of stock.
#[test]
fn an_order_of_the_past_is_recorded_step_by_step_without_a_reservation() {
    let at = |body: &str, moment: &str| body.replacen('{', &format!("{{\"happened_at\":\"{moment}\","), 1);
    let moment = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    let OrderEvent::Placed(known) = placed() else { unreachable!("it is placed") };
    let placed = OrderEvent::Placed(OrderPlaced { happened_at: moment("1965-03-01T10:00:00Z"), ..known });
    let paid = OrderEvent::Paid(OrderPaid {
        payment: "P-1".into(),
        amount: 1099,
        currency: dollars(),
        happened_at: moment("1965-03-02T10:00:00Z"),
    });
    let delivered = OrderEvent::Delivered(OrderDelivered { happened_at: moment("1965-03-05T10:00:00Z") });
    order([])
        .when_typed("place", &at(PLACE, "1965-03-01T12:00:00+02:00"))
        .then([placed.clone()])
        .when_typed("place", &at(PLACE, "1965-03-01T10:00:00Z"))
        .then_nothing()
        .when_typed("pay", &at(PAY, "1965-03-02T10:00:00Z"))
        .then([paid.clone()])
        .when_typed("ship", SHIP)
        .then([shipped()])
        .when_typed("deliver", r#"{"happened_at":"1965-03-05T10:00:00Z"}"#)
        .then([delivered]);
    order([placed.clone()]).when_typed("place", PLACE).then_rejected("order-differs");
    order([placed.clone(), paid]).when_typed("pay", PAY).then_rejected("payment-differs");
    order([placed]).when_typed("ship", SHIP).then_rejected("ship-while-placed");
    order([self::placed()])
        .when_typed("pay", &at(PAY, "1965-03-02T10:00:00Z"))
        .then_rejected("pay-while-placed");
}

/// An order of the past was paid before it was placed.
#[test]
fn nothing_happens_to_an_order_before_it_is_placed() {
    let OrderEvent::Placed(known) = placed() else { unreachable!() };
    let happened_at = Some("1965-03-01T10:00:00Z".parse::<Timestamp>().unwrap());
    let placed = OrderEvent::Placed(OrderPlaced { happened_at, ..known });
    let at = |body: &str, moment: &str| body.replacen('{', &format!("{{\"happened_at\":\"{moment}\","), 1);
    order([placed.clone()])
        .when_typed("pay", &at(PAY, "1965-03-01T09:59:59Z"))
        .then_rejected("moment-before-order");
    let cancel = r#"{"happened_at":"1965-03-01T09:59:59Z"}"#;
    order([placed]).when_typed("cancel", cancel).then_rejected("moment-before-order");
}

#[test]
fn a_moment_is_one_and_has_come() {
    for (moment, code) in [
        ("1965-03-01", "moment-malformed"),
        ("yesterday", "moment-malformed"),
        ("9000-01-01T00:00:00Z", "moment-in-the-future"),
    ] {
        let body = PLACE.replacen('{', &format!("{{\"happened_at\":\"{moment}\","), 1);
        order([]).when_typed("place", &body).then_rejected(code);
    }
}
