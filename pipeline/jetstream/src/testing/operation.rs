//! Questions to a broker as values, and answers as texts that do not depend on time. The same questions can be put to the twin and to a real
//! server, and the texts compared.

use millstream_contract::{header, stored_message::StoredMessage};

use crate::broker::{AppendError, Appended, Broker, BrokerError, NewMessage, StreamState};

/// Separates ids that a sequence uses again after the server's window; see [`Operation::Append`].
pub const AGAIN: char = '~';

/// A question to a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Append one message.
    Append {
        /// The JetStream stream.
        stream: String,
        /// The message. After [`AGAIN`], its message id has a suffix that distinguishes it from an earlier message whose id the server had
        /// already forgotten. A real server would still remember it, because a sequence is repeated faster than it was recorded.
        message: NewMessage,
    },
    /// Append an atomic batch.
    AppendAtomically {
        /// The JetStream stream.
        stream: String,
        /// The batch.
        messages: Vec<NewMessage>,
    },
    /// Load one subject.
    Load {
        /// The JetStream stream.
        stream: String,
        /// The subject as it is stored.
        subject: String,
        /// The first sequence.
        from: u64,
    },
    /// The last message of one subject.
    Last {
        /// The JetStream stream.
        stream: String,
        /// The subject as it is stored.
        subject: String,
    },
    /// The message at a sequence.
    Get {
        /// The JetStream stream.
        stream: String,
        /// The sequence.
        sequence: u64,
    },
    /// The first and the last sequence of a stream.
    State {
        /// The JetStream stream.
        stream: String,
    },
}

impl Operation {
    /// Asks `broker`, and returns its answer as a text.
    pub async fn ask<B: Broker>(&self, broker: &B) -> String {
        match self {
            Self::Append { stream, message } => told_append(&broker.append(stream, message.clone()).await),
            Self::AppendAtomically { stream, messages } => {
                told_append(&broker.append_atomically(stream, messages.clone()).await)
            }
            Self::Load { stream, subject, from } => match load_all(broker, stream, subject, *from).await {
                Ok(messages) => told_messages(&messages),
                Err(error) => error.to_string(),
            },
            Self::Last { stream, subject } => match broker.last(stream, subject).await {
                Ok(message) => told_messages(message.as_slice()),
                Err(error) => error.to_string(),
            },
            Self::Get { stream, sequence } => match broker.get(stream, *sequence).await {
                Ok(message) => told_messages(message.as_slice()),
                Err(error) => error.to_string(),
            },
            Self::State { stream } => match broker.state(stream).await {
                Ok(state) => told_state(&state),
                Err(error) => error.to_string(),
            },
        }
    }
}

/// The approximate size of a page with which [`load_all`] reads. It is smaller than many histories of tests.
const PAGE_BYTES: usize = 16 * 1024;

/// All messages of one literal subject from sequence `from` on, page after page.
///
/// # Errors
/// As [`Broker::load_page`].
pub async fn load_all<B: Broker>(
    broker: &B,
    stream: &str,
    subject: &str,
    from: u64,
) -> Result<Vec<StoredMessage>, BrokerError> {
    let mut all: Vec<StoredMessage> = Vec::new();
    loop {
        let next = all.last().map_or(from, |message| message.sequence + 1);
        let page = broker.load_page(stream, subject, next, PAGE_BYTES).await?;
        all.extend(page.messages);
        if !page.more {
            return Ok(all);
        }
    }
}

/// The answer to an append.
pub fn told_append(answer: &Result<Appended, AppendError>) -> String {
    match answer {
        Ok(Appended { sequence, duplicate: true }) => format!("duplicate of {sequence}"),
        Ok(Appended { sequence, duplicate: false }) => format!("at {sequence}"),
        Err(AppendError::Conflict { .. }) => "conflict".into(),
        Err(AppendError::Full { .. }) => "full".into(),
        Err(AppendError::Refused { .. }) => "refused".into(),
        Err(AppendError::Unclear { .. }) => "unclear".into(),
    }
}

/// Messages with everything that was sent. Headers that the server adds are left out.
pub fn told_messages(messages: &[StoredMessage]) -> String {
    if messages.is_empty() {
        return "nothing".into();
    }
    let told = messages.iter().map(|message| {
        let mut headers: Vec<String> = message
            .headers
            .iter()
            .filter(|(name, _)| *name == header::NATS_MESSAGE_ID || name.starts_with("Millstream-"))
            .map(|(name, value)| format!("{name}: {}", value.split(AGAIN).next().unwrap_or(value)))
            .collect();
        headers.sort();
        let body = message.payload.escape_ascii();
        format!("{} on {} {headers:?} {body}", message.sequence, message.subject)
    });
    told.collect::<Vec<_>>().join("; ")
}

/// The first and last sequence of a stream. Its generation is random, so it is left out.
pub fn told_state(state: &StreamState) -> String {
    format!("{}..={}", state.first_sequence, state.last_sequence)
}
