//! The rules by which somebody gets a value, keeps it, and loses it.

use jiff::{SignedDuration, Timestamp};
use millstream_domain::decider::{DecisionContext, Rejection};

use super::{
    ClaimCommand, ClaimConfirmed, ClaimEvent, ClaimExpired, ClaimGranted, ClaimRefused, ClaimReleased,
    ClaimState, ClaimValue, ConfirmationRefused, Holding, RequestClaim,
};
use crate::reference::check_label;

/// For how many seconds a claim is held if its command does not say: enough time for a person to fill in a form.
pub const HOLD_SECONDS_DEFAULT: u32 = 60 * 60;
/// The longest time for which a claim is held without being confirmed: 31 days.
pub const HOLD_SECONDS_MAX: u32 = 31 * 24 * 60 * 60;

pub(super) fn decide(
    state: &ClaimState,
    command: &ClaimCommand,
    context: &DecisionContext<'_>,
) -> Result<Vec<ClaimEvent>, Rejection> {
    match command {
        ClaimCommand::Claim(claim) => decide_claim(state, claim, context),
        ClaimCommand::Confirm(confirm) => decide_confirm(state, &confirm.holder, context),
        ClaimCommand::Release(release) => decide_release(state, &release.holder),
        ClaimCommand::RequestClaim(request) => decide_request(state, request, context),
        ClaimCommand::RequestConfirmation(request) => decide_confirmation(state, &request.holder, context),
        ClaimCommand::Expire(expire) => Ok(decide_expire(state, expire.expires_at)),
    }
}

/// Who has the value at the time of the decision. The timer of a hold may fire a moment after its end.
fn current<'a>(state: &'a ClaimState, context: &DecisionContext<'_>) -> Option<&'a Holding> {
    state.holding.as_ref().filter(|holding| holding.expires_at.is_none_or(|end| end > context.now))
}

fn decide_claim(
    state: &ClaimState,
    claim: &ClaimValue,
    context: &DecisionContext<'_>,
) -> Result<Vec<ClaimEvent>, Rejection> {
    check_holder(&claim.holder)?;
    let expires_at = end_of_hold(claim.hold_seconds, context)?;
    match current(state, context) {
        Some(holding) if holding.holder == claim.holder => Ok(vec![]),
        Some(_) => {
            let message = format!("claim {} is taken; use another value", context.aggregate_id);
            Err(Rejection::new("claim-taken", message))
        }
        None => Ok(vec![granted(&claim.holder, None, Some(expires_at))]),
    }
}

fn decide_confirm(
    state: &ClaimState,
    holder: &str,
    context: &DecisionContext<'_>,
) -> Result<Vec<ClaimEvent>, Rejection> {
    check_holder(holder)?;
    match &state.holding {
        Some(holding) if holding.holder == holder && holding.expires_at.is_none() => Ok(vec![]),
        // Nobody else has claimed it in the meantime, so it does no harm that the time of the hold is over.
        Some(holding) if holding.holder == holder => Ok(vec![confirmed(holder)]),
        _ => {
            let message = format!("{holder} does not hold claim {}; claim it first", context.aggregate_id);
            Err(Rejection::new("claim-not-held", message))
        }
    }
}

fn decide_release(state: &ClaimState, holder: &str) -> Result<Vec<ClaimEvent>, Rejection> {
    check_holder(holder)?;
    let held = state.holding.as_ref().is_some_and(|holding| holding.holder == holder);
    Ok(held.then(|| ClaimEvent::Released(ClaimReleased { holder: holder.to_owned() })).into_iter().collect())
}

fn decide_request(
    state: &ClaimState,
    request: &RequestClaim,
    context: &DecisionContext<'_>,
) -> Result<Vec<ClaimEvent>, Rejection> {
    let RequestClaim { holder, request, hold_seconds } = request;
    check_holder(holder)?;
    check_label("request-not-allowed", "request", request)?;
    let expires_at = end_of_hold(*hold_seconds, context)?;
    let answer = match current(state, context) {
        Some(holding) if holding.holder != *holder => ClaimEvent::Refused(ClaimRefused {
            holder: holder.clone(),
            request: request.clone(),
            held_by: holding.holder.clone(),
        }),
        Some(holding) if holding.request.as_ref() == Some(request) => return Ok(vec![]),
        Some(holding) if holding.expires_at.is_none() => granted(holder, Some(request), None),
        Some(_) | None => granted(holder, Some(request), Some(expires_at)),
    };
    Ok(vec![answer])
}

fn decide_confirmation(
    state: &ClaimState,
    holder: &str,
    context: &DecisionContext<'_>,
) -> Result<Vec<ClaimEvent>, Rejection> {
    check_holder(holder)?;
    Ok(match (&state.holding, current(state, context)) {
        (Some(holding), _) if holding.holder == holder && holding.expires_at.is_none() => vec![],
        (Some(holding), Some(_)) if holding.holder != holder => {
            vec![ClaimEvent::ConfirmationRefused(ConfirmationRefused {
                holder: holder.to_owned(),
                held_by: holding.holder.clone(),
            })]
        }
        _ => vec![confirmed(holder)],
    })
}

fn decide_expire(state: &ClaimState, expires_at: Timestamp) -> Vec<ClaimEvent> {
    let over = state.holding.as_ref().filter(|holding| holding.expires_at == Some(expires_at));
    over.map(|holding| ClaimEvent::Expired(ClaimExpired { holder: holding.holder.clone() }))
        .into_iter()
        .collect()
}

fn granted(holder: &str, request: Option<&String>, expires_at: Option<Timestamp>) -> ClaimEvent {
    ClaimEvent::Granted(ClaimGranted { holder: holder.to_owned(), request: request.cloned(), expires_at })
}

fn confirmed(holder: &str) -> ClaimEvent {
    ClaimEvent::Confirmed(ClaimConfirmed { holder: holder.to_owned() })
}

fn check_holder(holder: &str) -> Result<(), Rejection> {
    check_label("holder-not-allowed", "holder", holder)
}

fn end_of_hold(seconds: Option<u32>, context: &DecisionContext<'_>) -> Result<Timestamp, Rejection> {
    let seconds = seconds.unwrap_or(HOLD_SECONDS_DEFAULT);
    if !(1..=HOLD_SECONDS_MAX).contains(&seconds) {
        let message = format!("hold_seconds is {seconds}; give 1 to {HOLD_SECONDS_MAX}");
        return Err(Rejection::new("hold-not-allowed", message));
    }
    let duration = SignedDuration::from_secs(i64::from(seconds));
    Ok(context.now.checked_add(duration).unwrap_or(Timestamp::MAX))
}
