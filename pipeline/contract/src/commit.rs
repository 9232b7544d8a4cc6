//! A commit: one message of EVENTS. It holds all events that one or more commands of one aggregate caused together.
//!
//! The body is MessagePack with named fields. The data of each event is MessagePack inside a binary field, so that a
//! reader decodes only the events it handles (docs/adr/0002-event-data-is-nested.md).

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    message_pack,
    stored_message::StoredMessage,
    subject::{StreamId, SubjectError},
};

/// Bytes of a [`commit_hash`].
pub const COMMIT_HASH_LENGTH: usize = 16;

/// Roughly the stored size of a commit, of each of its commands, and of each of its events without its data. The encoder's buffer is allocated
/// with these sizes and the size of the data.
const COMMIT_BYTES: usize = 140;
const COMMAND_BYTES: usize = 100;
const EVENT_BYTES: usize = 80;

/// A command whose events a commit holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedCommand {
    /// The command id, given or derived.
    pub id: Arc<str>,
    /// Its sequence in COMMANDS. Positions, not ids, tell whether a command has taken effect.
    pub position: u64,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Arc<str>>,
    /// What it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Arc<str>>,
    /// What caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<Arc<str>>,
    /// The W3C trace context that it was sent in, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Arc<str>>,
    /// Set when this aggregate was changed as a partner: `<context>.<aggregate>.<id>` of the command's own aggregate, whose commit for the
    /// same position follows this one in EVENTS. Absent in the commit of the command's own aggregate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner_of: Option<Arc<str>>,
}

/// One fact, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEvent {
    /// The event type, lower-kebab-case and in the past tense.
    #[serde(rename = "type")]
    pub event_type: Cow<'static, str>,
    /// The version of the type's shape, from 1.
    pub schema: u16,
    /// The event's fields, MessagePack with named fields.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// Index into [`Commit::commands`] of the command that caused it.
    pub command: u32,
}

/// The body of a message of EVENTS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// A ULID made by the handler. After an append without a clear answer, it tells whether the append took place.
    pub commit_id: Arc<str>,
    /// The aggregate version of the first event; versions start at 1 and have no gaps.
    pub first_version: u64,
    /// When the last of the commands was stored in COMMANDS: the time of the decision, nanoseconds since 1970.
    pub recorded_at: i64,
    /// The commands whose events these are, in the order of their positions.
    pub commands: Vec<CommittedCommand>,
    /// The events, in order. Empty if the commit only records that its single command has no events here, because it was refused. Such a
    /// commit stops a handler that had decided otherwise from appending later (docs/adr/0025-a-command-may-change-several-aggregates.md).
    pub events: Vec<RecordedEvent>,
    /// The [`commit_hash`] of the aggregate's previous commit; absent in the first one.
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub previous: Option<Vec<u8>>,
}

/// Why a message of EVENTS is not a commit. A reader that meets such a message stops, because events are never skipped.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The subject is not an aggregate's.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The body does not decode.
    #[error("commit at sequence {sequence} on {subject} does not decode")]
    Body {
        /// Where.
        sequence: u64,
        /// On which subject.
        subject: String,
        /// Why.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// It names no command, so nobody could say who asked for its events.
    #[error("commit at sequence {sequence} on {subject} names no command")]
    NoCommand {
        /// Where.
        sequence: u64,
        /// On which subject.
        subject: String,
    },
    /// An event names a command that the commit does not hold.
    #[error("commit at sequence {sequence} on {subject}: an event refers to command {index} of {commands}")]
    CommandIndex {
        /// Where.
        sequence: u64,
        /// On which subject.
        subject: String,
        /// The index.
        index: u32,
        /// How many there are.
        commands: usize,
    },
}

impl Commit {
    /// The body to store.
    pub fn encode(&self) -> Vec<u8> {
        let data: usize = self.events.iter().map(|event| event.data.len()).sum();
        let rest = COMMIT_BYTES + COMMAND_BYTES * self.commands.len() + EVENT_BYTES * self.events.len();
        let mut body = Vec::with_capacity(rest + data);
        rmp_serde::encode::write_named(&mut body, self)
            .expect("a commit holds only strings, numbers and bytes");
        body
    }

    /// The version after this commit.
    pub fn last_version(&self) -> u64 {
        self.first_version + self.events.len() as u64 - 1
    }

    /// The time of the decision.
    pub fn recorded_at(&self) -> Timestamp {
        timestamp_from_nanoseconds(self.recorded_at)
    }

    /// The command that caused `event`.
    pub fn command_of(&self, event: &RecordedEvent) -> Option<&CommittedCommand> {
        self.commands.get(event.command as usize)
    }

    /// The highest position among the commands; 0 when there is none.
    pub fn last_position(&self) -> u64 {
        self.commands.iter().map(|command| command.position).max().unwrap_or(0)
    }
}

/// A commit together with where it is stored.
#[derive(Debug, Clone)]
pub struct StoredCommit {
    /// The aggregate.
    pub stream_id: StreamId,
    /// The sequence in EVENTS.
    pub broker_sequence: u64,
    /// Its content.
    pub commit: Commit,
    body: Bytes,
}

impl StoredCommit {
    /// Reads a message of EVENTS.
    ///
    /// # Errors
    /// [`CommitError`] when it is not a commit.
    pub fn from_stored(message: &StoredMessage) -> Result<Self, CommitError> {
        let stream_id = StreamId::from_event_subject(&message.subject)?;
        let commit: Commit = message_pack::from_slice(&message.payload).map_err(|source| {
            CommitError::Body { sequence: message.sequence, subject: message.subject.clone(), source }
        })?;
        if commit.commands.is_empty() {
            let (sequence, subject) = (message.sequence, message.subject.clone());
            return Err(CommitError::NoCommand { sequence, subject });
        }
        if let Some(event) = commit.events.iter().find(|event| commit.command_of(event).is_none()) {
            return Err(CommitError::CommandIndex {
                sequence: message.sequence,
                subject: message.subject.clone(),
                index: event.command,
                commands: commit.commands.len(),
            });
        }
        Ok(Self { stream_id, broker_sequence: message.sequence, commit, body: message.payload.clone() })
    }

    /// A stand-in for a message on the aggregate's subject that is not a commit and was set aside ([`super::set_aside`]). It holds no
    /// events. Only its sequence and its hash matter, because the aggregate's next commit follows it.
    pub fn set_aside(stream_id: StreamId, message: &StoredMessage) -> Self {
        let commit = Commit {
            commit_id: content_digest(&message.payload).into(),
            first_version: 1,
            recorded_at: timestamp_to_nanoseconds(message.stored_at),
            commands: Vec::new(),
            events: Vec::new(),
            previous: None,
        };
        Self { stream_id, broker_sequence: message.sequence, commit, body: message.payload.clone() }
    }

    /// Whether it stands for a message that was set aside. A real commit always names a command.
    pub fn is_set_aside(&self) -> bool {
        self.commit.commands.is_empty()
    }

    /// Its stored size in bytes, without headers.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// The [`commit_hash`] of its body, computed on demand because most readers do not need it.
    pub fn hash(&self) -> [u8; COMMIT_HASH_LENGTH] {
        commit_hash(&self.body)
    }

    /// The events, each with its sequence, version, time and command.
    pub fn envelopes(&self) -> impl Iterator<Item = EventEnvelope<'_>> {
        (self.commit.first_version..).zip(&self.commit.events).filter_map(|(aggregate_version, event)| {
            Some(EventEnvelope {
                stream_id: &self.stream_id,
                broker_sequence: self.broker_sequence,
                aggregate_version,
                recorded_at: self.commit.recorded_at(),
                event_type: &event.event_type,
                schema: event.schema,
                data: &event.data,
                command: self.commit.command_of(event)?,
            })
        })
    }
}

/// An event with its sequence, version, time and cause: what projections, reports and processes see.
#[derive(Debug, Clone, Copy)]
pub struct EventEnvelope<'a> {
    /// The aggregate it belongs to.
    pub stream_id: &'a StreamId,
    /// The sequence of its commit in EVENTS.
    pub broker_sequence: u64,
    /// Its place among the aggregate's events, from 1.
    pub aggregate_version: u64,
    /// The time of the decision.
    pub recorded_at: Timestamp,
    /// The event type.
    pub event_type: &'a str,
    /// The version of the type's shape.
    pub schema: u16,
    /// Its fields in MessagePack.
    pub data: &'a [u8],
    /// The command that caused it.
    pub command: &'a CommittedCommand,
}

/// The hash that chains the commits of an aggregate: the first 16 bytes of BLAKE3 over the body.
pub fn commit_hash(body: &[u8]) -> [u8; COMMIT_HASH_LENGTH] {
    let mut hash = [0; COMMIT_HASH_LENGTH];
    hash.copy_from_slice(blake3::hash(body).as_bytes().get(..COMMIT_HASH_LENGTH).unwrap_or_default());
    hash
}

/// [`commit_hash`] as text. It identifies a message that has no id of its own.
pub fn content_digest(body: &[u8]) -> String {
    format!("blake3:{}", hexadecimal(&commit_hash(body)))
}

/// Two digits for each byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time from the wire; out-of-range values, which no server produces, become 1970.
pub fn timestamp_from_nanoseconds(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A time for the wire. Nanoseconds since 1970 fit until the year 2262.
pub fn timestamp_to_nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}
