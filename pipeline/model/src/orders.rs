//! Orders: placed by customers, reserved from stock, paid, shipped, delivered; cancelled and refunded when a step fails.

pub mod fulfilment;
pub mod order;
pub mod order_view;

use millstream_engine::{decider::AggregateRegistry, process::Process, projection::Projection};

use crate::{Context, ProcessSettings};

/// The context, as in subjects.
pub const CONTEXT: &str = "orders";

/// What the context has.
pub const PARTS: Context = Context { aggregates, projections, processes, ..Context::EMPTY };

fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry.with::<order::Order>()
}

fn projections() -> Vec<Box<dyn Projection>> {
    vec![Box::new(order_view::OrderView)]
}

/// Orders have as long as the deployment says.
fn processes(settings: &ProcessSettings) -> Vec<Box<dyn Process>> {
    vec![Box::new(fulfilment::Fulfilment::new(settings.deadlines))]
}
