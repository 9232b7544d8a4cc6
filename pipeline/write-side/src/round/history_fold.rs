//! Folds a history commit by commit, and tells what became of commands whose positions the history has passed. Nothing of the history is kept
//! in memory, so it may have any length.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millstream_contract::{
    commit::{EventEnvelope, StoredCommit},
    outcome::Outcome,
};
use millstream_domain::decider::AggregateType;

use super::{Decidable, context_of, not_decided, too_late, unchanged};
use crate::aggregate_state::{AggregateState, HistoryError};

/// What became of commands at or below the last position that a history names: an earlier handler may have settled them.
#[derive(Debug, Default)]
pub struct Past(HashMap<u64, Outcome>);

impl Past {
    /// The outcome of the command at `position`; `None` if the fold did not begin before this position.
    pub(super) fn outcome(&self, position: u64) -> Option<&Outcome> {
        self.0.get(&position)
    }
}

/// The fold. It relies on the order in which an aggregate's commands are decided: within a history, positions only increase.
pub struct HistoryFold<'a, 'c> {
    aggregate: &'a Arc<dyn AggregateType>,
    state: AggregateState,
    /// Commands that the history has not passed yet, by position.
    ahead: BTreeMap<u64, Decidable<'c>>,
    passed: Past,
}

impl<'a, 'c> HistoryFold<'a, 'c> {
    /// Begins at `state`, which knows nothing about commands at positions up to its last one. `commands` are those to be decided.
    pub fn new(
        aggregate: &'a Arc<dyn AggregateType>,
        state: AggregateState,
        commands: &[Decidable<'c>],
    ) -> Self {
        let known = state.last_position;
        let positions = commands.iter().map(|command| (command.envelope.position, *command));
        let ahead = positions.filter(|(position, _)| *position > known).collect();
        Self { aggregate, state, ahead, passed: Past::default() }
    }

    /// Folds the next commit.
    ///
    /// # Errors
    /// [`HistoryError`]. The fold must not be used afterwards.
    pub fn apply(&mut self, commit: &StoredCommit) -> Result<(), HistoryError> {
        let Self { aggregate, state, ahead, passed } = self;
        state.apply_seeing(aggregate, commit, |state, envelope| {
            let position = envelope.command.position;
            while let Some(first) = ahead.first_entry().filter(|first| *first.key() < position) {
                let (position, command) = first.remove_entry();
                passed.0.entry(position).or_insert_with(|| decide_passed(aggregate, state, &command));
            }
            if ahead.contains_key(&position) {
                count_accepted(&mut passed.0, commit, envelope);
            }
        })
    }

    /// The state after the last commit, and what became of commands that the history has passed.
    #[must_use]
    pub fn finish(self) -> (AggregateState, Past) {
        (self.state, self.passed)
    }
}

/// Adds an event to the known effects of the command at its position.
fn count_accepted(passed: &mut HashMap<u64, Outcome>, commit: &StoredCommit, envelope: &EventEnvelope<'_>) {
    let accepted = passed.entry(envelope.command.position).or_insert(Outcome::Accepted {
        sequence: commit.broker_sequence,
        version: 0,
        events: 0,
    });
    if let Outcome::Accepted { sequence, version, events } = accepted
        && *sequence == commit.broker_sequence
    {
        (*version, *events) = (envelope.aggregate_version, *events + 1);
    }
}

/// Decides a command on the state that the commands before it left, if it has not taken effect although later ones have.
fn decide_passed(
    aggregate: &Arc<dyn AggregateType>,
    state: &AggregateState,
    command: &Decidable<'_>,
) -> Outcome {
    let context = match context_of(aggregate, command.envelope, state.version) {
        Ok(context) => context,
        Err(outcome) => return outcome,
    };
    let mut copy = aggregate.clone_state(&state.state);
    match aggregate.decide(&mut copy, command.command, &context) {
        Ok(events) if events.is_empty() => unchanged(state),
        Ok(_) => too_late(command.envelope),
        Err(error) => not_decided(&error),
    }
}
