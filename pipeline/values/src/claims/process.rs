//! The process that claims values for an aggregate. It requests the value that the aggregate needs, tells the aggregate whether it got the
//! value, and confirms the value that the aggregate keeps.
//!
//! | event | what follows |
//! |---|---|
//! | the aggregate needs a value | a claim is requested |
//! | the claim is granted | the aggregate is told, and the end of the hold is set as a timer |
//! | the claim is refused | the aggregate is told |
//! | the aggregate keeps the value | the confirmation is requested |
//! | the aggregate gives the value up | the claim is released |
//! | the hold expires, or another has the value when it is to be confirmed | the aggregate is told that it is refused |
//!
//! Notes: `<process>.claims`, key `<claim>/<aggregate>`: the value, as long as it is requested or held.

use std::marker::PhantomData;

use jiff::{SignedDuration, Timestamp};
use millstream_contract::commit::EventEnvelope;
use millstream_domain::{
    decider::{Decider, EventSet},
    process::{Effect, Process, ProcessCommand, ProcessError, Timer},
    projection::Rows,
};
use serde::{Deserialize, Serialize};

use super::{
    Claim, ClaimEvent, ExpireClaim, HOLD_SECONDS_MAX, Namespace, ReleaseClaim, RequestClaim,
    RequestConfirmation,
};
use crate::{context::InContext, table::Joined};

/// How long a claim is held while its aggregate decides. Usually that takes milliseconds; an hour is longer than a stage usually stands still.
pub const HOLD_DEFAULT: SignedDuration = SignedDuration::from_hours(1);

/// What an event means for a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// The aggregate needs it, and waits for [`Claimant::granted`] or [`Claimant::refused`].
    Claim(String),
    /// The aggregate has been granted it and keeps it.
    Keep(String),
    /// The aggregate gives it up. A value that the same event needs or keeps in another form is not released.
    Release(String),
}

/// An aggregate that needs a unique value, for [`ClaimProcess`].
///
/// The aggregate records that it needs the value, and then receives one of two commands. Both may come late or more than once, so the aggregate
/// decides whether they still matter, as for any command of a process. After `refused` it must not use the value, even if the value was granted
/// before: the answer then came so late that the hold had expired, and another aggregate has the value.
pub trait Claimant: Send + Sync + 'static {
    /// The context of its claims.
    type Context: InContext;
    /// The aggregate.
    type Aggregate: Decider;

    /// The name of the process, lower-kebab-case, at most 57 characters. It must never change.
    const PROCESS: &'static str;
    /// The namespace of the values. Aggregates of different types may share a namespace, each with a process of its own; a value then belongs
    /// to only one of all these aggregates.
    const NAMESPACE: Namespace;

    /// What an event means for values, in order.
    fn needs(event: &<Self::Aggregate as Decider>::Event) -> Vec<Need>;

    /// The command that tells the aggregate `id` that it has `value`.
    ///
    /// # Errors
    /// As [`ProcessCommand::to`].
    fn granted(id: &str, value: &str) -> Result<ProcessCommand, ProcessError>;

    /// The command that tells the aggregate `id` that it cannot have `value`.
    ///
    /// # Errors
    /// As [`ProcessCommand::to`].
    fn refused(id: &str, value: &str) -> Result<ProcessCommand, ProcessError>;
}

/// Claims values for the aggregates of `A`.
#[derive(Debug)]
pub struct ClaimProcess<A> {
    hold_seconds: u32,
    claimant: PhantomData<fn() -> A>,
}

impl<A: Claimant> Default for ClaimProcess<A> {
    fn default() -> Self {
        Self::new(HOLD_DEFAULT)
    }
}

/// A note of a value that an aggregate needs or has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    value: String,
}

impl<A: Claimant> ClaimProcess<A> {
    const JOINED: Joined = Joined::new(A::PROCESS, "claims");
    const TABLE: &'static str = Self::JOINED.as_str();
    const TABLES: &'static [&'static str] = &[Self::TABLE];

    /// A process whose claims expire if they are not confirmed within this time: whole seconds, from one second to 31 days.
    pub fn new(hold: SignedDuration) -> Self {
        let seconds = hold.as_secs().clamp(1, i64::from(HOLD_SECONDS_MAX));
        let hold_seconds = u32::try_from(seconds).unwrap_or(HOLD_SECONDS_MAX);
        Self { hold_seconds, claimant: PhantomData }
    }

    fn of_aggregate(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let event = <A::Aggregate as Decider>::Event::from_envelope(envelope)?;
        let id = envelope.stream_id.id();
        let holder = envelope.stream_id.to_string();
        let needs = A::needs(&event);
        // An aggregate that only changes the form of a value keeps its claim.
        let kept: Vec<String> = needs.iter().filter_map(kept_claim::<A>).collect();
        let mut effects = Vec::new();
        for need in needs {
            let (Need::Claim(value) | Need::Keep(value) | Need::Release(value)) = &need;
            let claim = A::NAMESPACE.claim_id(value);
            let effect = match (need, claim) {
                (Need::Claim(value), Ok(claim)) => {
                    let request = envelope.aggregate_version.to_string();
                    let hold_seconds = Some(self.hold_seconds);
                    let body = RequestClaim { holder: holder.clone(), request, hold_seconds };
                    rows.write(Self::TABLE, &key(&claim, id), &Note { value });
                    to_claim::<A>(&claim, "request-claim", &body)?
                }
                // A text that cannot be claimed can belong to nobody.
                (Need::Claim(value), Err(_)) => A::refused(id, &value)?,
                (Need::Keep(value), Ok(claim)) => {
                    rows.write(Self::TABLE, &key(&claim, id), &Note { value });
                    let body = RequestConfirmation { holder: holder.clone() };
                    to_claim::<A>(&claim, "request-confirmation", &body)?
                }
                (Need::Release(_), Ok(claim)) if kept.contains(&claim) => continue,
                (Need::Release(_), Ok(claim)) => {
                    rows.delete(Self::TABLE, &key(&claim, id));
                    to_claim::<A>(&claim, "release", &ReleaseClaim { holder: holder.clone() })?
                }
                (Need::Keep(_) | Need::Release(_), Err(_)) => continue,
            };
            effects.push(Effect::Send(effect));
        }
        Ok(effects)
    }

    fn of_claim(
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let claim = envelope.stream_id.id();
        if !A::NAMESPACE.has(claim) {
            return Ok(vec![]);
        }
        let event = ClaimEvent::from_envelope(envelope)?;
        let mut effects: Vec<Effect> = hold_timer::<A>(claim, &event)?.into_iter().collect();
        let (ClaimEvent::Granted(super::ClaimGranted { holder, .. })
        | ClaimEvent::Refused(super::ClaimRefused { holder, .. })
        | ClaimEvent::Confirmed(super::ClaimConfirmed { holder })
        | ClaimEvent::ConfirmationRefused(super::ConfirmationRefused { holder, .. })
        | ClaimEvent::Released(super::ClaimReleased { holder })
        | ClaimEvent::Expired(super::ClaimExpired { holder })) = &event;
        let Some(id) = own_id::<A>(holder) else { return Ok(effects) };
        let key = key(claim, id);
        let Some(note) = rows.read::<Note>(Self::TABLE, &key)? else { return Ok(effects) };
        match event {
            ClaimEvent::Granted(_) => effects.push(Effect::Send(A::granted(id, &note.value)?)),
            ClaimEvent::Confirmed(_) => {}
            ClaimEvent::Refused(_) | ClaimEvent::ConfirmationRefused(_) | ClaimEvent::Expired(_) => {
                rows.delete(Self::TABLE, &key);
                effects.push(Effect::Send(A::refused(id, &note.value)?));
            }
            // The answer to an earlier release may come after a new request. If a person releases a claim by hand, its holder does not learn of
            // it.
            ClaimEvent::Released(_) => {}
        }
        Ok(effects)
    }
}

impl<A: Claimant> Process for ClaimProcess<A> {
    fn name(&self) -> &'static str {
        A::PROCESS
    }

    fn tables(&self) -> &'static [&'static str] {
        Self::TABLES
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        let own = (A::Aggregate::CONTEXT, A::Aggregate::AGGREGATE);
        [own, (A::Context::CONTEXT, Claim::<A::Context>::AGGREGATE)].contains(&(context, aggregate))
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let is_claim = envelope.stream_id.context() == A::Context::CONTEXT
            && envelope.stream_id.aggregate() == Claim::<A::Context>::AGGREGATE;
        if is_claim { Self::of_claim(envelope, rows) } else { self.of_aggregate(envelope, rows) }
    }
}

/// The claim of a value that is needed or kept.
fn kept_claim<A: Claimant>(need: &Need) -> Option<String> {
    match need {
        Need::Claim(value) | Need::Keep(value) => A::NAMESPACE.claim_id(value).ok(),
        Need::Release(_) => None,
    }
}

/// The timer of a hold belongs to the claim, whoever holds it.
fn hold_timer<A: Claimant>(claim: &str, event: &ClaimEvent) -> Result<Option<Effect>, ProcessError> {
    Ok(match event {
        ClaimEvent::Granted(granted) => match granted.expires_at {
            Some(expires_at) => Some(Effect::SetTimer(timer::<A>(claim, expires_at)?)),
            None => None,
        },
        ClaimEvent::Confirmed(_) | ClaimEvent::Released(_) => Some(Effect::CancelTimer(timer_name(claim))),
        ClaimEvent::Refused(_) | ClaimEvent::ConfirmationRefused(_) | ClaimEvent::Expired(_) => None,
    })
}

fn timer<A: Claimant>(claim: &str, expires_at: Timestamp) -> Result<Timer, ProcessError> {
    let command = to_claim::<A>(claim, "expire", &ExpireClaim { expires_at })?;
    Ok(Timer { name: timer_name(claim), at: expires_at, command })
}

fn timer_name(claim: &str) -> String {
    format!("hold:{claim}")
}

fn to_claim<A: Claimant>(
    claim: &str,
    command: &str,
    body: &impl Serialize,
) -> Result<ProcessCommand, ProcessError> {
    ProcessCommand::to::<Claim<A::Context>>(claim, command, body)
}

/// The id of the aggregate behind the name of a holder; `None` if the holder is somebody else.
fn own_id<A: Claimant>(holder: &str) -> Option<&str> {
    let rest = holder.strip_prefix(A::Aggregate::CONTEXT)?.strip_prefix('.')?;
    rest.strip_prefix(A::Aggregate::AGGREGATE)?.strip_prefix('.')
}

fn key(claim: &str, id: &str) -> String {
    format!("{claim}/{id}")
}
