//! What the engine asks of JetStream, as a trait with two implementations: [`crate::nats_broker`] talks to a server, and
//! `testing::memory_broker` is its twin for simulations. One suite of scenarios runs over both.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stored_message::{Headers, StoredMessage},
};

/// The most messages in one atomic batch: nats-server's default `max_batch_size`.
pub const ATOMIC_BATCH_MAX: usize = 1000;

/// nats-server's default `max_payload`: the largest message with its headers, in bytes.
pub const MESSAGE_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

/// A message to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its subject.
    pub subject: String,
    /// The expected sequence of the subject's last message, 0 for none. If the last message is another one, the append is refused. With
    /// `None`, the message is appended in any case.
    pub expected_last: Option<u64>,
    /// Headers.
    pub headers: Headers,
    /// Body.
    pub payload: Bytes,
}

impl NewMessage {
    /// Its approximate size in bytes, headers included.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.subject.len() + headers + self.payload.len()
    }
}

/// The result of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its sequence.
    pub sequence: u64,
    /// Whether the server already had a message with the same `Nats-Msg-Id`; `sequence` is then that message's.
    pub duplicate: bool,
}

/// Why an append has no sequence.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The subject's last message is not the expected one. Nothing was stored. JetStream codes 10071 and 10164.
    #[error("the subject has moved on ({detail})")]
    Conflict {
        /// The server's message and code.
        detail: String,
    },
    /// It is not known whether the message was stored or will be: no answer in time, connection lost, no leader.
    #[error("it is unclear whether the append to {subject} took place: {detail}")]
    Unclear {
        /// The subject.
        subject: String,
        /// What is known.
        detail: String,
    },
    /// The stream is full. Nothing was stored, and the append can be tried again when there is space. JetStream code 10077 with a limit, and
    /// those for limits of the account and the server.
    #[error("stream {stream} is full ({detail}); raise its max_bytes or purge what is no longer needed")]
    Full {
        /// The stream.
        stream: String,
        /// The server's message and code.
        detail: String,
    },
    /// The server will never store it.
    #[error("the server refuses the append to {subject}: {detail}")]
    Refused {
        /// The subject.
        subject: String,
        /// The server's message and code.
        detail: String,
    },
}

impl Failure for AppendError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Conflict { .. } => ExitCode::Software,
            Self::Unclear { .. } => ExitCode::Unavailable,
            Self::Full { .. } => ExitCode::InputOutput,
            Self::Refused { .. } => ExitCode::NotPermitted,
        }
    }
}

/// Why a question to the server has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// There is no answer now. The same question can be asked again.
    #[error("{operation}: no answer from JetStream: {detail}")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// What is known.
        detail: String,
    },
    /// The stream does not exist.
    #[error("stream {stream} does not exist; run `millstream setup`")]
    StreamMissing {
        /// The stream.
        stream: String,
    },
    /// The stream lacks what Millstream relies on.
    #[error("stream {stream} {detail}; it was not made by `millstream setup`")]
    StreamForeign {
        /// The stream.
        stream: String,
        /// What it lacks.
        detail: String,
    },
    /// The server forbids it.
    #[error("{operation} is not permitted: {detail}")]
    Denied {
        /// What was asked.
        operation: &'static str,
        /// The server's message.
        detail: String,
    },
}

impl Failure for BrokerError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unavailable { .. } => ExitCode::Unavailable,
            Self::StreamMissing { .. } | Self::StreamForeign { .. } => ExitCode::Configuration,
            Self::Denied { .. } => ExitCode::NotPermitted,
        }
    }
}

/// State of a JetStream stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// The incarnation of the stream.
    pub generation: String,
    /// The first stored sequence; one more than `last_sequence` if nothing is stored.
    pub first_sequence: u64,
    /// The last assigned sequence; 0 before the first message.
    pub last_sequence: u64,
    /// How much it holds.
    pub usage: StreamUsage,
}

/// How much a stream holds, and how much it may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamUsage {
    /// Messages, as the server counts them.
    pub messages: u64,
    /// Their bytes, including headers and the server's own data.
    pub bytes: u64,
    /// The most messages it may hold; `None` without a limit.
    pub messages_max: Option<u64>,
    /// The most bytes it may hold; `None` without a limit.
    pub bytes_max: Option<u64>,
}

/// The part of its limit above which a stream counts as crowded, long before it is full.
pub const CROWDED: f64 = 0.8;

impl StreamUsage {
    /// The used part of its limit, 1 when the stream is full. Of bytes and messages, the one closer to its limit counts. 0 without limits.
    pub fn ratio(&self) -> f64 {
        let part = |used: u64, max: Option<u64>| match max {
            Some(max) => used as f64 / max.max(1) as f64,
            None => 0.0,
        };
        part(self.bytes, self.bytes_max).max(part(self.messages, self.messages_max))
    }
}

/// A part of the messages of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The messages, without gaps.
    pub messages: Vec<StoredMessage>,
    /// Whether more messages follow.
    pub more: bool,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderConfig {
    /// The JetStream stream.
    pub stream: String,
    /// The name of the consumer, which is fixed for each process: `nats consumer report` shows the reader's lag under it. A second reader
    /// with the same name ends the first.
    pub name: String,
    /// The purpose of the consumer, shown by `nats consumer ls`.
    pub description: String,
    /// The sequence after which reading begins.
    pub after: u64,
    /// Only these subjects; all when empty.
    pub filters: Vec<String>,
    /// Whether to end a living reader of the same name elsewhere. Right for a process that has taken a lease; wrong if two processes might
    /// have been given the same name by mistake.
    pub replace_live: bool,
}

/// Why a reader cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another reader uses the name now.
    #[error(
        "another process reads {stream} as {name}: give each process its own process.instance, or stop the other one"
    )]
    TakenOver {
        /// The stream.
        stream: String,
        /// The consumer's name.
        name: String,
    },
    /// The stream was made anew since this reader began.
    #[error(
        "{stream} is of generation {found} now, but {expected} was read before: it was deleted and made again"
    )]
    OtherGeneration {
        /// The stream.
        stream: String,
        /// The generation that was read.
        expected: String,
        /// The generation that is there now.
        found: String,
    },
    /// The server holds less than was read before: the stream has lost its tail.
    #[error(
        "{stream} ends at sequence {last}, but {after} was read from it before: the server has lost messages"
    )]
    LostTail {
        /// The stream.
        stream: String,
        /// Where the stream ends.
        last: u64,
        /// How far it was read.
        after: u64,
    },
    /// The server holds a different message where this reader has read. The stream lost its tail and has stored other messages since.
    #[error(
        "{stream} holds another message at sequence {sequence} than was read there before: the server has lost messages and stored others in their place"
    )]
    OtherMessage {
        /// The stream.
        stream: String,
        /// The sequence.
        sequence: u64,
    },
    /// A question failed in a way that asking again does not help.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Failure for ReadError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::TakenOver { .. } => ExitCode::AlreadyRunning,
            Self::LostTail { .. } | Self::OtherMessage { .. } | Self::OtherGeneration { .. } => {
                ExitCode::Data
            }
            Self::Broker(error) => error.exit_code(),
        }
    }
}

/// Reads a stream in order from a sequence, each message once, and resumes by itself after any interruption.
pub trait StreamReader: Send + 'static {
    /// Waits for at least one message and returns at most `max` of those that have come. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot continue. Interruptions of the connection are not errors.
    fn next_batch(
        &mut self,
        max: usize,
    ) -> impl Future<Output = Result<Vec<StoredMessage>, ReadError>> + Send;

    /// How many messages followed the last returned one, as far as is known.
    fn pending(&self) -> u64 {
        0
    }

    /// Ends reading and removes the consumer, so that no report shows it lagging. A reader that is only dropped leaves its consumer, which
    /// then shows how far a stopped process is behind.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        async {}
    }
}

/// The part of JetStream that the engine uses.
pub trait Broker: Clone + Send + Sync + 'static {
    /// Its reader.
    type Reader: StreamReader;

    /// The largest message that the server accepts now, in bytes, headers included. A stream may accept less.
    fn message_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX_DEFAULT
    }

    /// Appends one message. Appends that are started together are sent together, without waiting for each other.
    fn append(
        &self,
        stream: &str,
        message: NewMessage,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;

    /// Appends each message on its own, all of them at the same time. Returns one answer for each, in the order of the messages.
    fn append_each(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> impl Future<Output = Vec<Result<Appended, AppendError>>> + Send {
        async move { join_all(messages.into_iter().map(|message| self.append(stream, message))).await }
    }

    /// Appends all of them or none, at adjacent sequences; the answer is that of the last one. Each first message of a subject may carry an
    /// expected sequence, which must hold before the batch; later messages of the subject may not. At most 1,000 messages.
    fn append_atomically(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;

    /// The next messages of one literal subject from sequence `from` on, in order: roughly as many as fit into `bytes`, and at least one if
    /// there is one. A replica that lags behind may answer, so messages at the end may be missing.
    fn load_page(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        bytes: usize,
    ) -> impl Future<Output = Result<Page, BrokerError>> + Send;

    /// The last message of a subject, which may have wildcards. The leader answers, so it is current.
    fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> impl Future<Output = Result<Option<StoredMessage>, BrokerError>> + Send;

    /// The message at a sequence. The leader answers.
    fn get(
        &self,
        stream: &str,
        sequence: u64,
    ) -> impl Future<Output = Result<Option<StoredMessage>, BrokerError>> + Send;

    /// The state of a stream. The leader answers.
    fn state(&self, stream: &str) -> impl Future<Output = Result<StreamState, BrokerError>> + Send;

    /// Opens a reader. Its consumer is made anew at the given sequence, and replaces any consumer with the same name.
    fn read(&self, config: ReaderConfig) -> impl Future<Output = Result<Self::Reader, ReadError>> + Send;

    /// Removes the consumer that a reader with this name has left on `stream`. A living reader makes its consumer again. Repeating the call
    /// changes nothing.
    fn remove_consumer(
        &self,
        stream: &str,
        name: &str,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Sends a reply, a plain message that no stream stores, without a guarantee. A subject that is not allowed for replies
    /// ([`millstream_contract::subject::is_reply_subject`]) gets nothing.
    fn send(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Removes the messages of `stream` whose subjects match `filter`, up to the sequence `through` or all of them. Returns how many there
    /// were. Repeating the call changes nothing.
    fn purge_subject(
        &self,
        stream: &str,
        filter: &str,
        through: Option<u64>,
    ) -> impl Future<Output = Result<u64, BrokerError>> + Send;

    /// Removes the message at `sequence` of `stream`. Repeating the call changes nothing.
    fn remove(&self, stream: &str, sequence: u64) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Renews the lease of `key` if `owner` holds it, or takes it for `owner` if nobody holds it or its holder is no longer connected.
    /// Returns whether `owner` holds it now. The lease lapses `time_to_live` after the last call.
    fn hold_lease(
        &self,
        key: &str,
        owner: &str,
        time_to_live: Duration,
    ) -> impl Future<Output = Result<bool, BrokerError>> + Send;

    /// Gives the lease back, if `owner` holds it.
    fn release_lease(&self, key: &str, owner: &str) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// The holder of the lease of `key`, if there is one.
    fn lease_owner(&self, key: &str) -> impl Future<Output = Result<Option<String>, BrokerError>> + Send;

    /// Returns when the lease of `key` may have become free, or after `wait`.
    fn lease_freed(&self, key: &str, wait: Duration) -> impl Future<Output = ()> + Send;
}
