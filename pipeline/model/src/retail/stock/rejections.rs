//! What a stock refuses, and with which codes.

use millstream::decider::{ANY_COMMAND, Rejection};

/// Of receipts, issues and transfers alike.
const MOVEMENT_REFUSED: &[&str] = &[
    "quantity-not-positive",
    "quantity-too-large",
    "reference-not-allowed",
    "date-malformed",
    "reference-differs",
];

/// Of reservations, whoever asks for them.
const RESERVATION_REFUSED: &[&str] =
    &["reservation-not-allowed", "quantity-not-positive", "quantity-too-large", "reservation-differs"];

pub(super) const REJECTIONS: &[(&str, &[&str])] = &[
    (ANY_COMMAND, &["stock-id-malformed"]),
    ("receive", MOVEMENT_REFUSED),
    ("issue", MOVEMENT_REFUSED),
    ("issue", &["issue-exceeds-reservation", "reservation-unknown"]),
    ("transfer", MOVEMENT_REFUSED),
    ("transfer", &["stock-not-available", "transfer-to-itself", "location-not-allowed"]),
    ("reserve", RESERVATION_REFUSED),
    ("reserve", &["reservation-closed", "stock-not-available"]),
    ("request-reservation", RESERVATION_REFUSED),
    ("release", &["reservation-issued", "reservation-unknown"]),
    ("adjust", &["count-negative", "quantity-too-large", "name-blank", "name-too-long", "date-malformed"]),
    ("set-minimum", &["count-negative", "quantity-too-large"]),
];

pub(super) fn reference_differs(reference: &str, stock: &str) -> Rejection {
    let message =
        format!("{reference} of stock {stock} is recorded with other content; use another reference");
    Rejection::new("reference-differs", message)
}

pub(super) fn reservation_differs(reservation: &str, stock: &str) -> Rejection {
    let message =
        format!("reservation {reservation} of stock {stock} is recorded with other content; use another id");
    Rejection::new("reservation-differs", message)
}

pub(super) fn reservation_unknown(reservation: &str, stock: &str, to: &str) -> Rejection {
    let message = format!("stock {stock} has no reservation {reservation} to {to}; check the id");
    Rejection::new("reservation-unknown", message)
}

pub(super) fn reservation_closed(reservation: &str, stock: &str) -> Rejection {
    let message = format!("reservation {reservation} of stock {stock} has ended; reserve under another id");
    Rejection::new("reservation-closed", message)
}
