//! A request to a NATS micro service, such as a view. Deliberately absent: what is asked and what answers mean.

use std::time::Duration;

use async_nats::{client::RequestErrorKind, connection::State};
use bytes::Bytes;
use millstream_contract::stored_message::Headers;

use super::{
    NatsBroker,
    wire::{header_map, headers_from},
};

/// What a service answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its headers; an error stands there too.
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
}

impl NatsBroker {
    /// Asks once.
    ///
    /// # Errors
    /// [`AskError`] when no answer came within `wait`.
    pub async fn ask(
        &self,
        subject: &str,
        headers: &Headers,
        payload: Bytes,
        wait: Duration,
    ) -> Result<Answer, AskError> {
        let request =
            async_nats::Request::new().headers(header_map(headers)).payload(payload).timeout(Some(wait));
        let answer = self.client.send_request(subject.to_owned(), request).await.map_err(|error| {
            let subject = subject.to_owned();
            match error.kind() {
                RequestErrorKind::NoResponders => AskError::NoResponders { subject },
                _ => AskError::NoAnswer { subject, detail: error.to_string() },
            }
        })?;
        Ok(Answer { headers: headers_from(answer.headers.as_ref()), payload: answer.payload })
    }

    /// Whether there is a connection now. It comes back by itself.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}
