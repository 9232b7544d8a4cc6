//! When something happened that is recorded afterwards.

use jiff::Timestamp;
use millstream::decider::{DecisionContext, Rejection};

use super::OrderState;

/// What a command may be refused for that says when it happened.
pub(super) const REJECTIONS: [&str; 2] = ["moment-malformed", "moment-in-the-future"];

/// What a step may be refused for besides, as only an order of the past has a moment of its own.
pub(super) const BEFORE_ORDER: &str = "moment-before-order";

/// Reads when a step happened, if the command says so.
///
/// # Errors
/// The rejections [`REJECTIONS`] and [`BEFORE_ORDER`].
pub(super) fn moment_of_step(
    state: &OrderState,
    given: Option<&str>,
    context: &DecisionContext<'_>,
) -> Result<Option<Timestamp>, Rejection> {
    let moment = moment(given, context)?;
    let placed = state.placed.as_ref().and_then(|placed| placed.happened_at);
    match (moment, placed) {
        (Some(moment), Some(placed)) if moment < placed => {
            let order = context.aggregate_id;
            let message =
                format!("order {order} was placed at {placed}, and nothing happened to it at {moment} yet");
            Err(Rejection::new(BEFORE_ORDER, message))
        }
        _ => Ok(moment),
    }
}

/// Reads when it happened, if the command says so.
///
/// # Errors
/// The rejections [`REJECTIONS`].
pub(super) fn moment(
    given: Option<&str>,
    context: &DecisionContext<'_>,
) -> Result<Option<Timestamp>, Rejection> {
    let Some(given) = given else { return Ok(None) };
    let malformed = |_| {
        let message = format!("{given:?} is no moment; write it as in 2018-03-01T10:00:00Z");
        Rejection::new("moment-malformed", message)
    };
    let moment: Timestamp = given.parse().map_err(malformed)?;
    if moment > context.now {
        let message = format!("{moment} has not come yet; record it when it has happened");
        return Err(Rejection::new("moment-in-the-future", message));
    }
    Ok(Some(moment))
}
