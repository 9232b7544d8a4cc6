//! Reads any stream in order from a sequence, each message once, and resumes by itself after interruptions.
//!
//! The reader's consumer has a fixed name, acknowledges nothing and is kept in the server's memory. The user of the reader stores its
//! position together with its results. The consumer's sequences must have no gaps. At any doubt (a gap, missing heartbeats, no consumer, a
//! reconnection) the consumer is deleted and made again at the last returned message, which takes 1 to 2 ms. That message then comes again
//! first. If it is a different one, the stream has lost its tail and has grown since, and what was read no longer exists.
//!
//! Each reader has a line of its own ([`crate::line`]), because the client library ends a connection on which it meets bytes that it cannot
//! read, and the server stores any bytes. After a line is lost, the next message is read as JSON, which carries any bytes, and the consumer
//! is made again after it. If that message was unreadable, the following lines are sifted, and only replaced messages are read as JSON.

mod consumer;
mod consumer_config;
mod reader_position;
mod replaced_messages;
mod reply_subject;

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use millstream_contract::stored_message::StoredMessage;

use crate::{
    backoff::Backoff,
    broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamReader},
    lost_tail::LossDoubt,
    nats_broker::{
        NatsBroker, api_failure, unreadable,
        wire::{ApiError, ConsumerReply},
    },
    stream_reader::{
        consumer::{Consumer, Doubt},
        reader_position::Reached,
        replaced_messages::Unread,
    },
};

/// The first pause between attempts to make the consumer.
const REOPEN_PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(2);
/// A head start for another process that takes over the name: it first deletes this consumer and then makes its own.
const TAKEOVER_HEAD_START: Duration = Duration::from_millis(250);

/// Reads a stream of a real server.
#[derive(Debug)]
pub struct NatsReader {
    broker: NatsBroker,
    config: ReaderConfig,
    forgotten_after: Option<Duration>,
    reader_id: String,
    generation: String,
    reached: Reached,
    ready: VecDeque<StoredMessage>,
    consumer: Option<Consumer>,
    /// Whether this reader has made a consumer before. If so, a consumer of another reader means that the name was taken over.
    begun: bool,
    deleted: bool,
    /// Whether a line was lost. If so, the next message is read as JSON before the consumer is made again.
    line_lost: bool,
    /// Whether there was a message that the client library cannot read. There may be more, and each would cost a line, so from then on
    /// lines are sifted.
    sifted: bool,
    /// Which messages in `ready` were replaced on a sifted line and still lack their content.
    unread: Unread,
    /// When the message at the start of reading was stored, if it existed.
    begun_behind: Option<Timestamp>,
    /// Whether the server holds less than was read.
    loss: LossDoubt,
}

impl NatsReader {
    /// Makes the consumer after `config.after`. Waits for a server that does not answer.
    pub(crate) async fn open(broker: NatsBroker, config: ReaderConfig) -> Result<Self, ReadError> {
        Self::open_forgotten_after(broker, config, None).await
    }

    /// As [`Broker::read`], for a single use under a name that nobody uses again. The server removes the consumer if it gets no requests
    /// for `forgotten_after`, as after `kill -9`; without this time, never.
    ///
    /// # Errors
    /// As there.
    pub async fn open_forgotten_after(
        broker: NatsBroker,
        config: ReaderConfig,
        forgotten_after: Option<Duration>,
    ) -> Result<Self, ReadError> {
        let mut reader = Self {
            reader_id: ulid::Ulid::generate().to_string(),
            generation: String::new(),
            reached: Reached { sequence: config.after, stored_at: None, readable: true },
            ready: VecDeque::new(),
            consumer: None,
            begun: false,
            deleted: false,
            line_lost: false,
            sifted: false,
            unread: Unread::default(),
            begun_behind: None,
            loss: LossDoubt::default(),
            broker,
            config,
            forgotten_after,
        };
        reader.reopen().await?;
        Ok(reader)
    }

    /// Recovers when there is no consumer, and repeats this until the server answers: reads the next message as JSON after a line was lost,
    /// and makes the consumer anew.
    async fn reopen(&mut self) -> Result<(), ReadError> {
        let mut backoff = Backoff::new(REOPEN_PAUSE_FIRST, REOPEN_PAUSE_MAX);
        loop {
            let opened = if self.line_lost { self.take_next().await } else { self.try_open().await };
            if self.answered(opened, &mut backoff).await? {
                return Ok(());
            }
        }
    }

    /// Whether the server has answered. Pauses if it has not.
    async fn answered(&self, asked: Result<(), ReadError>, backoff: &mut Backoff) -> Result<bool, ReadError> {
        match asked {
            Ok(()) => Ok(true),
            Err(ReadError::Broker(BrokerError::Unavailable { operation, detail })) => {
                let stream = &self.config.stream;
                tracing::debug!(stream, operation, detail, "reader waits for the server");
                backoff.pause().await;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the next message as JSON, if there is one.
    async fn take_next(&mut self) -> Result<(), ReadError> {
        self.check_stream().await?;
        self.check_reached().await?;
        let (stream, filters) = (&self.config.stream, &self.config.filters);
        let Some(message) = self.broker.next_after(stream, self.reached.sequence, filters).await? else {
            self.line_lost = false;
            return Ok(());
        };
        self.line_lost = false;
        self.reached = Reached::at(&message);
        if !self.reached.readable {
            self.sifted = true;
            let (sequence, subject) = (message.sequence, &message.subject);
            tracing::warn!(
                stream,
                sequence,
                ?subject,
                "a message has bytes that the client library cannot read; this reader's lines are sifted from now on"
            );
        }
        self.ready.push_back(message);
        Ok(())
    }

    /// Whether the last message (or the one at the start of reading) is still the same. If the consumer can deliver that message, the
    /// comparison happens when it comes. A message that was never seen, because the leader did not know it at the start of reading, cannot
    /// be compared.
    async fn check_reached(&self) -> Result<(), ReadError> {
        let Some(stored_at) = self.reached.stored_at.or(self.begun_behind) else { return Ok(()) };
        let (stream, sequence) = (&self.config.stream, self.reached.sequence);
        match self.broker.get(stream, sequence).await? {
            Some(found) if found.stored_at != stored_at => {
                Err(ReadError::OtherMessage { stream: stream.clone(), sequence })
            }
            _ => Ok(()),
        }
    }

    async fn try_open(&mut self) -> Result<(), ReadError> {
        if !self.begun && self.begun_behind.is_none() && self.config.after > 0 {
            let behind = self.broker.get(&self.config.stream, self.config.after).await?;
            self.begun_behind = behind.map(|message| message.stored_at);
        }
        self.check_stream().await?;
        // A stream that lost its tail may have grown again, with other messages.
        if !self.reached.readable || self.reached.stored_at.is_none() {
            self.check_reached().await?;
        }
        self.check_name().await?;
        // Each consumer gets a new line, because messages that are still under way on the old one end with it.
        let line = if self.sifted { self.broker.sifted_line().await? } else { self.broker.line().await? };
        let inbox = line.client().new_inbox();
        let answers = line.client().subscribe(inbox.clone()).await.map_err(|error| {
            BrokerError::Unavailable { operation: "subscribe", detail: error.to_string() }
        })?;
        let path = format!("{}.{}", self.config.stream, self.config.name);
        self.broker.api("consumer delete", &format!("CONSUMER.DELETE.{path}"), "".into()).await?;
        self.create_consumer(&path).await?;
        (self.begun, self.deleted) = (true, false);
        self.consumer = Some(Consumer::new(line, answers, inbox));
        Ok(())
    }

    async fn check_stream(&mut self) -> Result<(), ReadError> {
        let state = self.broker.state(&self.config.stream).await?;
        if self.generation.is_empty() {
            self.generation = state.generation;
        } else if self.generation != state.generation {
            return Err(ReadError::OtherGeneration {
                stream: self.config.stream.clone(),
                expected: self.generation.clone(),
                found: state.generation,
            });
        }
        if state.last_sequence >= self.reached.sequence {
            self.loss.clear();
            return Ok(());
        }
        let (stream, last, after) = (self.config.stream.clone(), state.last_sequence, self.reached.sequence);
        if !self.loss.believes() {
            let detail = format!(
                "{stream} ends at sequence {last} before {after}, which was read; perhaps its leader does not know more yet"
            );
            return Err(BrokerError::Unavailable { operation: "stream info", detail }.into());
        }
        Err(ReadError::LostTail { stream, last, after })
    }

    /// Refuses a name that another reader uses: at the start, if that reader is alive; later, if this reader's consumer was deleted.
    async fn check_name(&self) -> Result<(), ReadError> {
        if self.deleted {
            tokio::time::sleep(TAKEOVER_HEAD_START).await;
        }
        let path = format!("CONSUMER.INFO.{}.{}", self.config.stream, self.config.name);
        let answer = self.broker.api("consumer info", &path, "".into()).await?;
        let reply: ConsumerReply =
            serde_json::from_slice(&answer).map_err(|error| unreadable("consumer info", &error))?;
        if let Some(error) = reply.error {
            return match error.err_code {
                ApiError::CONSUMER_NOT_FOUND => Ok(()),
                _ => Err(api_failure("consumer info", &self.config.stream, Some(error)).into()),
            };
        }
        let foreign =
            reply.config.is_some_and(|config| config.metadata.reader.as_deref() != Some(&self.reader_id));
        let alive = reply.num_waiting > 0 && !self.config.replace_live;
        if foreign && (self.begun || alive) {
            return Err(self.taken_over());
        }
        Ok(())
    }

    fn taken_over(&self) -> ReadError {
        ReadError::TakenOver { stream: self.config.stream.clone(), name: self.config.name.clone() }
    }

    async fn create_consumer(&self, path: &str) -> Result<(), ReadError> {
        let first = self.reached.first();
        let body = consumer_config::request(&self.config, &self.reader_id, first, self.forgotten_after);
        let answer = self
            .broker
            .api("consumer create", &format!("CONSUMER.CREATE.{path}"), body.to_string().into())
            .await?;
        let reply: ConsumerReply =
            serde_json::from_slice(&answer).map_err(|error| unreadable("consumer create", &error))?;
        match reply.error {
            None => Ok(()),
            Some(error)
                if [ApiError::CONSUMER_EXISTS, ApiError::CONSUMER_NAME_IN_USE].contains(&error.err_code) =>
            {
                Err(self.taken_over())
            }
            Some(error) => Err(api_failure("consumer create", &self.config.stream, Some(error)).into()),
        }
    }

    /// Receives messages until there is at least one, and then what else has come, up to `max`.
    async fn fill(&mut self, max: usize) -> Result<(), ReadError> {
        while self.ready.is_empty() {
            let Some(consumer) = &mut self.consumer else {
                self.reopen().await?;
                if self.consumer.is_some() {
                    self.broker.count_restart(&self.config.stream, &self.config.name);
                }
                continue;
            };
            let filled = consumer
                .fill(&self.broker, &self.config, max, &mut self.ready, &mut self.reached, &mut self.unread)
                .await;
            if let Err(doubt) = filled {
                tracing::info!(
                    stream = self.config.stream,
                    consumer = self.config.name,
                    after = self.reached.sequence,
                    ?doubt,
                    "making the consumer anew"
                );
                if doubt == Doubt::OtherMessage {
                    let (stream, sequence) = (self.config.stream.clone(), self.reached.sequence);
                    return Err(ReadError::OtherMessage { stream, sequence });
                }
                self.deleted = doubt == Doubt::Deleted;
                self.line_lost = doubt == Doubt::LineLost;
                self.consumer = None;
            }
        }
        Ok(())
    }

    /// Asks for the content of replaced messages until the server answers.
    async fn fetch_unread(&mut self) -> Result<(), ReadError> {
        let mut backoff = Backoff::new(REOPEN_PAUSE_FIRST, REOPEN_PAUSE_MAX);
        loop {
            let fetched = self.unread.fetch(&self.broker, &self.config.stream, &mut self.ready).await;
            if self.answered(fetched, &mut backoff).await? {
                return Ok(());
            }
        }
    }
}

impl StreamReader for NatsReader {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<StoredMessage>, ReadError> {
        while self.ready.is_empty() || !self.unread.is_empty() {
            if self.unread.is_empty() {
                self.fill(max).await?;
            }
            self.fetch_unread().await?;
        }
        let count = self.ready.len().min(max.max(1));
        Ok(self.ready.drain(..count).collect())
    }

    fn pending(&self) -> u64 {
        let unread = self.consumer.as_ref().map_or(0, |consumer| consumer.pending);
        unread + self.ready.len() as u64
    }

    async fn close(self) {
        if let Err(error) = self.broker.remove_consumer(&self.config.stream, &self.config.name).await {
            tracing::debug!(consumer = self.config.name, %error, "the consumer stays behind");
        }
    }
}

#[cfg(test)]
mod tests;
