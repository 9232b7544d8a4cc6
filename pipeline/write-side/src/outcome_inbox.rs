//! Where the outcomes of commands come back to the process that has put them onto COMMANDS, whichever handler is active. Each
//! command gets a subject that nobody can guess, so that an outcome that comes there is from whoever was asked.

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

/// Outcomes cannot be heard.
#[derive(Debug, thiserror::Error)]
#[error("outcomes cannot be heard; may this user subscribe to {subject}?")]
pub struct OutcomeInboxError {
    subject: String,
    #[source]
    source: async_nats::Error,
}

/// Hands outcomes to whoever waits for them. Clones share one inbox, which is open as long as one of them is there.
#[derive(Debug, Clone)]
pub struct OutcomeInbox(Arc<Inbox>);

#[derive(Debug)]
struct Inbox {
    prefix: String,
    waiting: Mutex<HashMap<String, oneshot::Sender<Bytes>>>,
    /// Ends what hands over, with the inbox.
    _open: DropGuard,
}

/// One outcome that is waited for. Dropped, it is waited for no longer.
#[derive(Debug)]
pub struct ExpectedOutcome {
    inbox: OutcomeInbox,
    subject: String,
    outcome: oneshot::Receiver<Bytes>,
}

impl OutcomeInbox {
    /// Listens below `prefix` and the run's name, from when this returns.
    ///
    /// # Errors
    /// [`OutcomeInboxError`] when there is no connection for it.
    pub async fn open(broker: &NatsBroker, prefix: &str, ids: &IdSource) -> Result<Self, OutcomeInboxError> {
        let (inbox, handing_over) = Self::with_hand_over(broker, prefix, ids).await?;
        tokio::spawn(handing_over);
        Ok(inbox)
    }

    /// An inbox, and what hands over to it as long as it is open.
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

    /// A place for the outcome of one command, whose subject goes into its header `Millstream-Reply`.
    pub fn expect(&self) -> ExpectedOutcome {
        let subject = format!("{}.{}", self.0.prefix, ulid::Ulid::generate());
        let (sender, outcome) = oneshot::channel();
        self.0.waiting().insert(subject.clone(), sender);
        ExpectedOutcome { inbox: self.clone(), subject, outcome }
    }
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Bytes>>> {
        // Each change is one insert or one remove.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExpectedOutcome {
    /// Where it is expected.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Waits for it, without end. It is an `OutcomeReply` in JSON.
    pub async fn arrived(&mut self) -> Bytes {
        match (&mut self.outcome).await {
            Ok(outcome) => outcome,
            // The sender goes only with the inbox, which is held here, or with the outcome.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for ExpectedOutcome {
    fn drop(&mut self) {
        self.inbox.0.waiting().remove(&self.subject);
    }
}

/// On a line of its own: anybody may know the subject.
async fn subscribe(broker: &NatsBroker, prefix: &str) -> Result<(Line, Subscriber), OutcomeInboxError> {
    let subject = format!("{prefix}.*");
    let failed = |source| OutcomeInboxError { subject: subject.clone(), source };
    let line = broker.sifted_line().await.map_err(|error| failed(error.into()))?;
    let outcomes = line.client().subscribe(subject.clone()).await.map_err(|error| failed(error.into()))?;
    Ok((line, outcomes))
}

/// Ends with the inbox: `closed`, which wakes it where no outcome comes any more.
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
            // Whoever waited may have given up at this very moment.
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
