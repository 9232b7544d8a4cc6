//! The rules of refunds: how much of a payment can be given back, and when.

use millstream::{
    decider::{DecisionContext, Rejection},
    values::reference::{check_label, check_name},
};

use super::{
    OrderEvent, OrderRefunded, OrderState, RefundOrder, RefundRemainder, recorded_afterwards,
    rejections::differs,
    status::{OrderStatus, refusal},
};

pub(super) fn decide_refund(
    state: &OrderState,
    refund: &RefundOrder,
    context: &DecisionContext<'_>,
) -> Result<Vec<OrderEvent>, Rejection> {
    let order = context.aggregate_id;
    let happened_at = recorded_afterwards::moment_of_step(state, refund.happened_at.as_deref(), context)?;
    check_label("refund-not-allowed", "refund", &refund.refund)?;
    refund.reason.as_deref().map_or(Ok(()), |reason| check_name("reason", reason))?;
    if let Some(known) = state.refunds.get(&refund.refund) {
        let same = *known == (refund.amount, refund.reason.clone(), happened_at);
        let what = format!("refund {}", refund.refund);
        return if same { Ok(vec![]) } else { Err(differs("refund-differs", &what, order)) };
    }
    match state.status {
        OrderStatus::Shipped | OrderStatus::Delivered => {}
        OrderStatus::Cancelled if state.payment.is_some() => {}
        OrderStatus::Cancelled => {
            let message =
                format!("order {order} was cancelled before it was paid; there is nothing to refund");
            return Err(Rejection::new("refund-without-payment", message));
        }
        status => return Err(refusal("refund", status, order)),
    }
    let left = state.refundable_amount();
    if refund.amount < 1 {
        let message = format!("refund {} is of {}; give 1 or more", refund.refund, refund.amount);
        return Err(Rejection::new("refund-not-positive", message));
    }
    if refund.amount > left {
        let message =
            format!("order {order} has {left} left to refund, not {}; correct the amount", refund.amount);
        return Err(Rejection::new("refund-exceeds-payment", message));
    }
    Ok(vec![OrderEvent::Refunded(OrderRefunded {
        refund: refund.refund.clone(),
        amount: refund.amount,
        reason: refund.reason.clone(),
        full: refund.amount == left,
        happened_at,
    })])
}

/// What is left is known here alone: an event that somebody answers later may be older than other refunds.
pub(super) fn decide_refund_remainder(
    state: &OrderState,
    RefundRemainder { refund, reason }: &RefundRemainder,
    order: &str,
) -> Result<Vec<OrderEvent>, Rejection> {
    check_label("refund-not-allowed", "refund", refund)?;
    reason.as_deref().map_or(Ok(()), |reason| check_name("reason", reason))?;
    match state.status {
        OrderStatus::Shipped | OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded => {}
        status => return Err(refusal("refund-remainder", status, order)),
    }
    let left = state.refundable_amount();
    if left == 0 || state.refunds.contains_key(refund) {
        return Ok(vec![]);
    }
    let (refund, reason) = (refund.clone(), reason.clone());
    Ok(vec![OrderEvent::Refunded(OrderRefunded {
        refund,
        amount: left,
        reason,
        full: true,
        happened_at: None,
    })])
}
