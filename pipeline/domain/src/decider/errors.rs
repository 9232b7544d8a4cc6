//! Why an event or a command cannot be read.

/// An event that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The aggregate has no such type. A newer release may have written the event.
    #[error(
        "unknown event type {event_type:?} (schema {schema}) of {aggregate}; a newer release may know it"
    )]
    UnknownType {
        /// The aggregate's name.
        aggregate: &'static str,
        /// The type in the message.
        event_type: String,
        /// Its schema version.
        schema: u16,
    },
    /// The fields do not decode.
    #[error("event {event_type:?} (schema {schema}) of {aggregate} does not decode")]
    Data {
        /// The aggregate's name.
        aggregate: &'static str,
        /// The type in the message.
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
        /// The command in the message.
        command: String,
        /// The commands that there are, separated by commas.
        known: String,
    },
    /// The body does not have the command's fields; the text names the field.
    #[error("body of {command} is not valid: {detail}")]
    Body {
        /// The command.
        command: String,
        /// The decoder's message, with the path of the field.
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
