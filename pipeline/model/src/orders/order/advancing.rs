//! The rules of the steps that an order takes forward: its payment, its shipment, its delivery.

use millstream::{
    decider::{DecisionContext, Rejection},
    values::{
        money::Currency,
        reference::{check_label, check_name},
    },
};

use super::{
    DeliverOrder, OrderDelivered, OrderEvent, OrderPaid, OrderPlaced, OrderShipped, OrderState, PayOrder,
    ShipOrder, recorded_afterwards,
    rejections::differs,
    status::{OrderStatus, refusal},
};

pub(super) fn decide_pay(
    state: &OrderState,
    placed: &OrderPlaced,
    pay: &PayOrder,
    context: &DecisionContext<'_>,
) -> Result<Vec<OrderEvent>, Rejection> {
    let order = context.aggregate_id;
    check_label("payment-not-allowed", "payment", &pay.payment)?;
    let currency = Currency::parse(&pay.currency)?;
    let happened_at = recorded_afterwards::moment_of_step(state, pay.happened_at.as_deref(), context)?;
    let paid = OrderPaid { payment: pay.payment.clone(), amount: pay.amount, currency, happened_at };
    match &state.payment {
        Some(known) if *known == paid => return Ok(vec![]),
        Some(known) if known.payment == paid.payment => {
            return Err(differs("payment-differs", &format!("payment {}", paid.payment), order));
        }
        _ => {}
    }
    let may_be_paid =
        state.status == OrderStatus::Reserved || (state.status == OrderStatus::Placed && state.is_history());
    if !may_be_paid {
        return Err(refusal("pay", state.status, order));
    }
    if currency != placed.currency {
        let message = format!("order {order} is kept in {}, not in {currency}", placed.currency);
        return Err(Rejection::new("currency-differs", message));
    }
    if pay.amount != placed.amount {
        let message =
            format!("order {order} amounts to {}, not to {}; pay it as a whole", placed.amount, pay.amount);
        return Err(Rejection::new("payment-amount-differs", message));
    }
    Ok(vec![OrderEvent::Paid(paid)])
}

pub(super) fn decide_ship(
    state: &OrderState,
    ship: &ShipOrder,
    context: &DecisionContext<'_>,
) -> Result<Vec<OrderEvent>, Rejection> {
    let order = context.aggregate_id;
    check_label("shipment-not-allowed", "shipment", &ship.shipment)?;
    ship.carrier.as_deref().map_or(Ok(()), |carrier| check_name("carrier", carrier))?;
    let happened_at = recorded_afterwards::moment_of_step(state, ship.happened_at.as_deref(), context)?;
    let shipped =
        OrderShipped { shipment: ship.shipment.clone(), carrier: ship.carrier.clone(), happened_at };
    match &state.shipment {
        Some(known) if *known == shipped => Ok(vec![]),
        Some(known) if known.shipment == shipped.shipment => {
            Err(differs("shipment-differs", &format!("shipment {}", shipped.shipment), order))
        }
        None if state.status == OrderStatus::Paid => Ok(vec![OrderEvent::Shipped(shipped)]),
        _ => Err(refusal("ship", state.status, order)),
    }
}

pub(super) fn decide_deliver(
    state: &OrderState,
    deliver: &DeliverOrder,
    context: &DecisionContext<'_>,
) -> Result<Vec<OrderEvent>, Rejection> {
    let happened_at = recorded_afterwards::moment_of_step(state, deliver.happened_at.as_deref(), context)?;
    match state.status {
        _ if state.delivered => Ok(vec![]),
        OrderStatus::Shipped => Ok(vec![OrderEvent::Delivered(OrderDelivered { happened_at })]),
        status => Err(refusal("deliver", status, context.aggregate_id)),
    }
}
