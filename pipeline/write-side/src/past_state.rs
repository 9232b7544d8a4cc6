//! The state of an aggregate as of a moment, folded from its commits by its own rules. Deliberately absent: reading the commits, and a limit on
//! their number.

use std::sync::Arc;

use jiff::Timestamp;
use millstream_contract::{commit::StoredCommit, moment::Moment, subject::StreamId};
use millstream_domain::decider::AggregateType;
use serde_json::{Value, json};

use crate::aggregate_state::{AggregateState, HistoryError};

/// A state that is being folded.
pub struct PastState {
    rules: Arc<dyn AggregateType>,
    folded: AggregateState,
    recorded_at: Option<Timestamp>,
}

impl PastState {
    /// The state before any event.
    pub fn initial(rules: &Arc<dyn AggregateType>) -> Self {
        Self { rules: Arc::clone(rules), folded: AggregateState::initial(rules), recorded_at: None }
    }

    /// Folds the next commit.
    ///
    /// # Errors
    /// [`HistoryError`]; the state must not be used afterwards.
    pub fn apply(&mut self, commit: &StoredCommit) -> Result<(), HistoryError> {
        self.folded.apply(&self.rules, commit)?;
        self.recorded_at = Some(commit.commit.recorded_at());
        Ok(())
    }

    /// How many events have been folded.
    pub fn version(&self) -> u64 {
        self.folded.version
    }

    /// The sequence of the last commit that was folded, or 0.
    pub fn last_sequence(&self) -> u64 {
        self.folded.last_sequence
    }

    /// The state for people and programs, as of `moment`, up to which the commits were folded.
    ///
    /// # Errors
    /// When the state has no JSON form.
    pub fn json(&self, stream_id: &StreamId, moment: &Moment) -> Result<Value, serde_json::Error> {
        Ok(json!({
            "aggregate": stream_id.to_string(),
            "as_of": moment.to_string(),
            "sequence": self.folded.last_sequence,
            "version": self.folded.version,
            "recorded_at": self.recorded_at.map(|time| time.to_string()),
            "state": self.rules.state_json(&self.folded.state)?,
        }))
    }
}
