//! What an order refuses, and with which codes; steps that are refused because of where it stands are in [`super::status`].

use millstream::decider::{CommandSet, Rejection, rejections_of};

use super::{
    OrderCommand,
    recorded_afterwards::{BEFORE_ORDER, REJECTIONS},
    status::REFUSALS,
};

const OF_CONTENT: &[(&str, &[&str])] = &[
    (
        "place",
        &[
            "customer-not-allowed",
            "location-not-allowed",
            "currency-malformed",
            "order-differs",
            "lines-empty",
            "lines-too-many",
            "sku-not-allowed",
            "quantity-not-positive",
            "quantity-too-large",
            "price-negative",
            "amount-too-large",
            "stock-id-malformed",
        ],
    ),
    (
        "pay",
        &[
            "payment-not-allowed",
            "currency-malformed",
            "payment-differs",
            "currency-differs",
            "payment-amount-differs",
        ],
    ),
    ("ship", &["shipment-not-allowed", "name-blank", "name-too-long", "shipment-differs"]),
    ("cancel", &["name-blank", "name-too-long"]),
    (
        "refund",
        &[
            "refund-not-allowed",
            "name-blank",
            "name-too-long",
            "refund-differs",
            "refund-without-payment",
            "refund-not-positive",
            "refund-exceeds-payment",
        ],
    ),
    ("refund-remainder", &["refund-not-allowed", "name-blank", "name-too-long"]),
];

/// The steps that may be recorded after they happened.
const TOLD_AFTERWARDS: [&str; 6] = ["place", "pay", "ship", "deliver", "cancel", "refund"];

const NOT_PLACED: &str = "order-not-placed";

pub(super) fn all() -> Vec<(&'static str, &'static str)> {
    let not_placed = OrderCommand::NAMES.iter().filter(|command| **command != "place");
    let of_moments =
        TOLD_AFTERWARDS.iter().flat_map(|command| REJECTIONS.iter().map(move |code| (*command, *code)));
    let steps = TOLD_AFTERWARDS.iter().filter(|command| **command != "place");
    rejections_of(OF_CONTENT)
        .chain(not_placed.map(|command| (*command, NOT_PLACED)))
        .chain(of_moments)
        .chain(steps.map(|command| (*command, BEFORE_ORDER)))
        .chain(REFUSALS.iter().map(|(command, _, code)| (*command, *code)))
        .collect()
}

pub(super) fn not_placed(order: &str) -> Rejection {
    Rejection::new(NOT_PLACED, format!("order {order} has not been placed; place it first"))
}

pub(super) fn differs(code: &'static str, what: &str, order: &str) -> Rejection {
    let message = format!("{what} of order {order} is recorded with other content; use another id");
    Rejection::new(code, message)
}
