//! What the engine asks of JetStream, as a trait with two implementations: [`crate::nats_broker`] speaks to a server,
//! `testing::memory_broker` is its twin for simulations. One scenario suite runs over both.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stored_message::{Headers, StoredMessage},
};

/// Most messages in one atomic batch: nats-server's default `max_batch_size`.
pub const ATOMIC_BATCH_MAX: usize = 1000;

/// nats-server's default `max_payload`: the largest message with its headers, in bytes.
pub const MESSAGE_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

/// A message to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Where.
    pub subject: String,
    /// Sequence of the subject's last message, 0 for none; the append is refused when it is another one. `None` appends
    /// whatever is there.
    pub expected_last: Option<u64>,
    /// Headers.
    pub headers: Headers,
    /// Body.
    pub payload: Bytes,
}

impl NewMessage {
    /// About how many bytes it takes, headers included.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.subject.len() + headers + self.payload.len()
    }
}

/// Where an append stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its sequence.
    pub sequence: u64,
    /// The server had a message of the same `Nats-Msg-Id` already; `sequence` is that one's.
    pub duplicate: bool,
}

/// Why an append has no sequence.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The subject's last message is another one: nothing was stored. JetStream codes 10071 and 10164.
    #[error("the subject has moved on ({detail})")]
    Conflict {
        /// The server's words and code.
        detail: String,
    },
    /// It may or may not have been stored, or may yet be: no answer in time, connection lost, no leader.
    #[error("it is unclear whether the append to {subject} took place: {detail}")]
    Unclear {
        /// The subject.
        subject: String,
        /// What is known.
        detail: String,
    },
    /// The stream is full: nothing was stored; it can be tried again when there is space. JetStream code 10077.
    #[error("stream {stream} is full ({detail}); raise its max_bytes or purge what is no longer needed")]
    Full {
        /// The stream.
        stream: String,
        /// The server's words and code.
        detail: String,
    },
    /// The server will never store it.
    #[error("the server refuses the append to {subject}: {detail}")]
    Refused {
        /// The subject.
        subject: String,
        /// The server's words and code.
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

/// Why a read has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// No answer now; the same question can be asked again.
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
        /// The server's words.
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
    /// Which incarnation.
    pub generation: String,
    /// First stored sequence; one above `last_sequence` when nothing is stored.
    pub first_sequence: u64,
    /// Last given sequence; 0 before the first.
    pub last_sequence: u64,
    /// How much it holds.
    pub usage: StreamUsage,
}

/// How much a stream holds, and how much it may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamUsage {
    /// Messages, as the server counts them.
    pub messages: u64,
    /// Their bytes, headers and the server's own data included.
    pub bytes: u64,
    /// Most messages; `None` without a limit.
    pub messages_max: Option<u64>,
    /// Most bytes; `None` without a limit.
    pub bytes_max: Option<u64>,
}

/// The part of its limit above which a stream is crowded: long before it is full.
pub const CROWDED: f64 = 0.8;

impl StreamUsage {
    /// The part of its limit that is taken, 1 when the stream is full: of bytes or of messages, whichever is nearer to its end.
    /// 0 without limits.
    pub fn ratio(&self) -> f64 {
        let part = |used: u64, max: Option<u64>| match max {
            Some(max) => used as f64 / max.max(1) as f64,
            None => 0.0,
        };
        part(self.bytes, self.bytes_max).max(part(self.messages, self.messages_max))
    }
}

/// A part of the messages of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// They follow each other.
    pub messages: Vec<StoredMessage>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderConfig {
    /// The JetStream stream.
    pub stream: String,
    /// Name of the consumer, fixed per process: `nats consumer report` shows the reader's lag under it. A second reader
    /// of the same name ends the first.
    pub name: String,
    /// What the consumer is for, shown by `nats consumer ls`.
    pub description: String,
    /// Read what follows this sequence.
    pub after: u64,
    /// Only these subjects; all when empty.
    pub filters: Vec<String>,
    /// Whether to end a reader of the same name that is alive elsewhere. Where a lease has been taken, yes; where two
    /// processes were given the same name by mistake, no.
    pub replace_live: bool,
}

/// Why a reader has no more messages.
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
        /// What was read.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The server holds less than was read before: it lost its tail.
    #[error(
        "{stream} ends at sequence {last}, but {after} was read from it before: the server has lost messages"
    )]
    LostTail {
        /// The stream.
        stream: String,
        /// Where it ends.
        last: u64,
        /// What was read.
        after: u64,
    },
    /// The server holds something else where this reader has read: it lost its tail and has stored other messages since.
    #[error(
        "{stream} holds another message at sequence {sequence} than was read there before: the server has lost messages and stored others in their place"
    )]
    OtherMessage {
        /// The stream.
        stream: String,
        /// Where.
        sequence: u64,
    },
    /// A question that cannot be asked again.
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

/// Reads a stream in order, each message once, from a position; resumes by itself after any interruption.
pub trait StreamReader: Send + 'static {
    /// Waits for at least one message and returns at most `max` of those that are there. Cancelling the wait loses
    /// nothing.
    ///
    /// # Errors
    /// [`ReadError`] when it cannot go on; interruptions of the connection are not errors.
    fn next_batch(
        &mut self,
        max: usize,
    ) -> impl Future<Output = Result<Vec<StoredMessage>, ReadError>> + Send;

    /// How many messages waited behind the last one returned, as far as is known.
    fn pending(&self) -> u64 {
        0
    }

    /// Ends reading and removes the consumer, so that no report shows it lagging. A reader that is merely dropped leaves
    /// its consumer, which then shows how far a stopped process is behind.
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

    /// The largest message that the server takes now, headers included, in bytes. A stream may take less.
    fn message_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX_DEFAULT
    }

    /// Appends one message. Appends that are started together are in flight together.
    fn append(
        &self,
        stream: &str,
        message: NewMessage,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;

    /// Appends each of them on its own, all in flight together. One answer each, in the order of the messages.
    fn append_each(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> impl Future<Output = Vec<Result<Appended, AppendError>>> + Send {
        async move { join_all(messages.into_iter().map(|message| self.append(stream, message))).await }
    }

    /// Appends all of them or none, at adjacent sequences; the answer is the last one's. Each may carry an expectation,
    /// which must hold before the batch; only the first message of a subject may. At most 1,000.
    fn append_atomically(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;

    /// The next messages of one literal subject from sequence `from` on, in order: about as many as `bytes` hold, and at
    /// least one where there is one. May be answered by a replica that lags: what is missing then is the end.
    fn load_page(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        bytes: usize,
    ) -> impl Future<Output = Result<Page, BrokerError>> + Send;

    /// The last message of a subject, which may have wildcards, answered by the leader: current.
    fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> impl Future<Output = Result<Option<StoredMessage>, BrokerError>> + Send;

    /// The message at a sequence, answered by the leader.
    fn get(
        &self,
        stream: &str,
        sequence: u64,
    ) -> impl Future<Output = Result<Option<StoredMessage>, BrokerError>> + Send;

    /// The state of a stream, answered by the leader.
    fn state(&self, stream: &str) -> impl Future<Output = Result<StreamState, BrokerError>> + Send;

    /// Opens a reader. Its consumer is made anew at the position, whatever was there under the name.
    fn read(&self, config: ReaderConfig) -> impl Future<Output = Result<Self::Reader, ReadError>> + Send;

    /// Removes the consumer that a reader of this name has left on `stream`. A reader that is alive makes it anew. Repeating it
    /// changes nothing.
    fn remove_consumer(
        &self,
        stream: &str,
        name: &str,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Sends a plain message that nothing stores: a reply. Best effort; a subject that is no place for replies
    /// ([`millstream_contract::subject::is_reply_subject`]) gets nothing.
    fn send(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Removes the messages of `stream` on subjects that `filter` takes, up to sequence `through`, or all of them. Says how
    /// many there were. Repeating it changes nothing.
    fn purge_subject(
        &self,
        stream: &str,
        filter: &str,
        through: Option<u64>,
    ) -> impl Future<Output = Result<u64, BrokerError>> + Send;

    /// Removes the message at `sequence` of `stream`. Repeating it changes nothing.
    fn remove(&self, stream: &str, sequence: u64) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Takes the lease of `key` for `owner` if nobody has it, or whoever has it is not connected any more, or renews it if
    /// `owner` has it; says whether `owner` has it now. It lapses `time_to_live` after the last call.
    fn hold_lease(
        &self,
        key: &str,
        owner: &str,
        time_to_live: Duration,
    ) -> impl Future<Output = Result<bool, BrokerError>> + Send;

    /// Gives the lease back, if `owner` has it.
    fn release_lease(&self, key: &str, owner: &str) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Who has the lease of `key`, if anybody.
    fn lease_owner(&self, key: &str) -> impl Future<Output = Result<Option<String>, BrokerError>> + Send;

    /// Ends when the lease of `key` may have become free, or after `wait`.
    fn lease_freed(&self, key: &str, wait: Duration) -> impl Future<Output = ()> + Send;
}
