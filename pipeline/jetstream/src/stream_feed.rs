//! Reads the content of a stream in order up to a given sequence, and ends there. It is for programs that look at everything there is, or
//! at everything there was at some time. Messages stored in the meantime are read only if their sequence is asked for.

use std::{collections::VecDeque, time::Duration};

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stored_message::StoredMessage,
};

use crate::broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamReader as _};

/// How many messages are taken at once.
const BATCH_MAX: usize = 1000;
/// A stream with more messages delivers some of them well within this time.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Why a stream cannot be read to the requested end.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The end of the stream is not known.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The reader ended.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No message comes, although there are more.
    #[error("{stream} holds messages up to {end}, but after {after} nothing comes; was it purged meanwhile?")]
    Silent {
        /// The stream.
        stream: String,
        /// How far it was read.
        after: u64,
        /// Where it ends.
        end: u64,
    },
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

/// The sequence of the last message that a stream holds; 0 if it holds none. The stream's own last sequence may be higher, if that message
/// was removed.
///
/// # Errors
/// When the server does not answer.
async fn end_of<B: Broker>(broker: &B, stream: &str) -> Result<u64, BrokerError> {
    Ok(broker.last(stream, ">").await?.map_or(0, |message| message.sequence))
}

/// A stream from a sequence up to a sequence that exists.
pub struct StreamFeed<B: Broker> {
    broker: B,
    config: ReaderConfig,
    reader: Option<B::Reader>,
    ready: VecDeque<StoredMessage>,
    /// The sequence that was read last, whether or not it was handed out.
    after: u64,
    end: u64,
}

impl<B: Broker> StreamFeed<B> {
    /// Begins after `after`, and ends at the stream's current end. `nats consumer ls` shows `purpose`.
    ///
    /// # Errors
    /// [`FeedError`].
    pub async fn open(broker: &B, stream: &str, after: u64, purpose: &str) -> Result<Self, FeedError> {
        let end = end_of(broker, stream).await?;
        let mut feed = Self::behind(broker, stream, after, purpose);
        feed.extend(end);
        Ok(feed)
    }

    /// Begins after `after`, and is empty until it is extended.
    pub fn behind(broker: &B, stream: &str, after: u64, purpose: &str) -> Self {
        let config = ReaderConfig {
            stream: stream.to_owned(),
            name: format!("{purpose}-{}", ulid::Ulid::generate()),
            description: format!("millstream {purpose}: reads what there is"),
            after,
            filters: Vec::new(),
            replace_live: false,
        };
        Self { broker: broker.clone(), config, reader: None, ready: VecDeque::new(), after, end: after }
    }

    /// Extends the feed to `end`, at which the stream is known to hold a message, unless it already reaches further.
    pub fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// The next message, unless it comes after `through` or there is none.
    ///
    /// # Errors
    /// [`FeedError`].
    pub async fn next_through(&mut self, through: u64) -> Result<Option<StoredMessage>, FeedError> {
        let through = through.min(self.end);
        while self.ready.is_empty() && self.after < through {
            let batch = self.read().await?;
            self.ready.extend(batch);
            self.after = self.ready.back().map_or(self.after, |message| message.sequence);
        }
        Ok(self.ready.pop_front_if(|message| message.sequence <= through))
    }

    /// The next messages up to `through`, at most `max` of those that have come; empty after the last one.
    ///
    /// # Errors
    /// [`FeedError`].
    pub async fn batch_through(&mut self, through: u64, max: usize) -> Result<Vec<StoredMessage>, FeedError> {
        let mut batch = Vec::new();
        while batch.len() < max
            && let Some(message) = self.next_through(through).await?
        {
            batch.push(message);
        }
        Ok(batch)
    }

    /// The next message; `None` after the last one.
    ///
    /// # Errors
    /// [`FeedError`].
    pub async fn next(&mut self) -> Result<Option<StoredMessage>, FeedError> {
        self.next_through(u64::MAX).await
    }

    /// Removes its consumer. Without this call, the server removes it later.
    pub async fn close(self) {
        if let Some(reader) = self.reader {
            reader.close().await;
        }
    }

    async fn read(&mut self) -> Result<Vec<StoredMessage>, FeedError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let reader = self.broker.read(self.config.clone()).await?;
                self.reader.insert(reader)
            }
        };
        match tokio::time::timeout(SILENCE_MAX, reader.next_batch(BATCH_MAX)).await {
            Ok(batch) => Ok(batch?),
            Err(_) => Err(FeedError::Silent {
                stream: self.config.stream.clone(),
                after: self.after,
                end: self.end,
            }),
        }
    }
}

impl<B: Broker> std::fmt::Debug for StreamFeed<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StreamFeed")
            .field("stream", &self.config.stream)
            .field("after", &self.after)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
