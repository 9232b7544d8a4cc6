//! Checks whether a checkpoint belongs to the current stream. Pure, except that it reads the message that the checkpoint names.

use std::fmt;

use millstream_jetstream::broker::{Broker, BrokerError, StreamState};
use millstream_store::read_store::Checkpoint;

use super::decoding::message_id;

/// Why rows are discarded and rebuilt from the first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RebuildReason {
    /// There are no rows yet.
    NeverBuilt,
    /// Another version of the projection wrote the rows.
    OtherVersion { found: u32 },
    /// The rows come from another generation of the stream.
    OtherGeneration { found: String },
    /// The stream ends before the checkpoint: the server has lost messages.
    LostTail { reached: u64, last: u64 },
    /// The stream has another message at the checkpoint: the server has lost messages and has given their sequences to others.
    OtherMessage { sequence: u64, expected: String, found: Option<String> },
}

impl fmt::Display for RebuildReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => write!(formatter, "it was never built"),
            Self::OtherVersion { found } => {
                write!(formatter, "its rows were written by version {found} of the projection")
            }
            Self::OtherGeneration { found } => {
                write!(formatter, "its rows come from generation {found} of the stream, which was made anew")
            }
            Self::LostTail { reached, last } => {
                write!(
                    formatter,
                    "it has applied up to {reached}, but the stream ends at {last}: its tail was lost"
                )
            }
            Self::OtherMessage { sequence, expected, found: Some(found) } => write!(
                formatter,
                "the stream holds {found} at {sequence}, but {expected} was applied: its tail was lost and has grown again"
            ),
            Self::OtherMessage { sequence, expected, found: None } => {
                write!(
                    formatter,
                    "the stream holds nothing at {sequence}, but {expected} was applied from there"
                )
            }
        }
    }
}

impl RebuildReason {
    /// Whether events are gone that only the rows still knew.
    pub(super) fn names_loss(&self) -> bool {
        match self {
            Self::NeverBuilt | Self::OtherVersion { .. } => false,
            Self::OtherGeneration { .. } | Self::LostTail { .. } | Self::OtherMessage { .. } => true,
        }
    }
}

/// What to do with a projection before it reads on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Read on after the checkpoint. Messages up to `missed` were purged from the stream before the projection had read them.
    Resume { checkpoint: Checkpoint, missed: Option<u64> },
    /// Discard the rows and start with the first message.
    Rebuild { reason: RebuildReason, checkpoint: Checkpoint },
}

impl Verdict {
    /// The generation of the stream that is read.
    pub(super) fn generation(&self) -> &str {
        let (Self::Resume { checkpoint, .. } | Self::Rebuild { checkpoint, .. }) = self;
        &checkpoint.generation
    }

    /// The last sequence that counts as applied.
    pub(super) fn sequence(&self) -> u64 {
        let (Self::Resume { checkpoint, .. } | Self::Rebuild { checkpoint, .. }) = self;
        checkpoint.sequence
    }

    pub(super) fn is_rebuild(&self) -> bool {
        matches!(self, Self::Rebuild { .. })
    }

    /// Whether the server seems to have lost messages. A leader that lags behind can make it look so for a moment, so the caller asks again
    /// before it believes the loss.
    pub(super) fn finds_loss(&self) -> bool {
        matches!(
            self,
            Self::Rebuild { reason: RebuildReason::LostTail { .. } | RebuildReason::OtherMessage { .. }, .. }
        )
    }
}

/// Checks the checkpoint of a projection of this `version`.
pub(super) async fn verify<B: Broker>(
    broker: &B,
    stream: &str,
    state: &StreamState,
    version: u32,
    found: Option<Checkpoint>,
) -> Result<Verdict, BrokerError> {
    let rebuild = |reason| Verdict::Rebuild {
        reason,
        checkpoint: Checkpoint::start(&state.generation, version, state.last_sequence),
    };
    let Some(checkpoint) = found else { return Ok(rebuild(RebuildReason::NeverBuilt)) };
    let reached = checkpoint.sequence;
    if checkpoint.version != version {
        return Ok(rebuild(RebuildReason::OtherVersion { found: checkpoint.version }));
    }
    if checkpoint.generation != state.generation {
        return Ok(rebuild(RebuildReason::OtherGeneration { found: checkpoint.generation }));
    }
    if reached > state.last_sequence {
        return Ok(rebuild(RebuildReason::LostTail { reached, last: state.last_sequence }));
    }
    if reached == 0 {
        return Ok(Verdict::Resume { checkpoint, missed: None });
    }
    if reached < state.first_sequence {
        let missed = (reached + 1 < state.first_sequence).then(|| state.first_sequence - 1);
        return Ok(Verdict::Resume { checkpoint, missed });
    }
    let found = broker.get(stream, reached).await?.as_ref().map(message_id);
    if found.as_ref() == Some(&checkpoint.message_id) {
        return Ok(Verdict::Resume { checkpoint, missed: None });
    }
    let reason = RebuildReason::OtherMessage { sequence: reached, expected: checkpoint.message_id, found };
    Ok(rebuild(reason))
}
