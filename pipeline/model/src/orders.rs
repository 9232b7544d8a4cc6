//! Orders: placed by customers, reserved from stock, paid, shipped, delivered; cancelled and refunded when a step fails.

pub mod fulfilment;
pub mod order;
pub mod order_view;

use millstream::application::Context;

/// The context, as in subjects.
pub const CONTEXT: &str = "orders";

/// What the context has.
pub fn context() -> Context {
    Context::new(CONTEXT)
        .aggregate::<order::Order>()
        .view(order_view::OrderView)
        .process("fulfilment", fulfilment::Fulfilment::from_keys)
}
