//! The pure half of a command that changes several aggregates: from their states to one commit each, or to an outcome.
//!
//! Such a command is a round of its own, so every aggregate sees it in the order of positions, as it sees commands of its own.
//! The state on which it is decided has the effects of exactly the positions before it. If an aggregate has an effect of this
//! position or a later one, an earlier handler has settled the command, and the history of the command's own aggregate says how.

use std::sync::Arc;

use millstream_contract::{
    commit::{Commit, StoredCommit},
    outcome::Outcome,
    subject::StreamId,
};
use millstream_domain::decider::{AggregateType, AnyState, NewEvent, Together};

use super::{CommitDraft, Decidable, context_of, find_accepted, not_decided, too_late, unchanged};
use crate::aggregate_state::{AggregateState, HistoryError};

/// A command with partners.
#[derive(Clone, Copy)]
pub struct Joint<'a> {
    /// The command.
    pub command: Decidable<'a>,
    /// The rules of its own aggregate and of its partners, which are of the same type.
    pub aggregate: &'a Arc<dyn AggregateType>,
    /// The partners.
    pub partners: &'a [StreamId],
}

/// One of the aggregates that the command changes, with its whole history.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    /// Its state.
    pub state: &'a AggregateState,
    /// Its history.
    pub history: &'a [StoredCommit],
}

/// What became of a command with partners.
#[derive(Debug)]
pub enum JointDecision {
    /// The command has its outcome, and nothing is to be appended.
    Settled(Outcome),
    /// The command is accepted once these commits are stored together.
    Append {
        /// The commit of each partner; none for a partner that does not change.
        partners: Vec<Option<Commit>>,
        /// The commit of its own aggregate. It is stored last, so that a reader that has reached its sequence has seen all of them.
        own: Commit,
    },
}

impl std::fmt::Debug for Joint<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Joint")
            .field("command", &self.command.envelope.address)
            .field("partners", &self.partners)
            .finish_non_exhaustive()
    }
}

/// Decides on current states, none of which has an effect of the command's position or a later one, and evolves them.
pub fn decide_together(
    joint: &Joint<'_>,
    own: &mut AggregateState,
    partners: &mut [&mut AggregateState],
    mut commit_id: impl FnMut() -> Arc<str>,
) -> JointDecision {
    let together = match decide(joint, own, partners) {
        Ok(together) if together.own.is_empty() => return JointDecision::Settled(unchanged(own)),
        Ok(together) => together,
        Err(outcome) => return JointDecision::Settled(outcome),
    };
    let partners = partners.iter_mut().zip(together.partners);
    let partners =
        partners.map(|(state, events)| commit(joint, state, true, events, &mut commit_id)).collect();
    match commit(joint, own, false, together.own, &mut commit_id) {
        Some(own) => JointDecision::Append { partners, own },
        None => JointDecision::Settled(unchanged(own)),
    }
}

/// Decides when the history of some member has an effect of the command's position or a later one. The history of the command's
/// own aggregate must have been read last: whoever settled the command did so before any later effect, so a history that was
/// read after the others cannot lack it.
///
/// # Errors
/// [`HistoryError`].
pub fn decide_overtaken(
    joint: &Joint<'_>,
    own: Member<'_>,
    partners: &[Member<'_>],
    mut commit_id: impl FnMut() -> Arc<str>,
) -> Result<JointDecision, HistoryError> {
    let envelope = joint.command.envelope;
    let position = envelope.position;
    if let Some(accepted) = find_accepted(own.history, position) {
        return Ok(JointDecision::Settled(accepted));
    }
    let past = |member: &Member<'_>| AggregateState::fold_below(joint.aggregate, member.history, position);
    let mut own_past = past(&own)?;
    let mut pasts = partners.iter().map(past).collect::<Result<Vec<_>, _>>()?;
    let mut views: Vec<&mut AggregateState> = pasts.iter_mut().collect();
    let together = match decide(joint, &mut own_past, &mut views) {
        Ok(together) if together.own.is_empty() => return Ok(JointDecision::Settled(unchanged(&own_past))),
        Ok(together) => together,
        Err(outcome) => return Ok(JointDecision::Settled(outcome)),
    };
    let holds = |member: &Member<'_>| find_accepted(member.history, position).is_some();
    if !partners.iter().any(holds) {
        return Ok(JointDecision::Settled(too_late(envelope)));
    }
    // A server that lost its tail may have kept only the beginning of a batch. What is missing of the batch is appended again.
    let missing = |member: &Member<'_>, events: &[NewEvent]| !events.is_empty() && !holds(member);
    let too_far = |member: &Member<'_>| member.state.last_position >= position;
    let members = partners.iter().chain([&own]);
    let events = together.partners.iter().chain([&together.own]);
    if members.zip(events).any(|(member, events)| missing(member, events) && too_far(member)) {
        let message = "EVENTS holds what this command did to one aggregate and not what it did to another, which has changed since: the server has lost messages";
        return Ok(JointDecision::Settled(Outcome::DeadLettered {
            code: "history-torn".into(),
            message: message.into(),
        }));
    }
    tracing::warn!(position, address = %envelope.address, "completing what the server has lost a part of");
    let mut again = |member: &Member<'_>, partner, events: Vec<NewEvent>| {
        missing(member, &events)
            .then(|| draft(joint, member.state, partner, events, &mut commit_id))
            .flatten()
    };
    let commits = partners.iter().zip(together.partners).map(|(member, events)| again(member, true, events));
    let commits = commits.collect();
    Ok(match again(&own, false, together.own) {
        Some(own) => JointDecision::Append { partners: commits, own },
        None => JointDecision::Settled(too_late(envelope)),
    })
}

/// Asks the rules; the error is a complete outcome.
fn decide(
    joint: &Joint<'_>,
    own: &mut AggregateState,
    partners: &mut [&mut AggregateState],
) -> Result<Together<NewEvent>, Outcome> {
    let context = context_of(joint.aggregate, joint.command.envelope, own.version)?;
    let mut states: Vec<&mut AnyState> = partners.iter_mut().map(|partner| &mut partner.state).collect();
    joint
        .aggregate
        .decide_together(&mut own.state, &mut states, joint.command.command, &context)
        .map_err(|error| not_decided(&error))
}

/// The commit of one member, whose state `events` have already evolved.
fn commit(
    joint: &Joint<'_>,
    state: &mut AggregateState,
    partner: bool,
    events: Vec<NewEvent>,
    commit_id: &mut impl FnMut() -> Arc<str>,
) -> Option<Commit> {
    let count = events.len() as u64;
    let commit = draft(joint, state, partner, events, commit_id)?;
    state.version += count;
    state.last_position = joint.command.envelope.position;
    Some(commit)
}

fn draft(
    joint: &Joint<'_>,
    state: &AggregateState,
    partner: bool,
    events: Vec<NewEvent>,
    commit_id: &mut impl FnMut() -> Arc<str>,
) -> Option<Commit> {
    if events.is_empty() {
        return None;
    }
    let envelope = joint.command.envelope;
    let mut draft = CommitDraft::new(state);
    draft.add(envelope, partner.then(|| envelope.address.stream_id.as_str().into()), events);
    draft.finish(commit_id)
}
