//! {{Context}}: what this context is about, in a sentence.

pub mod {{aggregate_module}};
pub mod {{aggregate_module}}_view;

use millstream_engine::{decider::AggregateRegistry, projection::Projection};

use crate::Context;

/// The context, as in subjects.
pub const CONTEXT: &str = "{{context}}";

/// What the context has.
pub const PARTS: Context = Context { aggregates, projections, ..Context::EMPTY };

fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry.with::<{{aggregate_module}}::{{Aggregate}}>()
}

fn projections() -> Vec<Box<dyn Projection>> {
    vec![Box::new({{aggregate_module}}_view::{{Aggregate}}View)]
}
