//! Puts commands onto COMMANDS, and tries until the server has acknowledged them, even across restarts of the broker.

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    header,
    stored_message::Headers,
    stream_names,
    subject::{CommandAddress, Origin},
};
use millstream_jetstream::{
    backoff::Backoff,
    broker::{AppendError, Broker as _, NewMessage},
    nats_broker::NatsBroker,
};

/// The pause before an unanswered publish is repeated. It doubles up to the longest pause.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A command to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutgoingCommand {
    /// Aggregate and command.
    pub(crate) address: CommandAddress,
    /// The actor.
    pub(crate) origin: Origin,
    /// Its id. However often it is sent under this id, it takes effect once.
    pub(crate) id: String,
    /// Its fields.
    pub(crate) body: Bytes,
    /// Further headers.
    pub(crate) headers: Headers,
}

impl OutgoingCommand {
    /// The message to store.
    pub(crate) fn into_message(self) -> NewMessage {
        let mut headers = self.headers;
        headers.push(header::COMMAND_ID, &self.id);
        let subject = self.address.subject_from(self.origin);
        NewMessage { subject, expected_last: None, headers, payload: self.body }
    }
}

/// Why a command could not be put onto COMMANDS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// It does not fit into a message.
    #[error("the body of {subject} is {size} bytes long; this server takes messages of up to {max} bytes")]
    TooLarge { subject: String, size: usize, max: usize },
    /// The server refuses it.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Failure for PublishError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::TooLarge { .. } => ExitCode::Data,
            Self::Append(error) => error.exit_code(),
        }
    }
}

/// Refuses a body for which the server would end the connection.
///
/// # Errors
/// [`PublishError::TooLarge`].
pub(crate) fn check_size(client: &Client, command: &OutgoingCommand) -> Result<(), PublishError> {
    let max = client.server_info().max_payload;
    let size = command.body.len();
    if size.saturating_add(header_size(command)) > max {
        return Err(PublishError::TooLarge {
            subject: command.address.subject_from(command.origin),
            size,
            max,
        });
    }
    Ok(())
}

fn header_size(command: &OutgoingCommand) -> usize {
    let line = |name: &str, value: &str| name.len() + value.len() + ": \r\n".len();
    let own = line(header::COMMAND_ID, &command.id)
        + line(header::EXPECTED_STREAM, stream_names::COMMANDS)
        + "NATS/1.0\r\n\r\n".len();
    own + command.headers.iter().map(|(name, value)| line(name, value)).sum::<usize>()
}

/// Publishes, and returns the position in COMMANDS. It repeats the publish until there is a clear answer. A command that was stored twice is
/// decided once, because of its id.
///
/// # Errors
/// [`PublishError`] when the server will never accept it.
pub(crate) async fn publish(broker: &NatsBroker, command: &OutgoingCommand) -> Result<u64, PublishError> {
    Ok(store(broker, stream_names::COMMANDS, &command.clone().into_message()).await?)
}

/// Stores a message that may be stored twice without harm. It tries until there is a clear answer, and returns the sequence.
///
/// # Errors
/// [`AppendError`] when the server will never accept it.
pub(crate) async fn store(
    broker: &NatsBroker,
    stream: &str,
    message: &NewMessage,
) -> Result<u64, AppendError> {
    let append = async || broker.append(stream, message.clone()).await.map(|appended| appended.sequence);
    until_clear(append, |error| Some(error)).await
}

/// Repeats an append until it is clear whether it was stored. An error is one of appending, or it is final.
pub(crate) async fn until_clear<E>(
    append: impl AsyncFn() -> Result<u64, E>,
    of_append: impl Fn(&E) -> Option<&AppendError>,
) -> Result<u64, E> {
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    loop {
        let error = match append().await {
            Ok(position) => return Ok(position),
            Err(error) => error,
        };
        match of_append(&error) {
            Some(AppendError::Unclear { subject, detail }) => {
                tracing::warn!(subject, detail, "no clear answer, sending it again");
            }
            Some(AppendError::Full { stream, detail }) => {
                tracing::warn!(stream, detail, "no space, trying again");
            }
            _ => return Err(error),
        }
        backoff.pause().await;
    }
}
