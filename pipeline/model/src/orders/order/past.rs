//! When something happened that is recorded afterwards.

use jiff::Timestamp;
use millstream::decider::{DecisionContext, Rejection};

/// What a command may be refused for that says when it happened.
pub(super) const REJECTIONS: [&str; 2] = ["moment-malformed", "moment-in-the-future"];

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
