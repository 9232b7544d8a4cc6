//! `product.<sku>`: what an item is called, who supplies it, what it costs.
//!
//! A registration says from which business date on it holds; it stays in force until the date of the one with the next
//! later date. A discontinued product keeps its past; registering it again reinstates it. Stock and sales know nothing
//! of these rules: what was sold was sold.

use millstream_engine::decider::{Decider, DecisionContext, Rejection};
use serde::{Deserialize, Serialize};

use crate::{
    business_date::BusinessDate,
    money::{Currency, check_price},
    reference::{check_name, check_reference},
};

/// Says what a product is. The same content again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterProduct {
    /// What people call it.
    pub name: String,
    /// Id of the supplier whose report its sales count for.
    pub supplier: String,
    /// What people call the supplier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supplier_name: Option<String>,
    /// Business date from which on this holds. Without it a first registration holds for all dates, and a later one
    /// from the date (UTC) on which it is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<String>,
}

/// Sets the price of one unit. The same price again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepriceProduct {
    /// In minor units of `currency`.
    pub unit_price: i64,
    /// ISO 4217 code.
    pub currency: String,
}

/// Takes it out of the range. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscontinueProduct {}

millstream_engine::commands! {
    /// What can be asked of a product.
    pub enum ProductCommand {
        Register(RegisterProduct) = "register",
        Reprice(RepriceProduct) = "reprice",
        Discontinue(DiscontinueProduct) = "discontinue",
    }
}

/// It was registered, for the first time or with other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductRegistered {
    /// What people call it.
    pub name: String,
    /// Id of the supplier.
    pub supplier: String,
    /// What people call the supplier.
    pub supplier_name: Option<String>,
    /// First business date for which it holds; all dates when absent.
    pub effective_from: Option<BusinessDate>,
}

/// Its price was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductRepriced {
    /// In minor units of `currency`.
    pub unit_price: i64,
    /// ISO 4217 code.
    pub currency: Currency,
}

/// It was taken out of the range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductDiscontinued {}

millstream_engine::events! {
    /// What can happen to a product.
    pub enum ProductEvent of "product" {
        Registered(ProductRegistered) = "product-registered" v 1,
        Repriced(ProductRepriced) = "product-repriced" v 1,
        Discontinued(ProductDiscontinued) = "product-discontinued" v 1,
    }
}

fn not_registered(sku: &str) -> Rejection {
    Rejection::new("product-not-registered", format!("product {sku} is not registered; register it first"))
}

fn is_discontinued(sku: &str) -> Rejection {
    let message = format!("product {sku} is discontinued; register it again to bring it back");
    Rejection::new("product-discontinued", message)
}

/// What the rules need to know of a product.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductState {
    registration: Option<ProductRegistered>,
    price: Option<(i64, Currency)>,
    discontinued: bool,
}

/// The rules of `product.<sku>`.
#[derive(Debug)]
pub struct Product;

impl Decider for Product {
    type Command = ProductCommand;
    type Event = ProductEvent;
    type State = ProductState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "product";

    fn decide(
        state: &ProductState,
        command: &ProductCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<ProductEvent>, Rejection> {
        match command {
            ProductCommand::Register(register) => decide_register(state, register, context),
            ProductCommand::Reprice(reprice) => decide_reprice(state, reprice, context),
            ProductCommand::Discontinue(_) => match (&state.registration, state.discontinued) {
                (None, _) => Err(not_registered(context.aggregate_id)),
                (Some(_), true) => Ok(vec![]),
                (Some(_), false) => Ok(vec![ProductEvent::Discontinued(ProductDiscontinued {})]),
            },
        }
    }

    fn evolve(state: &mut ProductState, event: &ProductEvent) {
        match event {
            ProductEvent::Registered(registered) => {
                state.registration = Some(registered.clone());
                state.discontinued = false;
            }
            ProductEvent::Repriced(repriced) => state.price = Some((repriced.unit_price, repriced.currency)),
            ProductEvent::Discontinued(_) => state.discontinued = true,
        }
    }
}

fn decide_register(
    state: &ProductState,
    register: &RegisterProduct,
    context: &DecisionContext<'_>,
) -> Result<Vec<ProductEvent>, Rejection> {
    check_name("name", &register.name)?;
    check_reference("supplier-not-allowed", "supplier", &register.supplier)?;
    register.supplier_name.as_deref().map_or(Ok(()), |name| check_name("supplier_name", name))?;
    let given_date = register.effective_from.as_deref().map(BusinessDate::parse).transpose()?;

    let current = state.registration.as_ref().filter(|_| !state.discontinued);
    if current.is_some_and(|current| says_the_same(current, register, given_date)) {
        return Ok(vec![]);
    }
    let is_first = state.registration.is_none();
    let effective_from = given_date.or_else(|| (!is_first).then(|| BusinessDate::of_utc(context.now)));
    Ok(vec![ProductEvent::Registered(ProductRegistered {
        name: register.name.clone(),
        supplier: register.supplier.clone(),
        supplier_name: register.supplier_name.clone(),
        effective_from,
    })])
}

/// A command without a date repeats a registration of any date.
fn says_the_same(
    current: &ProductRegistered,
    register: &RegisterProduct,
    given_date: Option<BusinessDate>,
) -> bool {
    current.name == register.name
        && current.supplier == register.supplier
        && current.supplier_name == register.supplier_name
        && (given_date.is_none() || given_date == current.effective_from)
}

fn decide_reprice(
    state: &ProductState,
    reprice: &RepriceProduct,
    context: &DecisionContext<'_>,
) -> Result<Vec<ProductEvent>, Rejection> {
    if state.registration.is_none() {
        return Err(not_registered(context.aggregate_id));
    }
    if state.discontinued {
        return Err(is_discontinued(context.aggregate_id));
    }
    let currency = Currency::parse(&reprice.currency)?;
    check_price(&format!("product {}", context.aggregate_id), reprice.unit_price)?;
    if state.price == Some((reprice.unit_price, currency)) {
        return Ok(vec![]);
    }
    Ok(vec![ProductEvent::Repriced(ProductRepriced { unit_price: reprice.unit_price, currency })])
}

#[cfg(test)]
mod tests {
    use millstream_engine::testing::given_when_then::{Given, given};

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
        let body =
            r#"{"name":"Gin","supplier":"other","supplier_name":"Luxco","effective_from":"2012-01-31"}"#;
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
}
