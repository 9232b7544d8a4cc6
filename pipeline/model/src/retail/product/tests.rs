//! The rules of a product, one by one.

use millstream::testing::given_when_then::{Given, given};

use super::*;

const GIN: &str = r#"{"name":"Gin","supplier":"luxco","supplier_name":"Luxco"}"#;

fn registered(supplier: &str, effective_from: Option<&str>) -> ProductEvent {
    ProductEvent::Registered(ProductRegistered {
        name: "Gin".into(),
        supplier: supplier.into(),
        supplier_name: Some("Luxco".into()),
        effective_from: effective_from.map(|date| date.parse().unwrap()),
    })
}

fn repriced(unit_price: i64) -> ProductEvent {
    ProductEvent::Repriced(ProductRepriced { unit_price, currency: Currency::parse("USD").unwrap() })
}

fn gin(more: impl IntoIterator<Item = ProductEvent>) -> Given<Product> {
    given::<Product>("75087", std::iter::once(registered("luxco", None)).chain(more))
        .at("2026-03-01T10:00:00Z")
}

#[test]
fn first_registration_holds_for_all_dates() {
    given::<Product>("75087", [])
        .at("2026-03-01T10:00:00Z")
        .when_typed("register", GIN)
        .then([registered("luxco", None)]);
}

#[test]
fn same_registration_again_changes_nothing() {
    gin([]).when_typed("register", GIN).then_nothing();
}

#[test]
fn other_supplier_holds_from_the_day_of_the_decision() {
    gin([])
        .when_typed("register", r#"{"name":"Gin","supplier":"other","supplier_name":"Luxco"}"#)
        .then([registered("other", Some("2026-03-01"))])
        .at("2026-03-09T10:00:00Z")
        .when_typed("register", r#"{"name":"Gin","supplier":"other","supplier_name":"Luxco"}"#)
        .then_nothing();
}

#[test]
fn registration_can_name_its_first_date() {
    let body = r#"{"name":"Gin","supplier":"other","supplier_name":"Luxco","effective_from":"2012-01-31"}"#;
    gin([])
        .when_typed("register", body)
        .then([registered("other", Some("2012-01-31"))])
        .when_typed("register", body)
        .then_nothing()
        .when_typed("register", &body.replace("01-31", "01-30"))
        .then([registered("other", Some("2012-01-30"))]);
}

#[test]
fn price_is_set_once_and_needs_a_registration() {
    let body = r#"{"unit_price":713,"currency":"USD"}"#;
    given::<Product>("75087", []).when_typed("reprice", body).then_rejected("product-not-registered");
    gin([])
        .when_typed("reprice", body)
        .then([repriced(713)])
        .when_typed("reprice", body)
        .then_nothing()
        .when_typed("reprice", r#"{"unit_price":-1,"currency":"USD"}"#)
        .then_rejected("price-negative")
        .when_typed("reprice", r#"{"unit_price":1,"currency":"dollar"}"#)
        .then_rejected("currency-malformed");
}

#[test]
fn discontinued_product_comes_back_by_registering_it() {
    given::<Product>("75087", []).when_typed("discontinue", "").then_rejected("product-not-registered");
    gin([])
        .when_typed("discontinue", "")
        .then([ProductEvent::Discontinued(ProductDiscontinued {})])
        .when_typed("discontinue", "{}")
        .then_nothing()
        .when_typed("reprice", r#"{"unit_price":1,"currency":"USD"}"#)
        .then_rejected("product-discontinued")
        .when_typed("register", GIN)
        .then([registered("luxco", Some("2026-03-01"))])
        .when_typed("reprice", r#"{"unit_price":1,"currency":"USD"}"#)
        .then([repriced(1)]);
}

#[test]
fn registration_with_bad_fields_is_refused_by_name() {
    for (body, code) in [
        (r#"{"name":" ","supplier":"luxco"}"#, "name-blank"),
        (r#"{"name":"Gin","supplier":"Luxco & Co."}"#, "supplier-not-allowed"),
        (r#"{"name":"Gin","supplier":"luxco","supplier_name":""}"#, "name-blank"),
        (r#"{"name":"Gin","supplier":"luxco","effective_from":"today"}"#, "date-malformed"),
    ] {
        given::<Product>("75087", []).when_typed("register", body).then_rejected(code);
    }
}
