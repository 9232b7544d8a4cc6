//! The rules of a till, one by one.

use millstream::testing::given_when_then::{Given, given};

use super::*;

const TILL: &str = "2506_2012-01-31";
const SALE: &str = r#"{"sale":"1","currency":"USD","lines":[{"sku":"a","quantity":3,"unit_price":250},
    {"sku":"b","quantity":1,"unit_price":0}],"sold_at":"2012-01-31T16:05:00-06:00"}"#;

fn line(sku: &str, quantity: i64, unit_price: i64) -> TillLine {
    TillLine { sku: sku.into(), quantity, unit_price }
}

fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

fn sale(id: &str, late: bool) -> TillEvent {
    TillEvent::SaleRecorded(SaleRecorded {
        sale: id.into(),
        currency: usd(),
        lines: vec![line("a", 3, 250), line("b", 1, 0)],
        sold_at: Some("2012-01-31T16:05:00-06:00".into()),
        late,
    })
}

fn returned(id: &str, sale: Option<&str>, quantity: i64) -> TillEvent {
    TillEvent::ReturnRecorded(ReturnRecorded {
        return_id: id.into(),
        sale: sale.map(str::to_owned),
        currency: usd(),
        lines: vec![line("a", quantity, 250)],
        late: false,
    })
}

fn return_body(id: &str, sale: &str, quantity: i64) -> String {
    format!(
        r#"{{"return":"{id}","sale":"{sale}","currency":"USD","lines":[{{"sku":"a","quantity":{quantity},"unit_price":250}}]}}"#
    )
}

fn closed(closing: u32) -> TillEvent {
    TillEvent::Closed(TillClosed { closing })
}

fn till(events: impl IntoIterator<Item = TillEvent>) -> Given<Till> {
    given(TILL, events)
}

#[test]
fn sale_is_recorded_once() {
    till([])
        .when_typed("record-sale", SALE)
        .then([sale("1", false)])
        .when_typed("record-sale", SALE)
        .then_nothing();
}

#[test]
fn sale_with_other_content_under_the_same_id_is_refused() {
    let other_price = SALE.replace("250", "251");
    let other_time = SALE.replace("16:05", "16:06");
    let other_currency = SALE.replace("USD", "EUR");
    for body in [other_price, other_time, other_currency] {
        till([sale("1", false)]).when_typed("record-sale", &body).then_rejected("sale-differs");
    }
}

#[test]
fn repeated_sale_changes_nothing_even_after_a_close() {
    till([sale("1", false), closed(1)]).when_typed("record-sale", SALE).then_nothing();
}

#[test]
fn sale_after_a_close_is_late_and_the_till_closes_again() {
    till([sale("1", false)])
        .when_typed("close", "")
        .then([closed(1)])
        .when_typed("close", "")
        .then_nothing()
        .when_typed("record-sale", &SALE.replace(r#""1""#, r#""2""#))
        .then([sale("2", true)])
        .when_typed("close", "")
        .then([closed(2)])
        .when_typed("close", "")
        .then_nothing();
}

#[test]
fn day_without_sales_closes_once() {
    till([]).when_typed("close", "{}").then([closed(1)]).when_typed("close", "{}").then_nothing();
}

#[test]
fn till_is_kept_in_one_currency() {
    let euros = SALE.replace(r#""1""#, r#""2""#).replace("USD", "EUR");
    till([sale("1", false)]).when_typed("record-sale", &euros).then_rejected("currency-differs");
    let back = return_body("r", "1", 1).replace("USD", "EUR");
    till([sale("1", false)]).when_typed("record-return", &back).then_rejected("currency-differs");
}

#[test]
fn return_is_recorded_once() {
    till([sale("1", false)])
        .when_typed("record-return", &return_body("r", "1", 2))
        .then([returned("r", Some("1"), 2)])
        .when_typed("record-return", &return_body("r", "1", 2))
        .then_nothing()
        .when_typed("record-return", &return_body("r", "1", 1))
        .then_rejected("return-differs");
}

#[test]
fn returns_never_pay_back_more_than_was_paid() {
    let dearer = return_body("s", "1", 1).replace("250", "251");
    let cheaper = return_body("s", "1", 1).replace("250", "200");
    till([sale("1", false)])
        .when_typed("record-return", &dearer)
        .then_rejected("refund-exceeds-sale")
        .when_typed("record-return", &cheaper)
        .then_accepted()
        .when_typed("record-return", &return_body("t", "1", 2))
        .then_accepted();
    let free =
        r#"{"return":"r","sale":"1","currency":"USD","lines":[{"sku":"b","quantity":1,"unit_price":1}]}"#;
    till([sale("1", false)]).when_typed("record-return", free).then_rejected("refund-exceeds-sale");
}

#[test]
fn units_sold_at_two_prices_come_back_at_no_more_than_both_together() {
    let two_prices = r#"{"sale":"1","currency":"USD","lines":[{"sku":"a","quantity":2,"unit_price":250},
        {"sku":"a","quantity":1,"unit_price":100}]}"#;
    till([])
        .when_typed("record-sale", two_prices)
        .then_accepted()
        .when_typed("record-return", &return_body("r", "1", 3))
        .then_rejected("refund-exceeds-sale")
        .when_typed("record-return", &return_body("r", "1", 2))
        .then_accepted()
        .when_typed("record-return", &return_body("s", "1", 1))
        .then_rejected("refund-exceeds-sale")
        .when_typed("record-return", &return_body("s", "1", 1).replace("250", "100"))
        .then_accepted();
}

#[test]
fn returns_never_exceed_their_sale() {
    till([sale("1", false), returned("r", Some("1"), 2)])
        .when_typed("record-return", &return_body("s", "1", 2))
        .then_rejected("return-exceeds-sale")
        .when_typed("record-return", &return_body("s", "1", 1).replace(r#""a""#, r#""c""#))
        .then_rejected("return-exceeds-sale")
        .when_typed("record-return", &return_body("s", "1", 1))
        .then([returned("s", Some("1"), 1)]);
}

#[test]
fn two_lines_of_one_sku_count_together_against_the_sale() {
    let body = r#"{"return":"r","sale":"1","currency":"USD","lines":[{"sku":"a","quantity":2,"unit_price":250},
        {"sku":"a","quantity":2,"unit_price":250}]}"#;
    till([sale("1", false)]).when_typed("record-return", body).then_rejected("return-exceeds-sale");
}

#[test]
fn return_of_a_sale_of_another_day_is_accepted() {
    till([]).when_typed("record-return", &return_body("r", "elsewhere", 9)).then([returned(
        "r",
        Some("elsewhere"),
        9,
    )]);
    let without_sale = return_body("r", "", 9).replace(r#""sale":"","#, "");
    till([]).when_typed("record-return", &without_sale).then([returned("r", None, 9)]);
}

#[test]
fn return_that_came_before_its_sale_counts_against_it() {
    till([returned("r", Some("1"), 2), sale("1", false)])
        .when_typed("record-return", &return_body("s", "1", 2))
        .then_rejected("return-exceeds-sale");
}

#[test]
fn sale_can_have_the_id_that_a_return_named_first() {
    till([returned("r", Some("1"), 2)]).when_typed("record-sale", SALE).then([sale("1", false)]);
}

#[test]
fn bad_fields_are_refused_by_name() {
    let lines = |sku: &str, quantity: &str, price: &str| {
        format!(
            r#"{{"sale":"1","currency":"USD","lines":[{{"sku":"{sku}","quantity":{quantity},"unit_price":{price}}}]}}"#
        )
    };
    for (body, code) in [
        (SALE.replace(r#""sale":"1""#, r#""sale":"1/2""#), "sale-not-allowed"),
        (SALE.replace("USD", "usd"), "currency-malformed"),
        (SALE.replace("2012-01-31T16", "yesterday"), "time-malformed"),
        (r#"{"sale":"1","currency":"USD","lines":[]}"#.to_owned(), "lines-empty"),
        (lines("a b", "1", "1"), "sku-not-allowed"),
        (lines("a", "0", "1"), "quantity-not-positive"),
        (lines("a", "-1", "1"), "quantity-not-positive"),
        (lines("a", "9223372036854775807", "1"), "quantity-too-large"),
        (lines("a", "1", "-1"), "price-negative"),
        (lines("a", "1", "9223372036854775807"), "amount-too-large"),
        (lines("a", "1000000", "1000000000000"), "amount-too-large"),
    ] {
        till([]).when_typed("record-sale", &body).then_rejected(code);
    }
    let body = return_body("r/1", "1", 1);
    till([]).when_typed("record-return", &body).then_rejected("return-not-allowed");
}

#[test]
fn unknown_fields_and_wrong_types_are_named() {
    use millstream::{contract::command::BodyFormat, decider::CommandSet};
    for (command, body, part) in [
        ("record-sale", r#"{"sale":"1","currency":"USD","lines":[],"till":1}"#, "till"),
        ("record-sale", r#"{"sale":1,"currency":"USD","lines":[]}"#, "sale"),
        (
            "record-sale",
            r#"{"sale":"1","currency":"USD","lines":[{"sku":"a","quantity":1.5,"unit_price":1}]}"#,
            "lines[0].quantity",
        ),
        ("record-return", r#"{"sale":"1","currency":"USD","lines":[]}"#, "return"),
        ("close", r#"{"now":true}"#, "now"),
        ("reopen", "{}", "record-sale, record-return, close"),
    ] {
        let error = TillCommand::decode(command, BodyFormat::Json, body.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn id_is_store_and_date() {
    assert_eq!(TillId::parse("main_street_2012-01-31").unwrap().store, "main_street");
    for id in ["2506", "2506_", "_2012-01-31", "2506-2012-01-31", "2506_2012-02-30", "2506_20120131"] {
        given::<Till>(id, []).when_typed("close", "").then_rejected("till-id-malformed");
    }
}
