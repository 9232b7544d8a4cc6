//! Finds the stream position in EVENTS that a moment means. Deliberately absent: folding up to that position.
//!
//! A time means the position after which everything was recorded later. Up to it stand all commits that EVENTS had stored by then and, directly
//! after them, commits that were recorded by then but stored later, because a handler was catching up. So a state as of a time is one that
//! EVENTS once had, and it is the same whenever it is asked for.

use jiff::Timestamp;
use millstream_contract::{
    commit::StoredCommit,
    exit_code::{ExitCode, Failure},
    moment::Moment,
    position::StreamPosition,
    stored_message::StoredMessage,
    stream_names::EVENTS,
};

use crate::{
    broker::{Broker, BrokerError, StreamState},
    stream_feed::{FeedError, StreamFeed},
};

/// How many removed messages in a row the search steps over to find one that is still there.
const GAP_MAX: u64 = 64;

/// Why a moment has no stream position in EVENTS.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// The stream cannot be asked.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The stream cannot be read.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// It is a position in another stream.
    #[error("{asked} is a position in {}; past states are of {EVENTS}", asked.stream)]
    OtherStream {
        /// What was asked for.
        asked: StreamPosition,
    },
    /// It is a position in another incarnation of the stream.
    #[error("{asked} is of another generation than {EVENTS}, which is {found}: the stream was made anew")]
    OtherGeneration {
        /// What was asked for.
        asked: StreamPosition,
        /// The generation that exists.
        found: String,
    },
    /// It lies beyond the end of the stream.
    #[error("{EVENTS} ends at {last}; it has not reached {asked} yet")]
    NotReached {
        /// What was asked for.
        asked: u64,
        /// Where it ends.
        last: u64,
    },
}

impl Failure for PastError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(error) => error.exit_code(),
            Self::Feed(error) => error.exit_code(),
            Self::OtherStream { .. } | Self::OtherGeneration { .. } | Self::NotReached { .. } => {
                ExitCode::Usage
            }
        }
    }
}

/// The stream position in EVENTS that `moment` means; sequence 0 before the first commit. A time in the future means the current end.
///
/// # Errors
/// [`PastError`].
pub async fn position_at<B: Broker>(broker: &B, moment: &Moment) -> Result<StreamPosition, PastError> {
    let StreamState { generation, last_sequence: last, .. } = broker.state(EVENTS).await?;
    let sequence = match moment {
        Moment::Sequence(sequence) => *sequence,
        Moment::Position(asked) if asked.stream != EVENTS => {
            return Err(PastError::OtherStream { asked: asked.clone() });
        }
        Moment::Position(asked) if asked.generation != generation => {
            return Err(PastError::OtherGeneration { asked: asked.clone(), found: generation });
        }
        Moment::Position(asked) => asked.sequence,
        // The result may be greater than `last`, because more may have been stored in the meantime.
        Moment::Time(time) => {
            return Ok(StreamPosition::new(EVENTS, generation, recorded_by(broker, *time).await?));
        }
    };
    if sequence > last {
        return Err(PastError::NotReached { asked: sequence, last });
    }
    Ok(StreamPosition::new(EVENTS, generation, sequence))
}

/// How far the history of one aggregate counts. A time needs no position here, unlike for EVENTS as a whole, because the times and
/// sequences of one aggregate's commits only increase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// What was recorded by this time.
    Time(Timestamp),
    /// Up to this sequence of EVENTS.
    Sequence(u64),
}

impl Until {
    /// How far the history counts as of `moment`.
    ///
    /// # Errors
    /// [`PastError`] for a position that is not in EVENTS or that EVENTS has not reached.
    pub async fn of<B: Broker>(broker: &B, moment: &Moment) -> Result<Self, PastError> {
        match moment {
            Moment::Time(time) => Ok(Self::Time(*time)),
            position => Ok(Self::Sequence(position_at(broker, position).await?.sequence)),
        }
    }

    /// Whether a commit counts. After the first one that does not, none counts.
    pub fn takes(&self, commit: &StoredCommit) -> bool {
        match self {
            Self::End => true,
            Self::Time(time) => commit.commit.recorded_at() <= *time,
            Self::Sequence(sequence) => commit.broker_sequence <= *sequence,
        }
    }
}

async fn recorded_by<B: Broker>(broker: &B, time: Timestamp) -> Result<u64, FeedError> {
    let mut through = last_stored_before(broker, EVENTS, time, u64::MAX).await?;
    let mut feed = StreamFeed::open(broker, EVENTS, through, "past").await?;
    while let Some(message) = feed.next().await? {
        if recorded_at(&message) > time {
            break;
        }
        through = message.sequence;
    }
    feed.close().await;
    Ok(through)
}

/// A message that is not a commit counts as recorded when it was stored.
fn recorded_at(message: &StoredMessage) -> Timestamp {
    StoredCommit::from_stored(message).map_or(message.stored_at, |stored| stored.commit.recorded_at())
}

/// The highest sequence, at most `through`, up to which every message was stored before `time`; 0 if there is none. This is a binary
/// search, which works because messages are ordered by time. It may return a lower sequence if very many messages in a row were removed.
///
/// # Errors
/// When the server does not answer.
pub async fn last_stored_before<B: Broker>(
    broker: &B,
    stream: &str,
    time: Timestamp,
    through: u64,
) -> Result<u64, BrokerError> {
    let StreamState { first_sequence: first, last_sequence, .. } = broker.state(stream).await?;
    let (mut low, mut high) = (first, through.min(last_sequence).saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        match first_from(broker, stream, middle, high).await? {
            Some(message) if message.stored_at < time => low = message.sequence + 1,
            _ => high = middle,
        }
    }
    Ok(if low <= first { 0 } else { low - 1 })
}

/// The first message from `sequence` on and before `end`. The message at `sequence` itself may have been removed.
async fn first_from<B: Broker>(
    broker: &B,
    stream: &str,
    sequence: u64,
    end: u64,
) -> Result<Option<StoredMessage>, BrokerError> {
    for sequence in sequence..end.min(sequence.saturating_add(GAP_MAX)) {
        if let Some(message) = broker.get(stream, sequence).await? {
            return Ok(Some(message));
        }
    }
    Ok(None)
}
