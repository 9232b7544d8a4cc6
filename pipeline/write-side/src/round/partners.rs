//! The pure half of a command that changes several aggregates: from their states to one commit for each, or to an outcome.
//!
//! Such a command is a round of its own, so each aggregate sees it in the order of positions, like its own commands. The state on which it is
//! decided has exactly the effects of the positions before it. If an aggregate already has an effect of this position or a later one, an
//! earlier handler has settled the command, and the history of the command's own aggregate says how.

use std::sync::Arc;

use millstream_contract::{
    commit::{Commit, StoredCommit},
    outcome::Outcome,
    subject::StreamId,
};
use millstream_domain::decider::{AggregateType, AnyState, EventsWithPartners, NewEvent};

use super::{CommitDraft, Decidable, context_of, not_decided, too_late, unchanged};
use crate::aggregate_state::{AggregateState, HistoryError};

/// A command with partners.
#[derive(Clone, Copy)]
pub struct CommandWithPartners<'a> {
    /// Its headers, its position and its fields.
    pub decidable: Decidable<'a>,
    /// The rules of its own aggregate and of its partners, which are of the same type.
    pub aggregate: &'a Arc<dyn AggregateType>,
    /// The partners.
    pub partners: &'a [StreamId],
}

/// One of the aggregates that the command changes, after its whole history has been read.
pub struct AggregateWithPast<'a> {
    /// Its state.
    pub state: &'a AggregateState,
    /// What its history says about the command.
    pub past: &'a mut PastOfCommand,
}

/// What the whole history of an aggregate says about one command.
pub struct PastOfCommand {
    position: u64,
    /// The state that the commands before it left.
    below: AggregateState,
    /// The command's outcome, if the history holds its events.
    accepted: Option<Outcome>,
}

impl PastOfCommand {
    /// The past of `command` in an aggregate before any commit has been seen.
    pub fn new(command: &CommandWithPartners<'_>) -> Self {
        let below = AggregateState::initial(command.aggregate);
        Self { position: command.decidable.envelope.position, below, accepted: None }
    }

    /// Takes the next commit of the history.
    ///
    /// # Errors
    /// [`HistoryError`]. The past must not be used afterwards.
    pub fn see(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        commit: &StoredCommit,
    ) -> Result<(), HistoryError> {
        self.below.apply_below(aggregate, commit, self.position)?;
        let own = commit.envelopes().filter(|envelope| envelope.command.position == self.position);
        let (events, version) =
            own.fold((0, 0), |(count, _), envelope| (count + 1, envelope.aggregate_version));
        if events > 0 && self.accepted.is_none() {
            self.accepted = Some(Outcome::Accepted { sequence: commit.broker_sequence, version, events });
        }
        Ok(())
    }
}

/// The result of a command with partners.
#[derive(Debug)]
pub enum DecisionWithPartners {
    /// The command has its outcome, and nothing is appended.
    Settled(Outcome),
    /// The command is accepted once these commits are stored together.
    Append {
        /// The commit of each partner; none for a partner that does not change.
        partners: Vec<Option<Commit>>,
        /// The commit of its own aggregate. It is stored last, so that a reader that has reached its sequence has seen all of them.
        own: Commit,
    },
}

impl std::fmt::Debug for CommandWithPartners<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CommandWithPartners")
            .field("command", &self.decidable.envelope.address)
            .field("partners", &self.partners)
            .finish_non_exhaustive()
    }
}

/// Decides on current states, none of which has an effect of the command's position or a later one, and evolves the states.
pub fn decide_with_partners(
    command: &CommandWithPartners<'_>,
    own: &mut AggregateState,
    partners: &mut [&mut AggregateState],
    mut commit_id: impl FnMut() -> Arc<str>,
) -> DecisionWithPartners {
    let together = match decide(command, own, partners) {
        Ok(together) if together.own.is_empty() => return DecisionWithPartners::Settled(unchanged(own)),
        Ok(together) => together,
        Err(outcome) => return DecisionWithPartners::Settled(outcome),
    };
    let partners = partners.iter_mut().zip(together.partners);
    let partners =
        partners.map(|(state, events)| commit(command, state, true, events, &mut commit_id)).collect();
    match commit(command, own, false, together.own, &mut commit_id) {
        Some(own) => DecisionWithPartners::Append { partners, own },
        None => DecisionWithPartners::Settled(unchanged(own)),
    }
}

/// Decides if the history of some aggregate has an effect of the command's position or a later one. The history of the command's own aggregate
/// must have been read last. A handler that settled the command did so before any later effect, so a history that was read after the others
/// cannot lack it.
pub fn decide_overtaken(
    command: &CommandWithPartners<'_>,
    own: AggregateWithPast<'_>,
    partners: &mut [AggregateWithPast<'_>],
    mut commit_id: impl FnMut() -> Arc<str>,
) -> DecisionWithPartners {
    let envelope = command.decidable.envelope;
    let position = envelope.position;
    if let Some(accepted) = own.past.accepted.clone() {
        return DecisionWithPartners::Settled(accepted);
    }
    let mut views: Vec<&mut AggregateState> =
        partners.iter_mut().map(|partner| &mut partner.past.below).collect();
    let together = match decide(command, &mut own.past.below, &mut views) {
        Ok(together) if together.own.is_empty() => {
            return DecisionWithPartners::Settled(unchanged(&own.past.below));
        }
        Ok(together) => together,
        Err(outcome) => return DecisionWithPartners::Settled(outcome),
    };
    let holds = |aggregate: &AggregateWithPast<'_>| aggregate.past.accepted.is_some();
    if !partners.iter().any(holds) {
        return DecisionWithPartners::Settled(too_late(envelope));
    }
    // A server that lost its tail may have kept only the beginning of a batch. The missing rest of the batch is appended again.
    let missing =
        |aggregate: &AggregateWithPast<'_>, events: &[NewEvent]| !events.is_empty() && !holds(aggregate);
    let too_far = |aggregate: &AggregateWithPast<'_>| aggregate.state.last_position >= position;
    let aggregates = partners.iter().chain([&own]);
    let events = together.partners.iter().chain([&together.own]);
    if aggregates.zip(events).any(|(aggregate, events)| missing(aggregate, events) && too_far(aggregate)) {
        let message = "EVENTS holds what this command did to one aggregate and not what it did to another, which has changed since: the server has lost messages";
        return DecisionWithPartners::Settled(Outcome::DeadLettered {
            code: "history-torn".into(),
            message: message.into(),
        });
    }
    tracing::warn!(position, address = %envelope.address, "completing what the server has lost a part of");
    let mut again = |aggregate: &AggregateWithPast<'_>, partner, events: Vec<NewEvent>| {
        missing(aggregate, &events)
            .then(|| draft(command, aggregate.state, partner, events, &mut commit_id))
            .flatten()
    };
    let commits =
        partners.iter().zip(together.partners).map(|(aggregate, events)| again(aggregate, true, events));
    let commits = commits.collect();
    match again(&own, false, together.own) {
        Some(own) => DecisionWithPartners::Append { partners: commits, own },
        None => DecisionWithPartners::Settled(too_late(envelope)),
    }
}

/// Calls the rules. An error is a complete outcome.
fn decide(
    command: &CommandWithPartners<'_>,
    own: &mut AggregateState,
    partners: &mut [&mut AggregateState],
) -> Result<EventsWithPartners<NewEvent>, Outcome> {
    let context = context_of(command.aggregate, command.decidable.envelope, own.version)?;
    let mut states: Vec<&mut AnyState> = partners.iter_mut().map(|partner| &mut partner.state).collect();
    command
        .aggregate
        .decide_with_partners(&mut own.state, &mut states, command.decidable.command, &context)
        .map_err(|error| not_decided(&error))
}

/// The commit of one aggregate, whose state `events` have already evolved.
fn commit(
    command: &CommandWithPartners<'_>,
    state: &mut AggregateState,
    partner: bool,
    events: Vec<NewEvent>,
    commit_id: &mut impl FnMut() -> Arc<str>,
) -> Option<Commit> {
    let count = events.len() as u64;
    let commit = draft(command, state, partner, events, commit_id)?;
    state.version += count;
    state.last_position = command.decidable.envelope.position;
    Some(commit)
}

fn draft(
    command: &CommandWithPartners<'_>,
    state: &AggregateState,
    partner: bool,
    events: Vec<NewEvent>,
    commit_id: &mut impl FnMut() -> Arc<str>,
) -> Option<Commit> {
    if events.is_empty() {
        return None;
    }
    let envelope = command.decidable.envelope;
    let mut draft = CommitDraft::new(state);
    draft.add(envelope, partner.then(|| envelope.address.stream_id.as_str().into()), events);
    draft.finish(commit_id)
}
