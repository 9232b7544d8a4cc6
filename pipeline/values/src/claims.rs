//! `claim.<namespace>:<value>`: something that only one holder may have, such as an e-mail address or an order number.
//!
//! An aggregate cannot see the others of its type, so no rule of a `member` can know whether another member has the same e-mail address. A
//! claim can, because it is the aggregate of the value itself. Whoever wants the value claims it and holds it for a while. If the hold is not
//! confirmed in time, it expires, and the value is free again. A confirmed claim stays until it is released.
//!
//! | state | `claim` by another | `confirm` by the holder | `release` by the holder | `expire` |
//! |---|---|---|---|---|
//! | free | granted | refused | nothing | nothing |
//! | held | refused | confirmed | free | free |
//! | confirmed | refused | nothing | free | nothing |
//!
//! People and services use `claim`, `confirm` and `release`, and get an answer. [`ClaimProcess`] does it for an aggregate. It uses
//! `request-claim` and `request-confirmation`, whose refusals are events, because a process sees nothing else.
//!
//! The value itself is not in any event, only in the id, and there as a hash if an id cannot hold it ([`Namespace`]). A hash does not hide a
//! value from somebody who guesses it.

mod namespace;
mod process;
mod rules;

use std::marker::PhantomData;

use jiff::Timestamp;
use millstream_domain::decider::{ANY_COMMAND, Decider, DecisionContext, Rejection, rejections_of};
use serde::{Deserialize, Serialize};

pub use self::{
    namespace::{Namespace, VALUE_LENGTH_MAX, ValueError},
    process::{ClaimProcess, Claimant, HOLD_DEFAULT, Need},
    rules::{HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX},
};
use crate::context::InContext;

/// Claims the value. The holder of a claim may repeat it, which changes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimValue {
    /// The holder: up to 300 printable characters.
    pub holder: String,
    /// For how long it is held without being confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u32>,
}

/// Makes a held claim last until it is released.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmClaim {
    /// Who holds it.
    pub holder: String,
}

/// Gives the value back. It changes nothing if the sender does not hold the value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseClaim {
    /// Who holds it.
    pub holder: String,
}

/// Claims the value for a process: a refusal is an event. Each request is answered by one event.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestClaim {
    /// The holder.
    pub holder: String,
    /// The holder's name for this request. The same request changes nothing once it is granted.
    pub request: String,
    /// For how long it is held without being confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u32>,
}

/// Confirms a claim for a process: a refusal is an event. If the value has become free, it is claimed and confirmed at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestConfirmation {
    /// Who holds it.
    pub holder: String,
}

/// Ends a hold that has expired. It changes nothing if the claim was confirmed, released or granted again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpireClaim {
    /// The end of the hold, as it was granted.
    pub expires_at: Timestamp,
}

millstream_domain::commands! {
    /// What can be asked of a claim.
    pub enum ClaimCommand {
        Claim(ClaimValue) = "claim",
        Confirm(ConfirmClaim) = "confirm",
        Release(ReleaseClaim) = "release",
        RequestClaim(RequestClaim) = "request-claim",
        RequestConfirmation(RequestConfirmation) = "request-confirmation",
        Expire(ExpireClaim) = "expire",
    }
}

/// The value was given to someone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimGranted {
    /// The holder.
    pub holder: String,
    /// The request that it answers, if a process asked.
    pub request: Option<String>,
    /// The end of the hold; absent if the holder had already confirmed the claim.
    pub expires_at: Option<Timestamp>,
}

/// A process asked for a value that somebody else has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRefused {
    /// The holder that asked.
    pub holder: String,
    /// The request that it answers.
    pub request: String,
    /// The holder that has it.
    pub held_by: String,
}

/// The value belongs to its holder until it is released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimConfirmed {
    /// Who has it.
    pub holder: String,
}

/// A process asked to confirm a claim that somebody else has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmationRefused {
    /// The holder that asked.
    pub holder: String,
    /// The holder that has it.
    pub held_by: String,
}

/// The holder gave the value back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimReleased {
    /// Who had it.
    pub holder: String,
}

/// A hold was not confirmed in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimExpired {
    /// Who had it.
    pub holder: String,
}

millstream_domain::events! {
    /// What can happen to a claim.
    pub enum ClaimEvent of "claim" {
        Granted(ClaimGranted) = "claim-granted" v 1,
        Refused(ClaimRefused) = "claim-refused" v 1,
        Confirmed(ClaimConfirmed) = "claim-confirmed" v 1,
        ConfirmationRefused(ConfirmationRefused) = "confirmation-refused" v 1,
        Released(ClaimReleased) = "claim-released" v 1,
        Expired(ClaimExpired) = "claim-expired" v 1,
    }
}

const REJECTIONS: &[(&str, &[&str])] = &[
    (ANY_COMMAND, &["claim-id-malformed"]),
    ("claim", &["holder-not-allowed", "hold-not-allowed", "claim-taken"]),
    ("confirm", &["holder-not-allowed", "claim-not-held"]),
    ("release", &["holder-not-allowed"]),
    ("request-claim", &["holder-not-allowed", "request-not-allowed", "hold-not-allowed"]),
    ("request-confirmation", &["holder-not-allowed"]),
];

/// What the rules need to know of a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimState {
    holding: Option<Holding>,
}

/// Who has the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holding {
    holder: String,
    /// The last request that was granted.
    request: Option<String>,
    /// The end of the hold; absent once it is confirmed.
    expires_at: Option<Timestamp>,
}

impl ClaimState {
    /// Who has the value, whether it is confirmed or only held. A hold counts until its end is recorded, which may be a moment after its time
    /// is over.
    pub fn holder(&self) -> Option<&str> {
        self.holding.as_ref().map(|holding| holding.holder.as_str())
    }

    /// Whether the holder has confirmed it.
    pub fn is_confirmed(&self) -> bool {
        self.holding.as_ref().is_some_and(|holding| holding.expires_at.is_none())
    }
}

/// The rules of `claim.<namespace>:<value>` in the context `C`.
#[derive(Debug)]
pub struct Claim<C>(PhantomData<fn() -> C>);

impl<C: InContext> Decider for Claim<C> {
    type Command = ClaimCommand;
    type Event = ClaimEvent;
    type State = ClaimState;

    const CONTEXT: &'static str = C::CONTEXT;
    const AGGREGATE: &'static str = "claim";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        rejections_of(REJECTIONS).collect()
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        namespace::check_claim_id(id)
    }

    fn decide(
        state: &ClaimState,
        command: &ClaimCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<ClaimEvent>, Rejection> {
        rules::decide(state, command, context)
    }

    fn evolve(state: &mut ClaimState, event: &ClaimEvent) {
        match event {
            ClaimEvent::Granted(granted) => {
                state.holding = Some(Holding {
                    holder: granted.holder.clone(),
                    request: granted.request.clone(),
                    expires_at: granted.expires_at,
                });
            }
            ClaimEvent::Confirmed(confirmed) => {
                let request = state.holding.take().and_then(|holding| holding.request);
                state.holding = Some(Holding { holder: confirmed.holder.clone(), request, expires_at: None });
            }
            ClaimEvent::Released(_) | ClaimEvent::Expired(_) => state.holding = None,
            ClaimEvent::Refused(_) | ClaimEvent::ConfirmationRefused(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
