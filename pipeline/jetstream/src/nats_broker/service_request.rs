//! A request to a NATS micro service, such as a view. Deliberately absent: the meaning of requests and answers.

use std::time::Duration;

use async_nats::{client::RequestErrorKind, connection::State};
use bytes::Bytes;
use millstream_contract::stored_message::Headers;

use super::{
    NatsBroker, reconnection,
    wire::{ERROR_CODE, ERROR_TEXT, header_map, headers_from},
};

/// The answer of a service.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the subject.
    #[error("nobody answers {subject}")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// Somebody may have received the request, but no answer came.
    #[error("no answer to {subject}: {detail}")]
    NoAnswer {
        /// The subject.
        subject: String,
        /// What is known.
        detail: String,
    },
    /// The answer is an error.
    #[error("{subject}: {text} ({code})")]
    Refused {
        /// The subject.
        subject: String,
        /// The error's code, for programs.
        code: String,
        /// The error's text, for people.
        text: String,
        /// The headers of the error.
        headers: Headers,
    },
}

impl NatsBroker {
    /// Asks once.
    ///
    /// # Errors
    /// [`AskError`] when no answer came within `wait`, when none can come any more on this connection, and when the answer is an error.
    pub async fn ask(
        &self,
        subject: &str,
        headers: &Headers,
        payload: Bytes,
        wait: Duration,
    ) -> Result<Answer, AskError> {
        let request =
            async_nats::Request::new().headers(header_map(headers)).payload(payload).timeout(Some(wait));
        let subject = subject.to_owned();
        let answer = match reconnection::ask(&self.client, subject.clone(), request).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                return Err(AskError::NoResponders { subject });
            }
            Err(error) => return Err(AskError::NoAnswer { subject, detail: error.to_string() }),
        };
        let headers = headers_from(answer.headers.as_ref());
        if let Some(code) = headers.get(ERROR_CODE).map(str::to_owned) {
            let text = headers.get(ERROR_TEXT).unwrap_or_default().to_owned();
            return Err(AskError::Refused { subject, code, text, headers });
        }
        Ok(Answer { headers, payload: answer.payload })
    }

    /// Sends a plain message that no stream stores, to anybody who listens, without a guarantee.
    pub async fn tell(&self, subject: String, payload: Bytes) {
        if let Err(error) = self.client.publish(subject, payload).await {
            tracing::debug!(%error, "nobody can be told now");
        }
    }

    /// Whether there is a connection now. A lost connection is restored without help.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}
