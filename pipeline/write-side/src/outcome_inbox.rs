//! Receives the outcomes of commands that this process has put onto COMMANDS, whichever handler is active. Each command gets a reply subject
//! that nobody can guess, so an outcome on it comes from the handler.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt;
use millstream_jetstream::{
    id_source::IdSource,
    line::{Line, unreadable_reason},
    nats_broker::NatsBroker,
};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Why outcomes cannot be received.
#[derive(Debug, thiserror::Error)]
#[error("outcomes cannot be heard; may this user subscribe to {subject}?")]
pub struct OutcomeInboxError {
    subject: String,
    #[source]
    source: async_nats::Error,
}

/// Passes outcomes to those who wait for them. Clones share one inbox, which is open as long as one of them exists.
#[derive(Debug, Clone)]
pub struct OutcomeInbox(Arc<Inbox>);

#[derive(Debug)]
struct Inbox {
    prefix: String,
    waiting: Mutex<HashMap<String, oneshot::Sender<Bytes>>>,
    /// Ends the task of the inbox together with the inbox.
    _open: DropGuard,
}

/// An outcome that somebody waits for. Dropping it ends the wait.
#[derive(Debug)]
pub struct ExpectedOutcome {
    inbox: OutcomeInbox,
    subject: String,
    outcome: oneshot::Receiver<Bytes>,
}

impl OutcomeInbox {
    /// Listens on subjects that begin with `prefix` and the run's name. It listens when this returns.
    ///
    /// # Errors
    /// [`OutcomeInboxError`] when there is no connection for it.
    pub async fn open(broker: &NatsBroker, prefix: &str, ids: &IdSource) -> Result<Self, OutcomeInboxError> {
        let (inbox, handing_over) = Self::with_hand_over(broker, prefix, ids).await?;
        tokio::spawn(handing_over);
        Ok(inbox)
    }

    /// An inbox, and the task that passes outcomes on as long as the inbox is open.
    async fn with_hand_over(
        broker: &NatsBroker,
        prefix: &str,
        ids: &IdSource,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), OutcomeInboxError> {
        let prefix = format!("{prefix}.{}", ids.run());
        let subscribed = subscribe(broker, &prefix).await?;
        let closed = CancellationToken::new();
        let inbox = Arc::new(Inbox { prefix, waiting: Mutex::default(), _open: closed.clone().drop_guard() });
        let handing_over = hand_over(broker.clone(), ids.clone(), subscribed, Arc::downgrade(&inbox), closed);
        Ok((Self(inbox), handing_over))
    }

    /// A place for the outcome of one command. Its subject goes into the command's header `Millstream-Reply`.
    pub fn expect(&self) -> ExpectedOutcome {
        let subject = format!("{}.{}", self.0.prefix, ulid::Ulid::generate());
        let (sender, outcome) = oneshot::channel();
        self.0.waiting().insert(subject.clone(), sender);
        ExpectedOutcome { inbox: self.clone(), subject, outcome }
    }
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Bytes>>> {
        // Each change is one insertion or one removal, so a poisoned lock leaves nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExpectedOutcome {
    /// The subject on which the outcome is expected.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Waits for the outcome without a time-out. It is an `OutcomeReply` in JSON.
    pub async fn arrived(&mut self) -> Bytes {
        match (&mut self.outcome).await {
            Ok(outcome) => outcome,
            // The sender is dropped only with the inbox, which is held here, or after the outcome was sent.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for ExpectedOutcome {
    fn drop(&mut self) {
        self.inbox.0.waiting().remove(&self.subject);
    }
}

/// It has a line of its own, because anybody may know the subject.
async fn subscribe(broker: &NatsBroker, prefix: &str) -> Result<(Line, Subscriber), OutcomeInboxError> {
    let subject = format!("{prefix}.*");
    let failed = |source| OutcomeInboxError { subject: subject.clone(), source };
    let line = broker.sifted_line().await.map_err(|error| failed(error.into()))?;
    let outcomes = line.client().subscribe(subject.clone()).await.map_err(|error| failed(error.into()))?;
    Ok((line, outcomes))
}

/// Ends with the inbox: `closed` wakes it even if no outcomes come any more.
async fn hand_over(
    broker: NatsBroker,
    ids: IdSource,
    (mut line, mut outcomes): (Line, Subscriber),
    inbox: Weak<Inbox>,
    closed: CancellationToken,
) {
    let mut backoff = None;
    loop {
        let outcome = tokio::select! {
            biased;
            outcome = outcomes.next() => outcome,
            () = line.lost() => None,
            () = closed.cancelled() => return,
        };
        let Some(inbox) = inbox.upgrade() else { return };
        let Some(outcome) = outcome else {
            tracing::warn!("the line of the outcomes was lost; they are subscribed to again");
            match subscribe(&broker, &inbox.prefix).await {
                Ok(again) => ((line, outcomes), backoff) = (again, None),
                Err(error) => {
                    tracing::debug!(%error, "no line for the outcomes yet");
                    backoff.get_or_insert_with(|| ids.backoff()).pause().await;
                }
            }
            continue;
        };
        if unreadable_reason(&outcome).is_some() {
            continue;
        }
        if let Some(waiting) = inbox.waiting().remove(outcome.subject.as_str()) {
            // The waiter may have given up at this very moment.
            drop(waiting.send(outcome.payload));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_jetstream::testing::test_server::TestServer;

    use super::*;

    /// A subscription whose inbox was gone stayed until the next outcome came, and none came.
    #[tokio::test]
    async fn nobody_listens_where_there_is_no_inbox_any_more() {
        let server = TestServer::start().await;
        let broker = server.broker().await;
        let ids = IdSource::new("run-1".to_owned());
        let (inbox, handing_over) =
            OutcomeInbox::with_hand_over(&broker, "outcome.test", &ids).await.unwrap();
        let handing_over = tokio::spawn(handing_over);
        drop(inbox);
        let ended = tokio::time::timeout(Duration::from_secs(30), handing_over).await;
        assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
    }
}
