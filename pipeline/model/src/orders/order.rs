//! `order.<order>`: what a customer ordered, from placing it to its delivery, or to getting the money back.
//!
//! `placed`, `reserved`, `paid`, `shipped`, `delivered` follow each other. Until it is shipped an order can be `cancelled`,
//! by anyone or because a step failed. What was paid can be refunded once the order is cancelled or shipped; an order of
//! which everything was refunded is `refunded`. Every other step is refused as `<command>-while-<state>`
//! (`status::refusal`); one that was taken before and is asked for again changes nothing.
//!
//! An order that was placed before it is recorded here says when (`happened_at`). It is history: it is paid without a reservation, and no
//! process takes it up. The later steps of any order may say when they happened, too.
//!
//! It knows neither stock nor deadlines: the process [`super::fulfilment`] does, and reports to it, by commands that nobody else
//! may send.

mod advancing;
mod placing;
mod recorded_afterwards;
mod refunding;
mod rejections;
pub mod status;

use std::collections::BTreeMap;

use jiff::Timestamp;
use millstream::{
    decider::{Decider, DecisionContext, Rejection, decode_event},
    schemars::JsonSchema,
    values::{money::Currency, reference::check_name},
};
use serde::{Deserialize, Serialize};

pub(super) use self::placing::units_by_sku;
use self::{
    rejections::not_placed,
    status::{OrderStatus, refusal},
};

/// Some units of one item at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
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
    /// When it happened (RFC 3339), if it is recorded afterwards. Not later than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<String>,
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
    /// When it happened (RFC 3339), if it is recorded afterwards. Not later than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<String>,
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
    /// When it happened (RFC 3339), if it is recorded afterwards. Not later than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<String>,
}

/// Records that it arrived. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverOrder {
    /// When it happened (RFC 3339), if it is recorded afterwards. Not later than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<String>,
}

/// Calls it off. Again changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelOrder {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it happened (RFC 3339), if it is recorded afterwards. Not later than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<String>,
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
    /// When it happened (RFC 3339), if it is recorded afterwards. Not later than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<String>,
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
    /// When it was placed, if it was recorded afterwards: then it is history, which nobody sees through any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<Timestamp>,
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
    /// When it happened, if it was recorded afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<Timestamp>,
}

/// It left the warehouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderShipped {
    /// Id of the shipment.
    pub shipment: String,
    /// Who carries it.
    pub carrier: Option<String>,
    /// When it happened, if it was recorded afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<Timestamp>,
}

/// It arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderDelivered {
    /// When it happened, if it was recorded afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<Timestamp>,
}

/// What called an order off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "millstream::schemars")]
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
    /// When it happened, if it was recorded afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<Timestamp>,
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
    /// When it happened, if it was recorded afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<Timestamp>,
}

millstream::events! {
    /// What can happen to an order.
    pub enum OrderEvent of "order" {
        Placed(OrderPlaced) = "order-placed" v 2 upcasts { 1 => decode_event },
        Reserved(OrderReserved) = "order-reserved" v 1,
        Paid(OrderPaid) = "order-paid" v 2 upcasts { 1 => decode_event },
        Shipped(OrderShipped) = "order-shipped" v 2 upcasts { 1 => decode_event },
        Delivered(OrderDelivered) = "order-delivered" v 2 upcasts { 1 => decode_event },
        Cancelled(OrderCancelled) = "order-cancelled" v 2 upcasts { 1 => decode_event },
        Refunded(OrderRefunded) = "order-refunded" v 2 upcasts { 1 => decode_event },
    }
}

/// Of a refund: how much, why, and when.
type RefundContent = (i64, Option<String>, Option<Timestamp>);

/// What the rules need to know of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    placed: Option<OrderPlaced>,
    status: OrderStatus,
    payment: Option<OrderPaid>,
    shipment: Option<OrderShipped>,
    delivered: bool,
    cancelled: bool,
    refunds: BTreeMap<String, RefundContent>,
}

impl OrderState {
    /// Whether it was placed before it was recorded here: then nobody reserves its lines.
    fn is_history(&self) -> bool {
        self.placed.as_ref().is_some_and(|placed| placed.happened_at.is_some())
    }

    fn paid_amount(&self) -> i64 {
        self.payment.as_ref().map_or(0, |payment| payment.amount)
    }

    /// What is left of the payment.
    fn refundable_amount(&self) -> i64 {
        let refunded = self.refunds.values().fold(0_i64, |sum, (amount, ..)| sum.saturating_add(*amount));
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
    /// 2: steps say when they happened.
    const STATE_VERSION: u32 = 2;

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
                return placing::decide_place(placed.as_ref(), place, context);
            }
            (_, None) => return Err(not_placed(order)),
            (_, Some(placed)) => placed,
        };
        match command {
            OrderCommand::Place(_) => Ok(vec![]),
            OrderCommand::Pay(pay) => advancing::decide_pay(state, placed, pay, context),
            OrderCommand::Ship(ship) => advancing::decide_ship(state, ship, context),
            OrderCommand::Deliver(deliver) => advancing::decide_deliver(state, deliver, context),
            OrderCommand::Cancel(cancel) => decide_cancel(state, cancel, context),
            OrderCommand::Refund(refund) => refunding::decide_refund(state, refund, context),
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
                let content = (refunded.amount, refunded.reason.clone(), refunded.happened_at);
                state.refunds.insert(refunded.refund.clone(), content);
            }
        }
    }
}

fn decide_cancel(
    state: &OrderState,
    cancel: &CancelOrder,
    context: &DecisionContext<'_>,
) -> Result<Vec<OrderEvent>, Rejection> {
    let happened_at = recorded_afterwards::moment_of_step(state, cancel.happened_at.as_deref(), context)?;
    cancel.reason.as_deref().map_or(Ok(()), |reason| check_name("reason", reason))?;
    match state.status {
        _ if state.cancelled => Ok(vec![]),
        OrderStatus::Placed | OrderStatus::Reserved | OrderStatus::Paid => {
            let refundable = state.paid_amount();
            let (cause, reason) = (CancellationCause::Requested, cancel.reason.clone());
            Ok(vec![OrderEvent::Cancelled(OrderCancelled { cause, reason, refundable, happened_at })])
        }
        status => Err(refusal("cancel", status, context.aggregate_id)),
    }
}

fn cancelled(state: &OrderState, cause: CancellationCause, reason: Option<String>) -> OrderEvent {
    OrderEvent::Cancelled(OrderCancelled {
        cause,
        reason,
        refundable: state.paid_amount(),
        happened_at: None,
    })
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
