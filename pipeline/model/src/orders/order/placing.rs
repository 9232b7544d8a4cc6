//! The rules of placing an order: what it may ask for.

use std::collections::BTreeMap;

use millstream::{
    decider::{DecisionContext, Rejection},
    values::{
        money::{Currency, QUANTITY_MAX, check_price, check_quantity, total},
        reference::check_reference,
    },
};

use super::{OrderEvent, OrderLine, OrderPlaced, PlaceOrder, recorded_afterwards, rejections::differs};
use crate::{lines::check_line_count, retail::stock::StockId};

pub(super) fn decide_place(
    placed: Option<&OrderPlaced>,
    place: &PlaceOrder,
    context: &DecisionContext<'_>,
) -> Result<Vec<OrderEvent>, Rejection> {
    let order = context.aggregate_id;
    check_reference("customer-not-allowed", "customer", &place.customer)?;
    check_reference("location-not-allowed", "location", &place.location)?;
    let currency = Currency::parse(&place.currency)?;
    let happened_at = recorded_afterwards::moment(place.happened_at.as_deref(), context)?;
    if let Some(placed) = placed {
        let same = placed.customer == place.customer
            && placed.location == place.location
            && placed.currency == currency
            && placed.lines == place.lines
            && placed.happened_at == happened_at;
        return if same { Ok(vec![]) } else { Err(differs("order-differs", "what was placed", order)) };
    }
    let amount = check_lines(order, place)?;
    Ok(vec![OrderEvent::Placed(OrderPlaced {
        customer: place.customer.clone(),
        location: place.location.clone(),
        currency,
        lines: place.lines.clone(),
        amount,
        happened_at,
    })])
}

fn check_lines(order: &str, place: &PlaceOrder) -> Result<i64, Rejection> {
    let (what, lines) = (format!("order {order}"), &place.lines);
    check_line_count(&what, lines.len())?;
    for line in lines {
        check_reference("sku-not-allowed", "sku", &line.sku)?;
        check_quantity(&format!("{} in {what}", line.sku), line.quantity)?;
        check_price(&format!("{} in {what}", line.sku), line.unit_price)?;
        StockId::check_line(&place.location, &line.sku)?;
    }
    for (sku, quantity) in units_by_sku(lines) {
        check_quantity(&format!("all {sku} in {what}"), quantity)?;
    }
    total(&what, lines.iter().map(|line| (line.quantity, line.unit_price)))
}

/// How many units of each item are ordered.
pub(in crate::orders) fn units_by_sku(lines: &[OrderLine]) -> BTreeMap<&str, i64> {
    // Quantities are checked, and so are lines; the bound only keeps the sum of foreign events from overflowing.
    let mut units: BTreeMap<&str, i64> = BTreeMap::new();
    for line in lines {
        let sum = units.entry(&line.sku).or_default();
        *sum = sum.saturating_add(line.quantity).min(QUANTITY_MAX.saturating_add(1));
    }
    units
}
