//! Retail: products from suppliers, deliveries, tills, business days, and the daily reports about them.

pub mod business_day;
pub mod delivery;
pub mod delivery_view;
pub mod product;
pub mod product_view;
pub mod sale_view;
pub mod till;
pub mod till_view;

use millstream_engine::{decider::AggregateRegistry, projection::Projection};

/// The context, as in subjects.
pub const CONTEXT: &str = "retail";

/// Adds the context's aggregates.
pub fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry
        .with::<product::Product>()
        .with::<delivery::Delivery>()
        .with::<till::Till>()
        .with::<business_day::BusinessDay>()
}

/// The context's projections.
pub fn projections() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(product_view::ProductView),
        Box::new(delivery_view::DeliveryView),
        Box::new(till_view::TillView),
        Box::new(sale_view::SaleView),
    ]
}
