//! A command as it stands in COMMANDS: who asks for what, under which id, at which position.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    header,
    header_check::{HeaderError, check_headers, check_kept},
    stored_message::StoredMessage,
    subject::{CommandAddress, SubjectError},
};

/// Longest command id, in bytes.
pub const COMMAND_ID_LENGTH_MAX: usize = 256;

/// The headers of ours that a command may have.
pub const HEADERS: [&str; 7] = [
    header::COMMAND_ID,
    header::EXPECTED_VERSION,
    header::REPLY,
    header::ACTOR,
    header::CORRELATION_ID,
    header::CAUSATION_ID,
    // What a request to `submit` says to it stays there; a plain command that has it means no harm.
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
            Self::ReservedId { .. } => "command-id-reserved",
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

    /// The id by which this command is known: the sender's, else one derived from the position.
    pub fn id_or_position(&self) -> Arc<str> {
        self.id.clone().unwrap_or_else(|| derived_id(self.position).into())
    }
}

/// The id of a command whose sender gave none.
pub fn derived_id(position: u64) -> String {
    format!("@{position}")
}

/// The position that a derived id stands for.
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
