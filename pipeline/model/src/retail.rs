//! Retail: products from suppliers, deliveries, tills, business days, and the daily reports about them.

pub mod product;
pub mod product_view;

use millstream_engine::{decider::AggregateRegistry, projection::Projection};

/// The context, as in subjects.
pub const CONTEXT: &str = "retail";

/// Adds the context's aggregates.
pub fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry.with::<product::Product>()
}

/// The context's projections.
pub fn projections() -> Vec<Box<dyn Projection>> {
    vec![Box::new(product_view::ProductView)]
}
