//! Millstream's reference domains. Pure: no async, no clock, no randomness, no NATS and no redb; time and ids arrive as
//! arguments.
//!
//! One folder a context. A context lists what it has in three functions (`aggregates`, `projections`, `reports`), and
//! the functions of the same names here are the one place where a context is registered with the stages.

pub mod business_date;
pub mod command_view;
pub mod money;
pub mod reference;
pub mod retail;

use millstream_engine::{
    decider::AggregateRegistry,
    projection::{OutcomeProjection, Projection},
};

/// Every aggregate, for the command handler.
pub fn aggregates() -> AggregateRegistry {
    retail::aggregates(AggregateRegistry::new())
}

/// Every projection that fills views, for the projector.
pub fn projections() -> Vec<Box<dyn Projection>> {
    retail::projections().into_iter().collect()
}

/// What is projected from the outcomes of commands, in every context alike, for the projector.
pub fn outcome_projections() -> Vec<Box<dyn OutcomeProjection>> {
    vec![Box::new(command_view::CommandView)]
}
