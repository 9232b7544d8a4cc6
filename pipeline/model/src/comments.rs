//! Comments on pictures: written, changed and deleted by their authors.

pub mod comment;
pub mod comment_view;

use millstream_engine::{decider::AggregateRegistry, projection::Projection};

/// The context, as in subjects.
pub const CONTEXT: &str = "comments";

/// Adds the context's aggregates.
pub fn aggregates(registry: AggregateRegistry) -> AggregateRegistry {
    registry.with::<comment::Comment>()
}

/// The context's projections.
pub fn projections() -> Vec<Box<dyn Projection>> {
    vec![Box::new(comment_view::CommentView)]
}
