//! The rules of a stock, one by one.

use millstream::testing::given_when_then::{Given, given};

use super::{reserving::reserved, *};

const TODAY: &str = "2026-03-01";

fn date(text: &str) -> BusinessDate {
    text.parse().unwrap()
}

fn received(quantity: i64, reference: Option<&str>) -> StockEvent {
    let reference = reference.map(str::to_owned);
    StockEvent::Received(StockReceived { quantity, reference, business_date: date(TODAY) })
}

fn issued(quantity: i64, reference: Option<&str>, reserved: i64, below_zero: bool) -> StockEvent {
    let reference = reference.map(str::to_owned);
    StockEvent::Issued(StockIssued { quantity, reference, reserved, below_zero, business_date: date(TODAY) })
}

fn refused(reservation: &str, quantity: i64, available: i64) -> StockEvent {
    StockEvent::ReservationRefused(ReservationRefused {
        reservation: reservation.into(),
        quantity,
        available,
    })
}

fn released(reservation: &str, quantity: i64) -> StockEvent {
    StockEvent::ReservationReleased(ReservationReleased { reservation: reservation.into(), quantity })
}

fn stock(events: impl IntoIterator<Item = StockEvent>) -> Given<Stock> {
    given::<Stock>("2506:75087", events).at("2026-03-01T10:00:00Z")
}

#[test]
fn id_is_a_location_and_a_sku() {
    assert_eq!(StockId::parse("2506:a:b").unwrap(), StockId { location: "2506".into(), sku: "a:b".into() });
    for id in ["75087", ":75087", "2506:"] {
        given::<Stock>(id, []).when_typed("receive", r#"{"quantity":1}"#).then_rejected("stock-id-malformed");
    }
}

#[test]
fn only_ids_that_read_back_are_joined() {
    assert_eq!(StockId::join("2506", "a:b").as_deref(), Some("2506:a:b"));
    assert_eq!(StockId::join("25:06", "a"), None);
    assert_eq!(StockId::join("", "a"), None);
    assert_eq!(StockId::join("a", ""), None);
    assert_eq!(StockId::join(&"a".repeat(64), &"b".repeat(64)), None);
}

#[test]
fn units_come_and_go() {
    stock([])
        .when_typed("receive", r#"{"quantity":5}"#)
        .then([received(5, None)])
        .when_typed("receive", r#"{"quantity":5}"#)
        .then([received(5, None)])
        .when_typed("issue", r#"{"quantity":10}"#)
        .then([issued(10, None, 0, false)]);
}

#[test]
fn issue_below_zero_happens_and_is_flagged() {
    stock([received(1, None)])
        .when_typed("issue", r#"{"quantity":3}"#)
        .then([issued(3, None, 0, true)])
        .when_typed("receive", r#"{"quantity":3}"#)
        .then([received(3, None)])
        .when_typed("issue", r#"{"quantity":1}"#)
        .then([issued(1, None, 0, false)]);
}

#[test]
fn reference_repeated_with_the_same_content_changes_nothing() {
    stock([])
        .when_typed("receive", r#"{"quantity":5,"reference":"delivery D/1"}"#)
        .then([received(5, Some("delivery D/1"))])
        .when_typed("receive", r#"{"quantity":5,"reference":"delivery D/1"}"#)
        .then_nothing()
        .at("2026-03-09T10:00:00Z")
        .when_typed("receive", r#"{"quantity":5,"reference":"delivery D/1"}"#)
        .then_nothing()
        .when_typed("receive", r#"{"quantity":5,"reference":"delivery D/1","business_date":"2026-03-01"}"#)
        .then_nothing()
        .when_typed("receive", r#"{"quantity":5,"reference":"delivery D/1","business_date":"2026-03-09"}"#)
        .then_rejected("reference-differs")
        .when_typed("receive", r#"{"quantity":6,"reference":"delivery D/1"}"#)
        .then_rejected("reference-differs")
        .at("2026-03-01T10:00:00Z")
        .when_typed("issue", r#"{"quantity":5,"reference":"delivery D/1"}"#)
        .then([issued(5, Some("delivery D/1"), 0, false)])
        .when_typed("issue", r#"{"quantity":5,"reference":"delivery D/1"}"#)
        .then_nothing()
        .when_typed("issue", r#"{"quantity":4,"reference":"delivery D/1"}"#)
        .then_rejected("reference-differs");
}

#[test]
fn movement_counts_for_the_day_it_names() {
    let event = |business_date| {
        StockEvent::Received(StockReceived {
            quantity: 1,
            reference: None,
            business_date: date(business_date),
        })
    };
    stock([])
        .when_typed("receive", r#"{"quantity":1,"business_date":"2012-01-31"}"#)
        .then([event("2012-01-31")])
        .when_typed("receive", r#"{"quantity":1,"business_date":"yesterday"}"#)
        .then_rejected("date-malformed");
}

#[test]
fn the_day_of_a_movement_begins_in_the_time_zone_of_the_company() {
    let event = |business_date| {
        StockEvent::Received(StockReceived {
            quantity: 1,
            reference: None,
            business_date: date(business_date),
        })
    };
    let evening = "2026-03-01T23:00:00Z";
    for (zone, date) in
        [("UTC", "2026-03-01"), ("Europe/Berlin", "2026-03-02"), ("America/New_York", "2026-03-01")]
    {
        stock([])
            .at(evening)
            .in_time_zone(zone)
            .when_typed("receive", r#"{"quantity":1}"#)
            .then([event(date)]);
    }
}

#[test]
fn reservation_is_refused_beyond_what_is_available() {
    stock([received(5, None), reserved("R-1", 3, false)])
        .when_typed("reserve", r#"{"reservation":"R-2","quantity":3}"#)
        .then_rejected("stock-not-available")
        .when_typed("reserve", r#"{"reservation":"R-2","quantity":2}"#)
        .then([reserved("R-2", 2, false)])
        .when_typed("reserve", r#"{"reservation":"R-2","quantity":2}"#)
        .then_nothing()
        .when_typed("reserve", r#"{"reservation":"R-2","quantity":1}"#)
        .then_rejected("reservation-differs");
}

#[test]
fn reserved_units_can_still_be_sold_over_the_counter() {
    stock([received(5, None), reserved("R-1", 5, false)])
        .when_typed("issue", r#"{"quantity":2}"#)
        .then([issued(2, None, 0, false)])
        .when_typed("reserve", r#"{"reservation":"R-2","quantity":1}"#)
        .then_rejected("stock-not-available");
}

#[test]
fn released_units_are_available_again_and_the_reservation_stays_ended() {
    stock([received(5, None), reserved("R-1", 5, false)])
        .when_typed("release", r#"{"reservation":"R-1"}"#)
        .then([released("R-1", 5)])
        .when_typed("release", r#"{"reservation":"R-1"}"#)
        .then_nothing()
        .when_typed("reserve", r#"{"reservation":"R-1","quantity":5}"#)
        .then_rejected("reservation-closed")
        .when_typed("reserve", r#"{"reservation":"R-2","quantity":5}"#)
        .then([reserved("R-2", 5, false)])
        .when_typed("release", r#"{"reservation":"R-9"}"#)
        .then_rejected("reservation-unknown");
}

#[test]
fn issue_that_names_a_reservation_ends_it() {
    stock([received(5, None), reserved("R-1", 3, false)])
        .when_typed("issue", r#"{"quantity":4,"reference":"R-1"}"#)
        .then_rejected("issue-exceeds-reservation")
        .when_typed("issue", r#"{"quantity":2,"reference":"R-1"}"#)
        .then([issued(2, Some("R-1"), 3, false)])
        .when_typed("issue", r#"{"quantity":2,"reference":"R-1"}"#)
        .then_nothing()
        .when_typed("release", r#"{"reservation":"R-1"}"#)
        .then_rejected("reservation-issued")
        .when_typed("reserve", r#"{"reservation":"R-2","quantity":3}"#)
        .then([reserved("R-2", 3, false)]);
}

#[test]
fn request_is_answered_by_an_event_whether_granted_or_not() {
    stock([received(5, None)])
        .when_effect("request-reservation", r#"{"reservation":"order:1","quantity":3}"#)
        .then([reserved("order:1", 3, true)])
        .when_effect("request-reservation", r#"{"reservation":"order:2","quantity":3}"#)
        .then([refused("order:2", 3, 2)]);
}

#[test]
fn request_repeated_changes_nothing_whatever_became_of_it() {
    let one = r#"{"reservation":"order:1","quantity":3}"#;
    let two = r#"{"reservation":"order:2","quantity":3}"#;
    stock([received(5, None), reserved("order:1", 3, true), refused("order:2", 3, 2)])
        .when_effect("request-reservation", one)
        .then_nothing()
        .when_effect("request-reservation", two)
        .then_nothing()
        .when_typed("release", r#"{"reservation":"order:1"}"#)
        .then([released("order:1", 3)])
        .when_effect("request-reservation", one)
        .then_nothing()
        .when_effect("request-reservation", two)
        .then_nothing()
        .when_effect("request-reservation", r#"{"reservation":"order:1","quantity":2}"#)
        .then_rejected("reservation-differs")
        .when_typed("release", r#"{"reservation":"order:2"}"#)
        .then_rejected("reservation-unknown");
}

#[test]
fn request_under_the_id_of_a_persons_reservation_is_refused() {
    stock([received(5, None), reserved("order:1", 3, false)])
        .when_effect("request-reservation", r#"{"reservation":"order:1","quantity":3}"#)
        .then_rejected("reservation-differs");
}

#[test]
fn stocktake_sets_the_stock_to_what_was_counted() {
    let adjusted = |counted, change, reason: Option<&str>| {
        StockEvent::Adjusted(StockAdjusted {
            counted,
            change,
            reason: reason.map(str::to_owned),
            business_date: date(TODAY),
        })
    };
    stock([received(5, None), issued(7, None, 0, true)])
        .when_typed("adjust", r#"{"counted":4,"reason":"found a box"}"#)
        .then([adjusted(4, 6, Some("found a box"))])
        .when_typed("adjust", r#"{"counted":4}"#)
        .then_nothing()
        .when_typed("adjust", r#"{"counted":1}"#)
        .then([adjusted(1, -3, None)])
        .when_typed("adjust", r#"{"counted":-1}"#)
        .then_rejected("count-negative");
}

#[test]
fn stocktake_below_what_is_reserved_leaves_nothing_available() {
    let given = stock([received(5, None), reserved("R-1", 4, false)]);
    let given = given.when_typed("adjust", r#"{"counted":1}"#).then_accepted();
    assert_eq!(given.state().available(), -3);
    given.when_typed("reserve", r#"{"reservation":"R-2","quantity":1}"#).then_rejected("stock-not-available");
}

#[test]
fn minimum_is_set_once() {
    stock([])
        .when_typed("set-minimum", r#"{"minimum":3}"#)
        .then([StockEvent::MinimumSet(StockMinimumSet { minimum: 3 })])
        .when_typed("set-minimum", r#"{"minimum":3}"#)
        .then_nothing()
        .when_typed("set-minimum", r#"{"minimum":0}"#)
        .then_accepted()
        .when_typed("set-minimum", r#"{"minimum":-1}"#)
        .then_rejected("count-negative")
        .when_typed("set-minimum", r#"{"minimum":1000000001}"#)
        .then_rejected("quantity-too-large");
}

#[test]
fn bad_fields_are_refused_by_name() {
    for (command, body, code) in [
        ("receive", r#"{"quantity":0}"#, "quantity-not-positive"),
        ("issue", r#"{"quantity":1000000001}"#, "quantity-too-large"),
        ("receive", r#"{"quantity":1,"reference":" "}"#, "reference-not-allowed"),
        ("issue", r#"{"quantity":1,"reference":""}"#, "reference-not-allowed"),
        ("reserve", r#"{"reservation":"","quantity":1}"#, "reservation-not-allowed"),
        ("adjust", r#"{"counted":1,"reason":""}"#, "name-blank"),
    ] {
        stock([]).when_typed(command, body).then_rejected(code);
    }
    stock([])
        .when_effect("request-reservation", r#"{"reservation":"a","quantity":-1}"#)
        .then_rejected("quantity-not-positive");
}
