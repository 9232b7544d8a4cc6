//! Follows OUTCOMES from its end before something was sent. Even if a handler is killed between recording an outcome and replying, the record
//! exists.

use std::time::Duration;

use async_nats::jetstream;
use jiff::Timestamp;
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    outcome::{CommandOutcome, OutcomeRecord},
    stream_names,
};
use millstream_jetstream::{
    broker::{Broker as _, BrokerError, ReadError, ReaderConfig, StreamReader as _},
    nats_broker::NatsBroker,
    stream_reader::NatsReader,
};

/// After how much silence the server removes the consumer of a follower. A living one asks for more every half minute, even if there are no
/// outcomes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// How many records are taken at once. Each holds up to several thousand outcomes.
const RECORDS_MAX: usize = 64;

/// Why outcomes cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// The end of OUTCOMES is not known.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The reader ended.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record does not decode.
    #[error("OUTCOMES holds something that is no record")]
    Record(#[from] millstream_contract::outcome::OutcomeRecordError),
}

impl Failure for FollowError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(error) => error.exit_code(),
            Self::Read(error) => error.exit_code(),
            Self::Record(_) => ExitCode::Data,
        }
    }
}

/// Reads the outcomes that are recorded from now on.
#[derive(Debug)]
pub(crate) struct OutcomeFollower {
    reader: NatsReader,
    name: String,
}

impl OutcomeFollower {
    /// Begins after the current last record. `nats consumer ls OUTCOMES` shows `purpose`.
    ///
    /// # Errors
    /// [`FollowError`].
    pub(crate) async fn begin(broker: &NatsBroker, purpose: &str) -> Result<Self, FollowError> {
        let after = broker.state(stream_names::OUTCOMES).await?.last_sequence;
        Self::begin_after(broker, purpose, after).await
    }

    /// As [`Self::begin`], with the records of some time before: for commands that the server may know already, because somebody else sent
    /// the same.
    ///
    /// # Errors
    /// [`FollowError`].
    pub(crate) async fn begin_before(
        broker: &NatsBroker,
        purpose: &str,
        time: Duration,
    ) -> Result<Self, FollowError> {
        Self::begin_after(broker, purpose, record_before(broker, time).await?).await
    }

    async fn begin_after(broker: &NatsBroker, purpose: &str, after: u64) -> Result<Self, FollowError> {
        let name = format!("{purpose}-{}", ulid::Ulid::generate());
        let config = ReaderConfig {
            stream: stream_names::OUTCOMES.to_owned(),
            name: name.clone(),
            description: format!("millstream {purpose}: waits for outcomes"),
            after,
            filters: Vec::new(),
            replace_live: false,
        };
        let reader = NatsReader::open_forgotten_after(broker.clone(), config, Some(FORGOTTEN_AFTER)).await?;
        Ok(Self { reader, name })
    }

    /// Waits for the next outcomes, in the order of their record. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// [`FollowError`].
    pub(crate) async fn next(&mut self) -> Result<Vec<CommandOutcome>, FollowError> {
        let messages = self.reader.next_batch(RECORDS_MAX).await?;
        let mut outcomes = Vec::new();
        for message in &messages {
            outcomes.extend(OutcomeRecord::from_stored(message)?.outcomes);
        }
        Ok(outcomes)
    }

    /// Removes its consumer. Without this call, the server removes it later.
    pub(crate) async fn end(self, jetstream: &jetstream::Context) {
        let deleted = jetstream.delete_consumer_from_stream(&self.name, stream_names::OUTCOMES).await;
        if let Err(error) = deleted {
            tracing::debug!(%error, consumer = self.name, "the consumer is left to the server");
        }
    }
}

/// The sequence of the last record that was stored more than this time before the last of all, by the server's clock.
async fn record_before(broker: &NatsBroker, time: Duration) -> Result<u64, BrokerError> {
    let state = broker.state(stream_names::OUTCOMES).await?;
    let (mut older, mut newer) = (state.first_sequence.saturating_sub(1), state.last_sequence);
    if older == newer {
        // It holds nothing.
        return Ok(older);
    }
    let Some(last) = broker.get(stream_names::OUTCOMES, newer).await? else { return Ok(older) };
    let since = last.stored_at.saturating_sub(time).unwrap_or(Timestamp::MIN);
    while older < newer {
        let middle = older + (newer - older).div_ceil(2);
        // Records are removed from the oldest on, so one that is gone is older than all that are there.
        match broker.get(stream_names::OUTCOMES, middle).await? {
            Some(record) if record.stored_at >= since => newer = middle - 1,
            _ => older = middle,
        }
    }
    Ok(older)
}

#[cfg(test)]
mod tests {
    use millstream_jetstream::{
        broker::{Broker as _, NewMessage},
        testing::test_server::TestServer,
    };

    use super::*;

    #[tokio::test]
    async fn records_of_some_time_are_found_whatever_is_gone() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let before = async |time| record_before(&broker, time).await.unwrap();
        assert_eq!(before(Duration::from_secs(120)).await, 0, "there are none");
        for body in ["one", "two", "three", "four"] {
            let record = NewMessage {
                subject: "out.0of1".to_owned(),
                expected_last: None,
                headers: Default::default(),
                payload: body.into(),
            };
            broker.append(stream_names::OUTCOMES, record).await.unwrap();
        }
        assert_eq!(before(Duration::from_secs(120)).await, 0, "all are of this time");
        assert_eq!(before(Duration::ZERO).await, 3, "the last is not before itself");
        for gone in [1, 2] {
            broker.remove(stream_names::OUTCOMES, gone).await.unwrap();
        }
        assert_eq!(before(Duration::from_secs(120)).await, 2);
        for gone in [3, 4] {
            broker.remove(stream_names::OUTCOMES, gone).await.unwrap();
        }
        assert_eq!(before(Duration::from_secs(120)).await, 4, "the next is the fifth");
    }
}
