//! Plain messages from others, received on a sifted line of its own, because anybody may know the subject. A lost line is opened again, and
//! the listener is told that it may have missed something.

use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::NatsBroker;
use crate::{
    backoff::Backoff,
    line::{Line, unreadable_reason},
};

/// How many messages wait for the listener. More wait in the client library, and what is too much even for that is lost.
const WAITING_MAX: usize = 1024;
/// The first pause after a line could not be opened.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a subscription delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message {
        /// Its subject.
        subject: String,
        /// Its body.
        body: Bytes,
    },
    /// From now on it listens, for the first time or again. Messages sent before may be missing.
    Listening,
}

/// A subscription to a subject, which may have wildcards. It ends when it is dropped.
#[derive(Debug)]
pub struct SiftedSubscription {
    heard: mpsc::Receiver<Heard>,
    _open: DropGuard,
}

impl SiftedSubscription {
    /// Begins to listen. The first item is [`Heard::Listening`].
    pub fn start(broker: NatsBroker, subject: String) -> Self {
        let (sender, heard) = mpsc::channel(WAITING_MAX);
        let closed = CancellationToken::new();
        let open = closed.clone().drop_guard();
        tokio::spawn(async move { closed.run_until_cancelled(listen(broker, subject, sender)).await });
        Self { heard, _open: open }
    }

    /// The next item. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            // The task ends only together with this value.
            None => std::future::pending().await,
        }
    }
}

async fn listen(broker: NatsBroker, subject: String, heard: mpsc::Sender<Heard>) {
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    loop {
        match subscribed(&broker, &subject).await {
            Ok(line) => {
                backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
                if pass_on(line, &heard).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(subject, %error, "no line for it yet"),
        }
        backoff.pause().await;
    }
}

/// A new line with the subscription; the server knows it.
async fn subscribed(broker: &NatsBroker, subject: &str) -> Result<(Line, Subscriber), async_nats::Error> {
    let line = broker.sifted_line().await?;
    let messages = line.client().subscribe(subject.to_owned()).await?;
    line.client().flush().await?;
    Ok((line, messages))
}

/// Passes messages on until the line is lost or nobody listens any more.
async fn pass_on(
    (line, mut messages): (Line, Subscriber),
    heard: &mpsc::Sender<Heard>,
) -> Result<(), mpsc::error::SendError<Heard>> {
    heard.send(Heard::Listening).await?;
    loop {
        let message = tokio::select! {
            biased;
            message = messages.next() => message,
            () = line.lost() => None,
        };
        let Some(message) = message else { return Ok(()) };
        if unreadable_reason(&message).is_some() {
            continue;
        }
        let (subject, body) = (message.subject.to_string(), message.payload);
        heard.send(Heard::Message { subject, body }).await?;
    }
}
