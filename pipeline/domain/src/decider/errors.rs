//! Why an event or a command cannot be read.

/// An event that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// No such type in this aggregate: perhaps written by a newer release.
    #[error(
        "unknown event type {event_type:?} (schema {schema}) of {aggregate}; a newer release may know it"
    )]
    UnknownType {
        /// The aggregate's name.
        aggregate: &'static str,
        /// The type on the wire.
        event_type: String,
        /// Its schema version.
        schema: u16,
    },
    /// The fields do not decode.
    #[error("event {event_type:?} (schema {schema}) of {aggregate} does not decode")]
    Data {
        /// The aggregate's name.
        aggregate: &'static str,
        /// The type on the wire.
        event_type: String,
        /// Its schema version.
        schema: u16,
        /// Why.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

/// A command that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CommandBodyError {
    /// The aggregate has no such command.
    #[error("{aggregate} has no command {command:?}; it has {known}")]
    UnknownCommand {
        /// The aggregate's name.
        aggregate: &'static str,
        /// What was asked.
        command: String,
        /// What there is, comma separated.
        known: String,
    },
    /// The body does not have the command's fields; the text names the field.
    #[error("body of {command} is not valid: {detail}")]
    Body {
        /// The command.
        command: String,
        /// The decoder's words, with the path of the field.
        detail: String,
    },
}

impl CommandBodyError {
    /// A short code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCommand { .. } => "command-unknown",
            Self::Body { .. } => "body-malformed",
        }
    }
}
