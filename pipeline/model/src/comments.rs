//! Comments on pictures: written, changed and deleted by their authors.

pub mod comment;
pub mod comment_view;

use millstream_engine::{decider::AggregateRegistry, projection::Projection};

use crate::Context;

/// The context, as in subjects.
pub const CONTEXT: &str = "comments";

/// What the context has.
pub const PARTS: Context = Context { aggregates, projections, ..Context::EMPTY };

fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry.with::<comment::Comment>()
}

fn projections() -> Vec<Box<dyn Projection>> {
    vec![Box::new(comment_view::CommentView)]
}
