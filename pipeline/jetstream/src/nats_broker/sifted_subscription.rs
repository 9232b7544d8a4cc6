//! Plain messages that others send, heard on a sifted line of its own: anybody may know the subject. A line that is lost is opened again,
//! and whoever listens is told that something may have been missed.

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

/// How many messages wait for whoever listens; behind them more wait in the client library, and what is too much even for that is lost.
const WAITING_MAX: usize = 1024;
/// First pause after a line could not be opened.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message {
        /// On which subject.
        subject: String,
        /// Its body.
        body: Bytes,
    },
    /// From now on it listens, for the first time or again; what was sent before may be missing.
    Listening,
}

/// Listens to a subject, which may have wildcards, until it is dropped.
#[derive(Debug)]
pub struct SiftedSubscription {
    heard: mpsc::Receiver<Heard>,
    _open: DropGuard,
}

impl SiftedSubscription {
    /// Begins to listen. The first that is heard is [`Heard::Listening`].
    pub fn start(broker: NatsBroker, subject: String) -> Self {
        let (sender, heard) = mpsc::channel(WAITING_MAX);
        let closed = CancellationToken::new();
        let open = closed.clone().drop_guard();
        tokio::spawn(async move { closed.run_until_cancelled(listen(broker, subject, sender)).await });
        Self { heard, _open: open }
    }

    /// What comes next. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            // It ends with this value alone.
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

/// A new line that listens; the server knows of it.
async fn subscribed(broker: &NatsBroker, subject: &str) -> Result<(Line, Subscriber), async_nats::Error> {
    let line = broker.sifted_line().await?;
    let messages = line.client().subscribe(subject.to_owned()).await?;
    line.client().flush().await?;
    Ok((line, messages))
}

/// Until the line is lost, or nobody is there any more.
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
