//! `order.<order>`: what a customer ordered, from placing it to its delivery, or to getting the money back.
//!
//! `placed`, `reserved`, `paid`, `shipped`, `delivered` follow each other. Until it is shipped an order can be `cancelled`,
//! by anyone or because a step failed. What was paid can be refunded once the order is cancelled or shipped; an order of
//! which everything was refunded is `refunded`. Every other step is refused as `<command>-while-<state>`
//! (`status::refusal`); one that was taken before and is asked for again changes nothing.
//!
//! It knows neither stock nor deadlines: the process [`super::fulfilment`] does, and reports to it, by commands that nobody else
//! may send.

mod placing;
mod refunding;
mod rejections;
pub mod status;

use std::collections::BTreeMap;

use millstream::{
    decider::{Decider, DecisionContext, Rejection},
    values::{
        money::Currency,
        reference::{check_label, check_name},
    },
};
use serde::{Deserialize, Serialize};

pub(super) use self::placing::units_by_sku;
use self::{
    rejections::{differs, not_placed},
    status::{OrderStatus, refusal},
};

/// Some units of one item at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderLine {
    /// The item.
    pub sku: String,
    /// How many; at least 1.
    pub quantity: i64,
    /// Of one unit, in minor units.
    pub unit_price: i64,
}

/// Orders. The same content again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// Id of the customer.
    pub customer: String,
    /// Id of the store or warehouse whose stock it is taken from.
    pub location: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What is ordered; at least one line.
    pub lines: Vec<OrderLine>,
}

/// Records that the whole amount was paid. The same payment again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayOrder {
    /// Id of the payment.
    pub payment: String,
    /// In minor units: the order's amount.
    pub amount: i64,
    /// ISO 4217 code: the order's currency.
    pub currency: String,
}

/// Records that it left the warehouse. The same shipment again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShipOrder {
    /// Id of the shipment.
    pub shipment: String,
    /// Who carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
}

/// Records that it arrived. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverOrder {}

/// Calls it off. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelOrder {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Records that money was given back. The same refund again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundOrder {
    /// Id of the refund.
    pub refund: String,
    /// In minor units of the order's currency; at least 1.
    pub amount: i64,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Gives back whatever is left of the payment: nothing when nothing is. The same refund again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundRemainder {
    /// Id of the refund.
    pub refund: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Fulfilment: every line is reserved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmReservation {}

/// Fulfilment: a line could not be reserved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectReservation {
    /// The item.
    pub sku: String,
    /// How many were asked for.
    pub quantity: i64,
    /// How many there were.
    pub available: i64,
}

/// Fulfilment: the time to pay is over. Changes nothing when it was paid.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpirePayment {}

/// Fulfilment: the time to ship is over. Changes nothing when it was shipped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpireShipment {}

millstream::commands! {
    /// What can be asked of an order.
    pub enum OrderCommand {
        Place(PlaceOrder) = "place",
        Pay(PayOrder) = "pay",
        Ship(ShipOrder) = "ship",
        Deliver(DeliverOrder) = "deliver",
        Cancel(CancelOrder) = "cancel",
        Refund(RefundOrder) = "refund",
        RefundRemainder(RefundRemainder) = "refund-remainder",
        ConfirmReservation(ConfirmReservation) = "confirm-reservation",
        RejectReservation(RejectReservation) = "reject-reservation",
        ExpirePayment(ExpirePayment) = "expire-payment",
        ExpireShipment(ExpireShipment) = "expire-shipment",
    }
}

/// It was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// Id of the customer.
    pub customer: String,
    /// Whose stock it is taken from.
    pub location: String,
    /// Of all prices.
    pub currency: Currency,
    /// What is ordered.
    pub lines: Vec<OrderLine>,
    /// Of all lines, in minor units.
    pub amount: i64,
}

/// Every line is reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReserved {}

/// The whole amount was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPaid {
    /// Id of the payment.
    pub payment: String,
    /// In minor units.
    pub amount: i64,
    /// Of the amount.
    pub currency: Currency,
}

/// It left the warehouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderShipped {
    /// Id of the shipment.
    pub shipment: String,
    /// Who carries it.
    pub carrier: Option<String>,
}

/// It arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderDelivered {}

/// What called an order off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CancellationCause {
    /// Someone asked for it.
    Requested,
    /// A line could not be reserved.
    ReservationRefused,
    /// It was not paid in time.
    PaymentExpired,
    /// It was not shipped in time.
    ShipmentExpired,
}

/// It was called off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCancelled {
    /// By what.
    pub cause: CancellationCause,
    /// Why, in words.
    pub reason: Option<String>,
    /// What had been paid and is to be refunded, in minor units.
    pub refundable: i64,
}

/// Money was given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRefunded {
    /// Id of the refund.
    pub refund: String,
    /// In minor units.
    pub amount: i64,
    /// Why.
    pub reason: Option<String>,
    /// Whether nothing of the payment is left.
    pub full: bool,
}

millstream::events! {
    /// What can happen to an order.
    pub enum OrderEvent of "order" {
        Placed(OrderPlaced) = "order-placed" v 1,
        Reserved(OrderReserved) = "order-reserved" v 1,
        Paid(OrderPaid) = "order-paid" v 1,
        Shipped(OrderShipped) = "order-shipped" v 1,
        Delivered(OrderDelivered) = "order-delivered" v 1,
        Cancelled(OrderCancelled) = "order-cancelled" v 1,
        Refunded(OrderRefunded) = "order-refunded" v 1,
    }
}

/// What the rules need to know of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    placed: Option<OrderPlaced>,
    status: OrderStatus,
    payment: Option<OrderPaid>,
    shipment: Option<OrderShipped>,
    delivered: bool,
    cancelled: bool,
    refunds: BTreeMap<String, (i64, Option<String>)>,
}

impl OrderState {
    fn paid_amount(&self) -> i64 {
        self.payment.as_ref().map_or(0, |payment| payment.amount)
    }

    /// What is left of the payment.
    fn refundable_amount(&self) -> i64 {
        let refunded = self.refunds.values().fold(0_i64, |sum, (amount, _)| sum.saturating_add(*amount));
        self.paid_amount().saturating_sub(refunded)
    }
}

/// The rules of `order.<order>`.
#[derive(Debug)]
pub struct Order;

impl Decider for Order {
    type Command = OrderCommand;
    type Event = OrderEvent;
    type State = OrderState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "order";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        rejections::all()
    }

    fn internal_commands() -> &'static [&'static str] {
        &["confirm-reservation", "reject-reservation", "expire-payment", "expire-shipment"]
    }

    fn decide(
        state: &OrderState,
        command: &OrderCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<OrderEvent>, Rejection> {
        let order = context.aggregate_id;
        let placed = match (command, &state.placed) {
            (OrderCommand::Place(place), placed) => {
                return placing::decide_place(placed.as_ref(), place, order);
            }
            (_, None) => return Err(not_placed(order)),
            (_, Some(placed)) => placed,
        };
        match command {
            OrderCommand::Place(_) => Ok(vec![]),
            OrderCommand::Pay(pay) => decide_pay(state, placed, pay, order),
            OrderCommand::Ship(ship) => decide_ship(state, ship, order),
            OrderCommand::Deliver(_) => decide_deliver(state, order),
            OrderCommand::Cancel(cancel) => decide_cancel(state, cancel, order),
            OrderCommand::Refund(refund) => refunding::decide_refund(state, refund, order),
            OrderCommand::RefundRemainder(refund) => refunding::decide_refund_remainder(state, refund, order),
            OrderCommand::ConfirmReservation(_) => decide_confirm(state, order),
            OrderCommand::RejectReservation(reject) => decide_reject(state, reject, order),
            OrderCommand::ExpirePayment(_) => Ok(decide_expire_payment(state)),
            OrderCommand::ExpireShipment(_) => decide_expire_shipment(state, order),
        }
    }

    fn evolve(state: &mut OrderState, event: &OrderEvent) {
        state.status = state.status.after(event);
        match event {
            OrderEvent::Placed(placed) => state.placed = Some(placed.clone()),
            OrderEvent::Reserved(_) => {}
            OrderEvent::Paid(paid) => state.payment = Some(paid.clone()),
            OrderEvent::Shipped(shipped) => state.shipment = Some(shipped.clone()),
            OrderEvent::Delivered(_) => state.delivered = true,
            OrderEvent::Cancelled(_) => state.cancelled = true,
            OrderEvent::Refunded(refunded) => {
                let content = (refunded.amount, refunded.reason.clone());
                state.refunds.insert(refunded.refund.clone(), content);
            }
        }
    }
}

fn decide_pay(
    state: &OrderState,
    placed: &OrderPlaced,
    pay: &PayOrder,
    order: &str,
) -> Result<Vec<OrderEvent>, Rejection> {
    check_label("payment-not-allowed", "payment", &pay.payment)?;
    let currency = Currency::parse(&pay.currency)?;
    let paid = OrderPaid { payment: pay.payment.clone(), amount: pay.amount, currency };
    match &state.payment {
        Some(known) if *known == paid => return Ok(vec![]),
        Some(known) if known.payment == paid.payment => {
            return Err(differs("payment-differs", &format!("payment {}", paid.payment), order));
        }
        _ => {}
    }
    if state.status != OrderStatus::Reserved {
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

fn decide_ship(state: &OrderState, ship: &ShipOrder, order: &str) -> Result<Vec<OrderEvent>, Rejection> {
    check_label("shipment-not-allowed", "shipment", &ship.shipment)?;
    ship.carrier.as_deref().map_or(Ok(()), |carrier| check_name("carrier", carrier))?;
    let shipped = OrderShipped { shipment: ship.shipment.clone(), carrier: ship.carrier.clone() };
    match &state.shipment {
        Some(known) if *known == shipped => Ok(vec![]),
        Some(known) if known.shipment == shipped.shipment => {
            Err(differs("shipment-differs", &format!("shipment {}", shipped.shipment), order))
        }
        None if state.status == OrderStatus::Paid => Ok(vec![OrderEvent::Shipped(shipped)]),
        _ => Err(refusal("ship", state.status, order)),
    }
}

fn decide_deliver(state: &OrderState, order: &str) -> Result<Vec<OrderEvent>, Rejection> {
    match state.status {
        _ if state.delivered => Ok(vec![]),
        OrderStatus::Shipped => Ok(vec![OrderEvent::Delivered(OrderDelivered {})]),
        status => Err(refusal("deliver", status, order)),
    }
}

fn decide_cancel(
    state: &OrderState,
    cancel: &CancelOrder,
    order: &str,
) -> Result<Vec<OrderEvent>, Rejection> {
    cancel.reason.as_deref().map_or(Ok(()), |reason| check_name("reason", reason))?;
    match state.status {
        _ if state.cancelled => Ok(vec![]),
        OrderStatus::Placed | OrderStatus::Reserved | OrderStatus::Paid => {
            Ok(vec![cancelled(state, CancellationCause::Requested, cancel.reason.clone())])
        }
        status => Err(refusal("cancel", status, order)),
    }
}

fn cancelled(state: &OrderState, cause: CancellationCause, reason: Option<String>) -> OrderEvent {
    OrderEvent::Cancelled(OrderCancelled { cause, reason, refundable: state.paid_amount() })
}

fn decide_confirm(state: &OrderState, order: &str) -> Result<Vec<OrderEvent>, Rejection> {
    match state.status {
        OrderStatus::Placed => Ok(vec![OrderEvent::Reserved(OrderReserved {})]),
        OrderStatus::Reserved => Ok(vec![]),
        status => Err(refusal("confirm-reservation", status, order)),
    }
}

fn decide_reject(
    state: &OrderState,
    reject: &RejectReservation,
    order: &str,
) -> Result<Vec<OrderEvent>, Rejection> {
    match state.status {
        _ if state.cancelled => Ok(vec![]),
        OrderStatus::Placed => {
            let RejectReservation { sku, quantity, available } = reject;
            let reason = format!("{quantity} of {sku} ordered, {available} available");
            Ok(vec![cancelled(state, CancellationCause::ReservationRefused, Some(reason))])
        }
        status => Err(refusal("reject-reservation", status, order)),
    }
}

fn decide_expire_payment(state: &OrderState) -> Vec<OrderEvent> {
    match state.status {
        OrderStatus::Placed | OrderStatus::Reserved => {
            vec![cancelled(state, CancellationCause::PaymentExpired, None)]
        }
        _ => vec![],
    }
}

fn decide_expire_shipment(state: &OrderState, order: &str) -> Result<Vec<OrderEvent>, Rejection> {
    match state.status {
        OrderStatus::Paid => Ok(vec![cancelled(state, CancellationCause::ShipmentExpired, None)]),
        OrderStatus::Placed | OrderStatus::Reserved => Err(refusal("expire-shipment", state.status, order)),
        _ => Ok(vec![]),
    }
}

#[cfg(test)]
mod tests;
