//! A command as it stands in COMMANDS: who asks for what, under which id, at which position.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    header,
    header_check::{HeaderError, check_headers, check_kept},
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS, TIMERS},
    subject::{CommandAddress, Origin, SubjectError, check_name},
};

/// Longest command id, in bytes.
pub const COMMAND_ID_LENGTH_MAX: usize = 256;

/// The code of commands under an id that their sender must not use.
pub const ID_RESERVED: &str = "command-id-reserved";

/// What stands for the process in the ids of commands that fell due.
pub const TIMER_ISSUER: &str = "timer";
/// The prefix of the ids of retried letters.
const LETTER_ID: &str = "dead-letter-";

/// The headers of ours that a command may have.
pub const HEADERS: [&str; 7] = [
    header::COMMAND_ID,
    header::EXPECTED_VERSION,
    header::REPLY,
    header::ACTOR,
    header::CORRELATION_ID,
    header::CAUSATION_ID,
    // `submit` reads these headers from its own requests. On a plain command they have no effect and do no harm.
    header::WAIT_MS,
];

/// How a command body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// JSON, what a person types. An empty body counts as `{}`.
    Json,
    /// MessagePack with named fields.
    MessagePack,
}

/// A message of COMMANDS that does not have the form of a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The subject is not allowed.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The headers cannot be read.
    #[error("the headers cannot be read: {reason}")]
    Headers {
        /// Why.
        reason: String,
    },
    /// A header of ours cannot be used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The id cannot be used.
    #[error("command id is {length} bytes long; at most {COMMAND_ID_LENGTH_MAX} are allowed")]
    Id {
        /// Its length in bytes.
        length: usize,
    },
    /// The id looks like one derived from a position.
    #[error("command id {id:?} is reserved: ids that start with @ stand for positions in COMMANDS")]
    ReservedId {
        /// What was given.
        id: String,
    },
    /// The id looks like one that only a process or a timer gives its commands, and the command comes from neither.
    #[error(
        "command id {id:?} is reserved: ids of this form are those of commands that processes and timers give; choose an id of another form"
    )]
    ProcessId {
        /// What was given.
        id: String,
    },
    /// The expected version is not a number.
    #[error(
        "header Millstream-Expected-Version is {text:?}; expected a whole number, 0 for an aggregate without events"
    )]
    ExpectedVersion {
        /// What was given.
        text: String,
    },
    /// The content type is unknown.
    #[error("header Content-Type is {text:?}; expected application/json or application/msgpack")]
    ContentType {
        /// What was given.
        text: String,
    },
}

impl CommandError {
    /// A short code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject-not-allowed",
            Self::Headers { .. } => "headers-unreadable",
            Self::Header(error) => error.code(),
            Self::Id { .. } => "command-id-too-long",
            Self::ReservedId { .. } | Self::ProcessId { .. } => ID_RESERVED,
            Self::ExpectedVersion { .. } => "expected-version-malformed",
            Self::ContentType { .. } => "content-type-unknown",
        }
    }
}

/// A command read from COMMANDS. The body is not decoded yet: only the aggregate knows its fields.
#[derive(Debug, Clone)]
pub struct CommandEnvelope {
    /// The idempotency key given by the sender; none when it gave none.
    pub id: Option<Arc<str>>,
    /// The sequence in COMMANDS.
    pub position: u64,
    /// When COMMANDS stored it: the time of the decision.
    pub stored_at: Timestamp,
    /// Aggregate and command name.
    pub address: CommandAddress,
    /// Where it comes from.
    pub origin: Origin,
    /// How `body` is written.
    pub format: BodyFormat,
    /// The command's fields.
    pub body: Bytes,
    /// Who asks.
    pub actor: Option<Arc<str>>,
    /// What it belongs to.
    pub correlation_id: Option<Arc<str>>,
    /// What caused it.
    pub causation_id: Option<Arc<str>>,
    /// The W3C trace context that it was sent in, as it came.
    pub traceparent: Option<Arc<str>>,
    /// The version the sender decided on.
    pub expected_version: Option<u64>,
    /// Where the outcome is to be sent.
    pub reply: Option<Arc<str>>,
}

impl CommandEnvelope {
    /// Reads a message of COMMANDS.
    ///
    /// # Errors
    /// [`CommandError`] when subject or headers are not those of a command; such a message becomes a dead letter.
    pub fn from_stored(message: &StoredMessage) -> Result<Self, CommandError> {
        let headers = &message.headers;
        if let Some((reason, _)) = headers.unreadable() {
            return Err(CommandError::Headers { reason: reason.to_owned() });
        }
        check_headers(headers, &HEADERS)?;
        check_kept(headers)?;
        let text = |name| headers.find(name).map(Arc::<str>::from);
        Ok(Self {
            id: explicit_id(message)?,
            position: message.sequence,
            stored_at: message.stored_at,
            address: CommandAddress::from_stored_subject(&message.subject)?,
            origin: Origin::of_stored_subject(&message.subject),
            format: body_format(headers.find(header::CONTENT_TYPE))?,
            body: message.payload.clone(),
            actor: text(header::ACTOR),
            correlation_id: text(header::CORRELATION_ID),
            causation_id: text(header::CAUSATION_ID),
            traceparent: text(header::TRACE_PARENT),
            expected_version: headers.find(header::EXPECTED_VERSION).map(expected_version).transpose()?,
            reply: text(header::REPLY),
        })
    }

    /// The id by which this command is known: the sender's id or, without one, an id derived from the position.
    pub fn id_or_position(&self) -> Arc<str> {
        self.id.clone().unwrap_or_else(|| derived_id(self.position).into())
    }
}

/// The id of a command whose sender gave none.
pub fn derived_id(position: u64) -> String {
    format!("@{position}")
}

/// The position from which a derived id was made.
pub fn derived_position(id: &str) -> Option<u64> {
    id.strip_prefix('@').and_then(|digits| digits.parse().ok())
}

/// The id that the sender of a message gave, if any.
///
/// # Errors
/// [`CommandError::Id`] when it is too long, [`CommandError::ReservedId`] when it starts with `@`.
pub fn explicit_id(message: &StoredMessage) -> Result<Option<Arc<str>>, CommandError> {
    let headers = &message.headers;
    let id = headers.find(header::COMMAND_ID).or_else(|| headers.find(header::NATS_MESSAGE_ID));
    match id {
        Some(id) if id.len() > COMMAND_ID_LENGTH_MAX => Err(CommandError::Id { length: id.len() }),
        Some(id) if id.starts_with('@') => Err(CommandError::ReservedId { id: id.to_owned() }),
        other => Ok(other.map(Arc::from)),
    }
}

/// Refuses an id of the form that only commands of processes and timers have, if the command comes from neither. Such ids can be predicted,
/// so a stranger who used one first would make the real command a duplicate of his own.
///
/// # Errors
/// [`CommandError::ProcessId`].
pub fn check_id_origin(message: &StoredMessage) -> Result<(), CommandError> {
    match (Origin::of_stored_subject(&message.subject), explicit_id(message)) {
        (Origin::Sender, Ok(Some(id))) if is_effect_id(&id) => {
            Err(CommandError::ProcessId { id: id.to_string() })
        }
        _ => Ok(()),
    }
}

/// The id of a command that a process gives: the `index`th effect of its answer to the event of `version` in the commit at
/// `sequence` of EVENTS.
pub fn process_command_id(process: &str, sequence: u64, version: u64, index: usize) -> String {
    format!("{process}:{sequence}.{version}.{index}")
}

/// The id of a command that falls due and has no id of its own: its `sequence` in the incarnation `generation` of TIMERS.
pub fn timer_command_id(generation: &str, sequence: u64) -> String {
    format!("{TIMER_ISSUER}:{generation}.{sequence}")
}

/// The id under which a dead letter of an event or a timer is retried if its message had no id. Only the process manager, or an operator in
/// its place, may use such an id.
pub fn letter_command_id(stream: &str, sequence: u64) -> String {
    format!("{LETTER_ID}{stream}-{sequence}")
}

/// The same for a dead letter of a command. Anybody may use ids of this form, so the id contains the nanosecond at which the command was
/// set aside. No sender knows it, so nobody can use the id first.
pub fn letter_of_command_id(sequence: u64, set_aside_at: Timestamp, payload: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&set_aside_at.as_nanosecond().to_be_bytes()).update(payload);
    let hash = hasher.finalize().to_hex();
    format!("{LETTER_ID}{COMMANDS}-{sequence}-{}", hash.get(..16).unwrap_or(&hash))
}

/// Whether an id has the form that only the process manager, or an operator in its place, may use.
fn is_effect_id(id: &str) -> bool {
    let of = |stream| id.strip_prefix(LETTER_ID)?.strip_prefix(stream)?.strip_prefix('-');
    issuer(id).is_some() || of(EVENTS).or_else(|| of(TIMERS)).is_some_and(is_number)
}

/// The process named by a command's id, or [`TIMER_ISSUER`] for a command that fell due; `None` for ids of any other form.
pub fn issuer(command_id: &str) -> Option<&str> {
    let (process, place) = command_id.split_once(':')?;
    let is_effect = place.split('.').count() == 3 && place.split('.').all(is_number);
    let is_due =
        process == TIMER_ISSUER && place.split_once('.').is_some_and(|(_, number)| is_number(number));
    ((is_effect && check_name("process", process).is_ok()) || is_due).then_some(process)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn body_format(content_type: Option<&str>) -> Result<BodyFormat, CommandError> {
    let Some(text) = content_type else { return Ok(BodyFormat::Json) };
    // Names of media types are read in any case (RFC 9110, 8.3.1).
    let media_type = text.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(header::JSON) {
        Ok(BodyFormat::Json)
    } else if media_type.eq_ignore_ascii_case(header::MESSAGE_PACK) {
        Ok(BodyFormat::MessagePack)
    } else {
        Err(CommandError::ContentType { text: text.to_owned() })
    }
}

fn expected_version(text: &str) -> Result<u64, CommandError> {
    text.trim().parse().map_err(|_| CommandError::ExpectedVersion { text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_effects_are_told_by_their_form() {
        for id in [
            process_command_id("stock-keeping", 17, 3, 0),
            timer_command_id("01JDXQ8F6ZB7M4A1RKT5W9C2EV", 9),
            letter_command_id(TIMERS, 4),
            letter_command_id(EVENTS, 4),
            "stock-keeping:0017.3.0".to_owned(),
        ] {
            assert!(is_effect_id(&id), "{id}");
        }
        for id in [
            "",
            "sale-17",
            "web-stock-keeping:17.3",
            "order:1.2.3.4",
            "order:1.2.x",
            "order:1..3",
            "Order:1.2.3",
            "shop 7:1.2.3",
            "timer:egg",
            "timer:egg.soft",
            "dead-letter-COMMANDS-17",
            "dead-letter-TIMERS-x",
            ":1.2.3",
        ] {
            assert!(!is_effect_id(id), "{id}");
        }
    }

    #[test]
    fn an_id_of_a_process_is_its_own_in_either_header() {
        let message = |subject: &str, name: &str, id: &str| StoredMessage {
            subject: subject.to_owned(),
            sequence: 1,
            stored_at: Timestamp::UNIX_EPOCH,
            headers: [(name, id)].into_iter().collect(),
            payload: Bytes::new(),
        };
        for name in [header::COMMAND_ID, header::NATS_MESSAGE_ID] {
            let of = |subject, id| check_id_origin(&message(subject, name, id));
            let error = of("cmdq.3.a.b.c.d", "fulfilment:1.2.3").unwrap_err();
            assert_eq!(error.code(), ID_RESERVED);
            assert_eq!(of("cmdq.3.a.b.c.d", "mine"), Ok(()));
            assert_eq!(of("effect.a.b.c.d", "fulfilment:1.2.3"), Ok(()));
        }
    }

    #[test]
    fn media_types_are_read_in_any_case_and_with_parameters() {
        for (text, format) in [
            (None, BodyFormat::Json),
            (Some("APPLICATION/JSON"), BodyFormat::Json),
            (Some("Application/Json; charset=utf-8"), BodyFormat::Json),
            (Some("application/MsgPack"), BodyFormat::MessagePack),
        ] {
            assert_eq!(body_format(text), Ok(format), "{text:?}");
        }
        for text in ["text/plain", "application/json+x", ";", "application / json"] {
            assert!(body_format(Some(text)).is_err(), "{text}");
        }
    }
}
