//! `product.<sku>`: what an item is called, who supplies it, what it costs.
//!
//! A registration says from which business date on it holds; it stays in force until the date of the one with the next
//! later date. A discontinued product keeps its past; registering it again reinstates it. Stock and sales know nothing
//! of these rules: what was sold was sold.

use millstream::{
    decider::{Decider, DecisionContext, Rejection, rejections_of},
    values::{
        business_date::BusinessDate,
        money::{Currency, check_price},
        reference::{check_name, check_reference},
    },
};
use serde::{Deserialize, Serialize};

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

millstream::commands! {
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

millstream::events! {
    /// What can happen to a product.
    pub enum ProductEvent of "product" {
        Registered(ProductRegistered) = "product-registered" v 1,
        Repriced(ProductRepriced) = "product-repriced" v 1,
        Discontinued(ProductDiscontinued) = "product-discontinued" v 1,
    }
}

const REJECTIONS: &[(&str, &[&str])] = &[
    ("register", &["name-blank", "name-too-long", "supplier-not-allowed", "date-malformed"]),
    (
        "reprice",
        &[
            "product-not-registered",
            "product-discontinued",
            "currency-malformed",
            "price-negative",
            "amount-too-large",
        ],
    ),
    ("discontinue", &["product-not-registered"]),
];

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

    fn rejections() -> Vec<(&'static str, &'static str)> {
        rejections_of(REJECTIONS).collect()
    }

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
    let effective_from = given_date.or_else(|| (!is_first).then(|| BusinessDate::today(context)));
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
mod tests;
