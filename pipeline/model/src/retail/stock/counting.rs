//! The rules of counts: what a stocktake finds, and the minimum below which a stock is low.

use millstream::{
    decider::{DecisionContext, Rejection},
    values::{business_date::BusinessDate, money::QUANTITY_MAX, reference::check_name},
};

use super::{AdjustStock, SetMinimum, StockAdjusted, StockEvent, StockMinimumSet, StockState};

pub(super) fn decide_adjust(
    state: &StockState,
    adjust: &AdjustStock,
    context: &DecisionContext<'_>,
) -> Result<Vec<StockEvent>, Rejection> {
    check_count("count", context.aggregate_id, adjust.counted)?;
    adjust.reason.as_deref().map_or(Ok(()), |reason| check_name("reason", reason))?;
    let given = adjust.business_date.as_deref().map(BusinessDate::parse).transpose()?;
    if adjust.counted == state.on_hand {
        return Ok(vec![]);
    }
    Ok(vec![StockEvent::Adjusted(StockAdjusted {
        counted: adjust.counted,
        change: adjust.counted.saturating_sub(state.on_hand),
        reason: adjust.reason.clone(),
        business_date: given.unwrap_or_else(|| BusinessDate::today(context)),
    })])
}

pub(super) fn decide_minimum(
    state: &StockState,
    set: &SetMinimum,
    context: &DecisionContext<'_>,
) -> Result<Vec<StockEvent>, Rejection> {
    check_count("minimum", context.aggregate_id, set.minimum)?;
    if state.minimum == Some(set.minimum) {
        return Ok(vec![]);
    }
    Ok(vec![StockEvent::MinimumSet(StockMinimumSet { minimum: set.minimum })])
}

fn check_count(what: &str, stock: &str, count: i64) -> Result<(), Rejection> {
    if count < 0 {
        let message = format!("the {what} of stock {stock} is {count}; give 0 or more");
        return Err(Rejection::new("count-negative", message));
    }
    if count > QUANTITY_MAX {
        let message = format!("the {what} of stock {stock} is {count}; at most {QUANTITY_MAX} are allowed");
        return Err(Rejection::new("quantity-too-large", message));
    }
    Ok(())
}
