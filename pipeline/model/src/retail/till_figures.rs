//! What views and reports alike read from the events of a till: whose they are, and sums of lines.

use millstream::{contract::commit::EventEnvelope, projection::ProjectionError};

use super::till::{TillId, TillLine};

/// Store and date of the till that an event belongs to.
///
/// # Errors
/// [`ProjectionError::Inconsistent`] when the id is none of a till, which the decider never lets pass.
pub(super) fn till_of(envelope: &EventEnvelope<'_>) -> Result<TillId, ProjectionError> {
    TillId::parse(envelope.stream_id.id())
        .map_err(|rejection| ProjectionError::Inconsistent(rejection.to_string()))
}

/// The units in `lines`.
pub(super) fn units(lines: &[TillLine]) -> i64 {
    lines.iter().fold(0, |sum, line| sum.saturating_add(line.quantity))
}

/// The amount of `lines`.
pub(super) fn amount(lines: &[TillLine]) -> i64 {
    lines.iter().fold(0, |sum, line| sum.saturating_add(line.quantity.saturating_mul(line.unit_price)))
}

/// What a posting of a till's sale or return is called: `<store>_<date>/<id>`, as in the views `sale` and `return`.
pub(super) fn reference(envelope: &EventEnvelope<'_>, id: &str) -> String {
    format!("{}/{id}", envelope.stream_id.id())
}
