//! Reads what a stream holds now, in order, and ends: for commands that look at everything there is. What is stored
//! meanwhile is not read.

use std::{collections::VecDeque, time::Duration};

use millstream_engine::{
    broker::{Broker as _, BrokerError, ReadError, ReaderConfig, StreamReader as _},
    contract::stored_message::StoredMessage,
    exit_code::{ExitCode, Failure},
    nats_broker::NatsBroker,
    stream_reader::NatsReader,
};

/// Messages taken at once.
const BATCH_MAX: usize = 1000;
/// A stream that has more to give gives some of it well within this time.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Why a stream cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// Where it ends is not known.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The reader ended.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Nothing comes, though there was more.
    #[error("{stream} holds messages up to {end}, but after {after} nothing comes; was it purged meanwhile?")]
    Silent { stream: String, after: u64, end: u64 },
}

impl Failure for FeedError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(error) => error.exit_code(),
            Self::Read(error) => error.exit_code(),
            Self::Silent { .. } => ExitCode::Unavailable,
        }
    }
}

/// The sequence of the last message that a stream holds; 0 when it holds none. The stream's own last sequence may be
/// higher: of a message that was removed.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn end_of(broker: &NatsBroker, stream: &str) -> Result<u64, BrokerError> {
    Ok(broker.last(stream, ">").await?.map_or(0, |message| message.sequence))
}

/// A stream from a position to the end that it had.
#[derive(Debug)]
pub(crate) struct StreamFeed {
    stream: String,
    reader: Option<NatsReader>,
    ready: VecDeque<StoredMessage>,
    after: u64,
    end: u64,
}

impl StreamFeed {
    /// Begins behind `after`. `purpose` is shown by `nats consumer ls`.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(crate) async fn open(
        broker: &NatsBroker,
        stream: &str,
        after: u64,
        purpose: &str,
    ) -> Result<Self, FeedError> {
        let end = end_of(broker, stream).await?;
        let mut feed = Self { stream: stream.to_owned(), reader: None, ready: VecDeque::new(), after, end };
        if after < end {
            let config = ReaderConfig {
                stream: stream.to_owned(),
                name: format!("{purpose}-{}", ulid::Ulid::generate()),
                description: format!("millstream {purpose}: reads what there is"),
                after,
                filters: Vec::new(),
                replace_live: false,
            };
            feed.reader = Some(broker.read(config).await?);
        }
        Ok(feed)
    }

    /// The next message, unless it stands behind `through` or there is none.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(crate) async fn next_through(&mut self, through: u64) -> Result<Option<StoredMessage>, FeedError> {
        while self.ready.is_empty() && self.after < self.end {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            let waited = tokio::time::timeout(SILENCE_MAX, reader.next_batch(BATCH_MAX)).await;
            let Ok(batch) = waited else {
                let (stream, after, end) = (self.stream.clone(), self.after, self.end);
                return Err(FeedError::Silent { stream, after, end });
            };
            self.ready.extend(batch?);
            self.after = self.ready.back().map_or(self.after, |message| message.sequence);
            while self.ready.back().is_some_and(|message| message.sequence > self.end) {
                self.ready.pop_back();
            }
        }
        Ok(self.ready.pop_front_if(|message| message.sequence <= through))
    }

    /// The next message, `None` behind the last.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(crate) async fn next(&mut self) -> Result<Option<StoredMessage>, FeedError> {
        self.next_through(u64::MAX).await
    }

    /// Takes its consumer away; without this the server does so by itself, later.
    pub(crate) async fn close(self) {
        if let Some(reader) = self.reader {
            reader.close().await;
        }
    }
}
