//! The context of an aggregate of this crate. Contexts belong to an application, so the aggregates here are generic over them.

/// Names a context for the aggregates and processes of this crate.
///
/// ```
/// use millstream_domain::decider::AggregateRegistry;
/// use millstream_values::{claims::Claim, context::InContext};
///
/// /// The context `gym`.
/// #[derive(Debug)]
/// pub struct Gym;
///
/// impl InContext for Gym {
///     const CONTEXT: &'static str = "gym";
/// }
///
/// let registry = AggregateRegistry::new().with::<Claim<Gym>>();
/// assert!(registry.get("gym", "claim").is_some());
/// ```
pub trait InContext: Send + Sync + 'static {
    /// The context, as in subjects.
    const CONTEXT: &'static str;
}
