//! Reads any stream in order, from a position, each message once, and resumes by itself.
//!
//! The reader's consumer has a fixed name, acknowledges nothing and lives in the server's memory; the position is kept by
//! whoever reads, with its results. Consumer sequences must be contiguous. At any doubt (gap, missed heartbeats, consumer
//! gone, reconnect) the consumer is deleted and made again at the last message returned, which takes 1 to 2 ms. That message
//! comes again first: when it is another one, the server has lost its tail and grown since, and what was read is not there.
//!
//! Each reader has a line of its own ([`crate::line`]): the client library ends the connection on which it meets bytes that
//! it cannot read, and the server stores any. After a line is lost the next message is taken as JSON, which carries any
//! bytes; the consumer is made again behind it.

mod consumer_config;
mod place;
mod reached;

use std::{collections::VecDeque, time::Duration};

use async_nats::{Message, Subscriber};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use millstream_contract::stored_message::StoredMessage;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamReader},
    line::Line,
    nats_broker::{
        NatsBroker, api_failure, headers_from, unreadable,
        wire::{ApiError, ConsumerReply},
    },
    retry::LossDoubt,
    stream_reader::{place::Place, reached::Reached},
};

/// Messages asked for at once. A second request is sent when half of them have come, so that the server never waits.
const PULL_BATCH: u64 = 4096;
/// Bytes asked for at once: bounds what lies in the connection's buffers.
const PULL_BYTES: u64 = 16 * 1024 * 1024;
/// How long the server keeps a request open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often an idle server says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which the consumer is made anew.
const SILENCE_MAX: Duration = Duration::from_millis(2500);
/// First pause between attempts to make the consumer.
const REOPEN_PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Head start for another process that takes the name over: it deletes our consumer, then makes its own.
const TAKEOVER_HEAD_START: Duration = Duration::from_millis(250);
/// After a message that cannot be read, so many in a row must be readable before a consumer is made again: where there is one
/// there may be more, and each costs a line.
const READABLE_RUN: usize = 32;
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
    /// Whether a consumer was made before: one of another reader then means that the name was taken over.
    begun: bool,
    deleted: bool,
    /// How many messages are to be taken as JSON before the consumer is made again.
    singly: usize,
    /// When the message was stored behind which reading began, if it was there.
    begun_behind: Option<Timestamp>,
    /// Whether the server holds less than was read.
    loss: LossDoubt,
}

/// The consumer as it is now; thrown away whole at any doubt.
#[derive(Debug)]
struct Consumer {
    line: Line,
    answers: Subscriber,
    inbox: String,
    consumer_sequence: u64,
    outstanding: u64,
    pending: u64,
    /// Since when the reader has waited without a word of the server. Where nobody waits, the server owes nothing: a request ends when its
    /// bytes have come, and the next one is made by whoever wants more.
    silent_since: Option<Instant>,
}

/// Why the consumer cannot be trusted any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    Silent,
    LineLost,
    Gap,
    OtherMessage,
    Deleted,
    Refused,
}

impl NatsReader {
    /// Makes the consumer behind `config.after`. Waits for a server that does not answer.
    pub(crate) async fn open(broker: NatsBroker, config: ReaderConfig) -> Result<Self, ReadError> {
        Self::open_forgotten_after(broker, config, None).await
    }

    /// As [`Broker::read`], for whoever reads once, under a name that nobody uses again: the server forgets the consumer when it was
    /// asked nothing for so long, as after `kill -9`. Never, where no time is given.
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
            singly: 0,
            begun_behind: None,
            loss: LossDoubt::default(),
            broker,
            config,
            forgotten_after,
        };
        reader.reopen().await?;
        Ok(reader)
    }

    /// Goes on without a consumer, again and again until the server answers: takes the next message as JSON after a line was
    /// lost, and makes the consumer anew.
    async fn reopen(&mut self) -> Result<(), ReadError> {
        let mut backoff = Backoff::new(REOPEN_PAUSE_FIRST, REOPEN_PAUSE_MAX);
        loop {
            let opened = if self.singly > 0 { self.take_singly().await } else { self.try_open().await };
            match opened {
                Ok(()) => return Ok(()),
                Err(ReadError::Broker(BrokerError::Unavailable { operation, detail })) => {
                    tracing::debug!(
                        stream = self.config.stream,
                        operation,
                        detail,
                        "reader waits for the server"
                    );
                    backoff.pause().await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next message as JSON, if there is one.
    async fn take_singly(&mut self) -> Result<(), ReadError> {
        self.check_stream().await?;
        self.check_reached().await?;
        let (stream, filters) = (&self.config.stream, &self.config.filters);
        let Some(message) = self.broker.next_after(stream, self.reached.sequence, filters).await? else {
            self.singly = 0;
            return Ok(());
        };
        self.reached = Reached::at(&message);
        if self.reached.readable {
            self.singly -= 1;
        } else {
            self.singly = READABLE_RUN;
            let (sequence, subject) = (message.sequence, &message.subject);
            tracing::warn!(
                stream,
                sequence,
                ?subject,
                "a message has bytes that the client library cannot read"
            );
        }
        self.ready.push_back(message);
        Ok(())
    }

    /// Whether the message that came last, or the one behind which reading began, is still the same. A consumer tells by itself when
    /// it can deliver it. What was never seen, because the leader did not know it when reading began, cannot be compared.
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
        // A lost tail may have grown again, with other messages.
        if !self.reached.readable || self.reached.stored_at.is_none() {
            self.check_reached().await?;
        }
        self.check_name().await?;
        // A new line each time: what is still on its way on the one before ends with it.
        let line = self.broker.line().await?;
        let inbox = line.client().new_inbox();
        let answers = line.client().subscribe(inbox.clone()).await.map_err(|error| {
            BrokerError::Unavailable { operation: "subscribe", detail: error.to_string() }
        })?;
        let path = format!("{}.{}", self.config.stream, self.config.name);
        self.broker.api("consumer delete", &format!("CONSUMER.DELETE.{path}"), "".into()).await?;
        self.create_consumer(&path).await?;
        (self.begun, self.deleted) = (true, false);
        self.consumer = Some(Consumer {
            line,
            answers,
            inbox,
            consumer_sequence: 0,
            outstanding: 0,
            pending: 0,
            silent_since: None,
        });
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

    /// Refuses a name that another reader uses: one that is alive when this reader begins, any when ours was deleted.
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

    /// Takes what the server sends until there is at least one message; then what else is there, up to `max`.
    async fn fill(&mut self, max: usize) -> Result<(), ReadError> {
        while self.ready.is_empty() {
            let Some(consumer) = &mut self.consumer else {
                self.reopen().await?;
                if self.consumer.is_some() {
                    self.broker.count_restart(&self.config.stream, &self.config.name);
                }
                continue;
            };
            let filled =
                consumer.fill(&self.broker, &self.config, max, &mut self.ready, &mut self.reached).await;
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
                self.singly = usize::from(doubt == Doubt::LineLost);
                self.consumer = None;
            }
        }
        Ok(())
    }
}

impl StreamReader for NatsReader {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<StoredMessage>, ReadError> {
        if self.ready.is_empty() {
            self.fill(max).await?;
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

impl Consumer {
    async fn fill(
        &mut self,
        broker: &NatsBroker,
        config: &ReaderConfig,
        max: usize,
        ready: &mut VecDeque<StoredMessage>,
        reached: &mut Reached,
    ) -> Result<(), Doubt> {
        self.pull(broker, config).await?;
        let answer = match self.answers.next().now_or_never() {
            Some(answer) => answer.ok_or(Doubt::LineLost)?,
            None => match self.wait().await? {
                Some(answer) => answer,
                None => return Ok(()),
            },
        };
        self.silent_since = None;
        self.take(answer, ready, reached)?;
        while ready.len() < max {
            match self.answers.next().now_or_never() {
                Some(Some(answer)) => self.take(answer, ready, reached)?,
                Some(None) => return Err(Doubt::LineLost),
                None => break,
            }
        }
        Ok(())
    }

    /// Keeps at least half a batch on order.
    async fn pull(&mut self, broker: &NatsBroker, config: &ReaderConfig) -> Result<(), Doubt> {
        if self.outstanding > PULL_BATCH / 2 {
            return Ok(());
        }
        let request = json!({
            "batch": PULL_BATCH,
            "max_bytes": PULL_BYTES,
            "expires": nanoseconds(PULL_EXPIRES),
            "idle_heartbeat": nanoseconds(HEARTBEAT),
        });
        let subject = broker.api_subject(&format!("CONSUMER.MSG.NEXT.{}.{}", config.stream, config.name));
        let sent = self
            .line
            .client()
            .publish_with_reply(subject, self.inbox.clone(), request.to_string().into())
            .await;
        self.outstanding += PULL_BATCH;
        sent.map_err(|_| Doubt::LineLost)
    }

    /// Waits for what the server sends; none when it has not sent anything for a heartbeat. Silence counts across calls that
    /// were cancelled.
    async fn wait(&mut self) -> Result<Option<Message>, Doubt> {
        if self.silent_since.get_or_insert_with(Instant::now).elapsed() >= SILENCE_MAX {
            return Err(Doubt::Silent);
        }
        tokio::select! {
            biased;
            // What came before the line was lost comes first.
            answer = self.answers.next() => answer.map(Some).ok_or(Doubt::LineLost),
            () = self.line.lost() => Err(Doubt::LineLost),
            () = tokio::time::sleep(HEARTBEAT) => Ok(None),
        }
    }

    fn take(
        &mut self,
        answer: Message,
        ready: &mut VecDeque<StoredMessage>,
        reached: &mut Reached,
    ) -> Result<(), Doubt> {
        let place = answer.reply.as_ref().and_then(|reply| Place::parse(reply));
        // A message may have been stored with a status of its own.
        match place.ok_or(answer.status.map(|status| status.as_u16())) {
            Ok(place) => {
                if place.consumer_sequence != self.consumer_sequence + 1 {
                    return Err(Doubt::Gap);
                }
                self.consumer_sequence = place.consumer_sequence;
                self.pending = place.pending;
                self.outstanding = self.outstanding.saturating_sub(1);
                let stored_at = Some(place.stored_at);
                if place.stream_sequence == reached.sequence {
                    return if stored_at == reached.stored_at { Ok(()) } else { Err(Doubt::OtherMessage) };
                }
                *reached = Reached { sequence: place.stream_sequence, stored_at, readable: true };
                ready.push_back(StoredMessage {
                    sequence: place.stream_sequence,
                    stored_at: place.stored_at,
                    headers: headers_from(answer.headers.as_ref()),
                    subject: answer.subject.to_string(),
                    payload: answer.payload,
                });
                Ok(())
            }
            Err(Some(100)) => Ok(()),
            Err(Some(404 | 408)) => {
                self.outstanding = self.outstanding.saturating_sub(undelivered(&answer));
                Ok(())
            }
            Err(Some(409)) => self.take_conflict(&answer),
            Err(_) => Err(Doubt::Refused),
        }
    }

    fn take_conflict(&mut self, answer: &Message) -> Result<(), Doubt> {
        let words = answer.description.as_deref().unwrap_or_default().to_ascii_lowercase();
        if words.contains("consumer deleted") {
            Err(Doubt::Deleted)
        } else if words.contains("maxbytes") || words.contains("batch completed") {
            self.outstanding = self.outstanding.saturating_sub(undelivered(answer));
            Ok(())
        } else {
            Err(Doubt::Refused)
        }
    }
}

/// How much of a request the server will not fulfil any more.
fn undelivered(answer: &Message) -> u64 {
    answer
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Pending-Messages"))
        .and_then(|value| value.as_str().parse().ok())
        .unwrap_or(PULL_BATCH)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("the constants above are seconds")
}

#[cfg(test)]
mod tests;
