//! Orders: placed by customers, reserved from stock, paid, shipped, delivered; cancelled and refunded when a step fails.

pub mod fulfilment;
pub mod order;
pub mod order_view;

use millstream_engine::{decider::AggregateRegistry, process::Process, projection::Projection};

/// The context, as in subjects.
pub const CONTEXT: &str = "orders";

/// Adds the context's aggregates.
pub fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry.with::<order::Order>()
}

/// The context's projections.
pub fn projections() -> Vec<Box<dyn Projection>> {
    vec![Box::new(order_view::OrderView)]
}

/// The context's processes; orders have as long as `deadlines` say.
pub fn processes(deadlines: fulfilment::Deadlines) -> Vec<Box<dyn Process>> {
    vec![Box::new(fulfilment::Fulfilment::new(deadlines))]
}
