//! Where an order stands, and what is refused there.

use std::fmt;

use millstream::{decider::Rejection, schemars::JsonSchema};
use serde::{Deserialize, Serialize};

use super::OrderEvent;

/// Where an order stands.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(crate = "millstream::schemars")]
#[serde(rename_all = "kebab-case")]
pub enum OrderStatus {
    /// Its lines are being reserved.
    #[default]
    Placed,
    /// It waits for payment.
    Reserved,
    /// It waits for the warehouse.
    Paid,
    /// It is on its way.
    Shipped,
    /// It arrived.
    Delivered,
    /// It was called off.
    Cancelled,
    /// Everything that was paid was given back.
    Refunded,
}

impl OrderStatus {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Placed,
        Self::Reserved,
        Self::Paid,
        Self::Shipped,
        Self::Delivered,
        Self::Cancelled,
        Self::Refunded,
    ];

    /// As in rows and rejection codes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Reserved => "reserved",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Refunded => "refunded",
        }
    }

    /// Where it stands after `event`.
    #[must_use]
    pub fn after(self, event: &OrderEvent) -> Self {
        match event {
            OrderEvent::Placed(_) => Self::Placed,
            OrderEvent::Reserved(_) => Self::Reserved,
            OrderEvent::Paid(_) => Self::Paid,
            OrderEvent::Shipped(_) => Self::Shipped,
            OrderEvent::Delivered(_) => Self::Delivered,
            OrderEvent::Cancelled(_) => Self::Cancelled,
            OrderEvent::Refunded(refunded) if refunded.full => Self::Refunded,
            OrderEvent::Refunded(_) => self,
        }
    }
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

macro_rules! refusals {
    ($($command:literal: $($state:literal)*;)*) => {
        /// Every step that is refused because of where the order stands: command, state, code.
        pub const REFUSALS: &[(&str, &str, &str)] =
            &[$($(($command, $state, concat!($command, "-while-", $state)),)*)*];
    };
}

refusals! {
    "pay": "placed" "paid" "shipped" "delivered" "cancelled" "refunded";
    "ship": "placed" "reserved" "shipped" "delivered" "cancelled" "refunded";
    "deliver": "placed" "reserved" "paid" "cancelled" "refunded";
    "cancel": "shipped" "delivered" "refunded";
    "refund": "placed" "reserved" "paid" "refunded";
    "refund-remainder": "placed" "reserved" "paid";
    "confirm-reservation": "paid" "shipped" "delivered" "cancelled" "refunded";
    "reject-reservation": "reserved" "paid" "shipped" "delivered" "refunded";
    "expire-shipment": "placed" "reserved";
}

/// The rejection of `command` for an order that stands at `status`.
///
/// # Panics
/// When the step is none of [`REFUSALS`]: a bug of this context, which the test of every command in every state finds.
pub(super) fn refusal(command: &str, status: OrderStatus, order: &str) -> Rejection {
    let refused = |each: &&(&str, &str, &str)| each.0 == command && each.1 == status.as_str();
    let (_, _, code) = REFUSALS.iter().find(refused).expect("the table lists every step that is refused");
    let advice = match (command, status) {
        ("pay", OrderStatus::Placed) => "wait until its lines are reserved",
        ("pay", _) => "refund the payment to its sender",
        ("ship", OrderStatus::Placed | OrderStatus::Reserved) => "wait until it is paid",
        ("deliver", OrderStatus::Placed | OrderStatus::Reserved | OrderStatus::Paid) => "ship it first",
        ("cancel", OrderStatus::Shipped | OrderStatus::Delivered) => "refund it instead",
        ("refund" | "refund-remainder", OrderStatus::Placed | OrderStatus::Reserved) => {
            "it has not been paid; cancel it"
        }
        ("refund" | "refund-remainder", OrderStatus::Paid) => "cancel it, which refunds it",
        _ => "look at its history",
    };
    Rejection::new(code, format!("order {order} is {status}: {command} is not possible; {advice}"))
}
