//! An aggregate's state, together with its place in the aggregate's history.

use std::sync::Arc;

use millstream_contract::{
    commit::{COMMIT_HASH_LENGTH, EventEnvelope, StoredCommit},
    message_pack,
};
use millstream_domain::decider::{AggregateType, AnyState, EventError};
use millstream_store::sealed::{seal, unseal};
use serde::{Deserialize, Serialize};

/// Why a history cannot be folded. The handler sets the aggregate's commands aside, and continues with all other aggregates.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// An event cannot be read.
    #[error("history of {stream_id} cannot be read at sequence {sequence}")]
    Event {
        /// The aggregate.
        stream_id: String,
        /// The sequence of its commit.
        sequence: u64,
        /// Why.
        #[source]
        source: EventError,
    },
    /// A version is missing, or occurs twice.
    #[error("history of {stream_id} is broken at sequence {sequence}: version {found} follows {version}")]
    Version {
        /// The aggregate.
        stream_id: String,
        /// The sequence of the commit.
        sequence: u64,
        /// The version after the commit before.
        version: u64,
        /// The version of the commit.
        found: u64,
    },
}

/// A state with its version and its place in EVENTS.
pub struct AggregateState {
    /// The state that the decider folds.
    pub state: AnyState,
    /// How many events have been folded.
    pub version: u64,
    /// The sequence of the last commit that was folded, or 0. The next append expects it.
    pub last_sequence: u64,
    /// The highest position that the history names, or 0. A command at or below it may already have taken effect.
    pub last_position: u64,
    /// The hash of the last commit that was folded. The next commit names it, which chains the history.
    pub last_hash: Option<[u8; COMMIT_HASH_LENGTH]>,
    /// Whether, since this handler became active, a read from the leader or one of its own appends has shown that no commit follows. Otherwise
    /// the state may be stale, and no command may be rejected on it.
    pub current: bool,
    /// The version of the state that the file of snapshots has, or 0.
    pub snapshot_version: u64,
    /// The version at which the state's size was last measured, and its encoded bytes at that version.
    pub weighed: Option<(u64, u64)>,
}

/// An [`AggregateState`] as the file holds it.
#[derive(Serialize, Deserialize)]
struct Snapshot<'a> {
    state_version: u32,
    version: u64,
    last_sequence: u64,
    last_position: u64,
    #[serde(with = "serde_bytes")]
    last_hash: Option<&'a [u8]>,
    #[serde(with = "serde_bytes")]
    state: &'a [u8],
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
            snapshot_version: 0,
            weighed: None,
        }
    }

    /// Encodes a snapshot of the state, with a checksum: the expected sequence of an append says nothing about the fields of a state.
    pub fn encode(&self, aggregate: &Arc<dyn AggregateType>) -> Vec<u8> {
        let snapshot = Snapshot {
            state_version: aggregate.state_version(),
            version: self.version,
            last_sequence: self.last_sequence,
            last_position: self.last_position,
            last_hash: self.last_hash.as_ref().map(<[u8; COMMIT_HASH_LENGTH]>::as_slice),
            state: &aggregate.encode_state(&self.state),
        };
        let mut encoded = rmp_serde::to_vec(&snapshot).expect("a snapshot holds only numbers and bytes");
        seal(&[], &mut encoded);
        encoded
    }

    /// Decodes a snapshot. `None` if it has another shape, as after an upgrade, or was altered on the disk. The state may be stale, so it is
    /// not marked as current.
    pub fn decode(aggregate: &Arc<dyn AggregateType>, bytes: &[u8]) -> Option<Self> {
        let snapshot: Snapshot<'_> = message_pack::from_slice(unseal(&[], bytes)?).ok()?;
        if snapshot.state_version != aggregate.state_version() {
            return None;
        }
        let last_hash = snapshot.last_hash.map(<[u8; COMMIT_HASH_LENGTH]>::try_from).transpose().ok()?;
        Some(Self {
            state: aggregate.decode_state(snapshot.state)?,
            version: snapshot.version,
            last_sequence: snapshot.last_sequence,
            last_position: snapshot.last_position,
            last_hash,
            current: false,
            snapshot_version: snapshot.version,
            weighed: Some((snapshot.version.max(1), bytes.len() as u64)),
        })
    }

    /// Folds only those events of a commit that commands before `position` caused. Over a whole history, this gives the state that those
    /// commands left. It is needed for deciding a command at `position` when later commands have already taken effect.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn apply_below(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        commit: &StoredCommit,
        position: u64,
    ) -> Result<(), HistoryError> {
        for envelope in commit.envelopes().filter(|envelope| envelope.command.position < position) {
            self.evolve(aggregate, commit, &envelope)?;
            self.last_sequence = commit.broker_sequence;
        }
        Ok(())
    }

    /// Folds one commit.
    ///
    /// # Errors
    /// [`HistoryError`]. The state must not be used afterwards, because it may have been changed by some of the events.
    pub fn apply(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        commit: &StoredCommit,
    ) -> Result<(), HistoryError> {
        self.apply_seeing(aggregate, commit, |_, _| {})
    }

    /// As [`Self::apply`]; `see` is called with each event and the state before it.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub(crate) fn apply_seeing(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        commit: &StoredCommit,
        mut see: impl FnMut(&Self, &EventEnvelope<'_>),
    ) -> Result<(), HistoryError> {
        if commit.is_set_aside() {
            // A message that was set aside changes nothing, but the next commit follows it and names its hash.
            (self.last_sequence, self.last_hash) = (commit.broker_sequence, Some(commit.hash()));
            return Ok(());
        }
        if commit.commit.first_version != self.version + 1 {
            return Err(HistoryError::Version {
                stream_id: commit.stream_id.to_string(),
                sequence: commit.broker_sequence,
                version: self.version,
                found: commit.commit.first_version,
            });
        }
        for envelope in commit.envelopes() {
            see(self, &envelope);
            self.evolve(aggregate, commit, &envelope)?;
            self.last_sequence = commit.broker_sequence;
        }
        self.last_position = self.last_position.max(commit.commit.last_position());
        self.last_hash = Some(commit.hash());
        Ok(())
    }

    fn evolve(
        &mut self,
        aggregate: &Arc<dyn AggregateType>,
        commit: &StoredCommit,
        envelope: &EventEnvelope<'_>,
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
