//! A request to a NATS micro service, such as a view. Deliberately absent: what is asked and what answers mean.

use std::time::Duration;

use async_nats::{client::RequestErrorKind, connection::State};
use bytes::Bytes;
use millstream_contract::stored_message::Headers;

use super::{
    NatsBroker, reconnection,
    wire::{ERROR_CODE, ERROR_TEXT, header_map, headers_from},
};

/// What a service answered.
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
    /// Nobody listens there.
    #[error("nobody answers {subject}")]
    NoResponders {
        /// Where was asked.
        subject: String,
    },
    /// Somebody may have heard it, and no answer came.
    #[error("no answer to {subject}: {detail}")]
    NoAnswer {
        /// Where was asked.
        subject: String,
        /// What is known.
        detail: String,
    },
    /// The answer is that it cannot.
    #[error("{subject}: {text} ({code})")]
    Refused {
        /// Where was asked.
        subject: String,
        /// For programs.
        code: String,
        /// For people.
        text: String,
        /// The headers of the refusal.
        headers: Headers,
    },
}

impl NatsBroker {
    /// Asks once.
    ///
    /// # Errors
    /// [`AskError`] when no answer came within `wait`, or can come any more on this connection, and when the answer is a refusal.
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

    /// Sends a plain message that nothing stores, for whoever listens. Best effort.
    pub async fn tell(&self, subject: String, payload: Bytes) {
        if let Err(error) = self.client.publish(subject, payload).await {
            tracing::debug!(%error, "nobody can be told now");
        }
    }

    /// Whether there is a connection now. It comes back by itself.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}
