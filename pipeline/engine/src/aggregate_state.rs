//! An aggregate's state together with where in its history it stands.

use std::sync::Arc;

use crate::{
    contract::commit::{COMMIT_HASH_LENGTH, StoredCommit},
    decider::{AggregateType, AnyState, EventError},
};

/// A history that cannot be folded. The aggregate's commands are set aside; all other aggregates go on.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// An event cannot be read.
    #[error("history of {stream_id} cannot be read at sequence {sequence}")]
    Event {
        /// The aggregate.
        stream_id: String,
        /// Where.
        sequence: u64,
        /// Why.
        #[source]
        source: EventError,
    },
    /// A version is missing or doubled.
    #[error("history of {stream_id} is broken at sequence {sequence}: version {found} follows {version}")]
    Version {
        /// The aggregate.
        stream_id: String,
        /// Where.
        sequence: u64,
        /// The version before.
        version: u64,
        /// The version of the commit.
        found: u64,
    },
}

/// A state, its version and its place in EVENTS.
pub struct AggregateState {
    /// The decider's state.
    pub state: AnyState,
    /// Number of events folded.
    pub version: u64,
    /// Sequence of the last commit folded; what the next append expects. 0 for none.
    pub last_sequence: u64,
    /// Highest COMMANDS position that the history names; 0 for none.
    pub last_position: u64,
    /// Hash of the last commit folded.
    pub last_hash: Option<[u8; COMMIT_HASH_LENGTH]>,
    /// Whether a read from the leader or an append of our own has shown, since this handler became active, that nothing
    /// followed. Without it nothing may be refused.
    pub current: bool,
}

impl std::fmt::Debug for AggregateState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AggregateState")
            .field("version", &self.version)
            .field("last_sequence", &self.last_sequence)
            .field("last_position", &self.last_position)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl AggregateState {
    /// The state before any event.
    pub fn initial(aggregate: &Arc<dyn AggregateType>) -> Self {
        Self {
            state: aggregate.initial(),
            version: 0,
            last_sequence: 0,
            last_position: 0,
            last_hash: None,
            current: false,
        }
    }

    /// The state after `history`, which begins with the first commit.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn fold(aggregate: &Arc<dyn AggregateType>, history: &[StoredCommit]) -> Result<Self, HistoryError> {
        let mut state = Self::initial(aggregate);
        for commit in history {
            state.apply(aggregate, commit)?;
        }
        Ok(state)
    }

    /// The state as commands before `position` left it: what a command at `position` is decided on when later ones have
    /// taken effect already.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn fold_below(
        aggregate: &Arc<dyn AggregateType>,
        history: &[StoredCommit],
        position: u64,
    ) -> Result<Self, HistoryError> {
        let mut state = Self::initial(aggregate);
        for commit in history {
            for envelope in commit.envelopes().filter(|envelope| envelope.command.position < position) {
                state.evolve(aggregate, commit, &envelope)?;
                state.last_sequence = commit.broker_sequence;
            }
        }
        Ok(state)
    }

    /// Folds one commit.
    ///
    /// # Errors
    /// [`HistoryError`]; the state is then of no further use.
    pub fn apply(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        commit: &StoredCommit,
    ) -> Result<(), HistoryError> {
        if commit.commit.first_version != self.version + 1 {
            return Err(HistoryError::Version {
                stream_id: commit.stream_id.to_string(),
                sequence: commit.broker_sequence,
                version: self.version,
                found: commit.commit.first_version,
            });
        }
        for envelope in commit.envelopes() {
            self.evolve(aggregate, commit, &envelope)?;
        }
        self.last_sequence = commit.broker_sequence;
        self.last_position = self.last_position.max(commit.commit.last_position());
        self.last_hash = Some(commit.hash);
        Ok(())
    }

    fn evolve(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        commit: &StoredCommit,
        envelope: &crate::contract::commit::Envelope<'_>,
    ) -> Result<(), HistoryError> {
        aggregate.evolve(&mut self.state, envelope).map_err(|source| HistoryError::Event {
            stream_id: commit.stream_id.to_string(),
            sequence: commit.broker_sequence,
            source,
        })?;
        self.version += 1;
        Ok(())
    }
}
