//! A micro service on a sifted line of its own, because requests may hold foreign bytes. When the line is lost, the service is registered
//! again on a new one; only requests that were under way at that moment are lost.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{NatsBroker, service::Service};
use crate::{backoff::Backoff, line::Line};

/// The first pause after a line could not be opened.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a new service may wait until the server knows it.
const KNOWN_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a service that has ended may wait until the server knows that.
const ENDED_WAIT_MAX: Duration = Duration::from_secs(1);

/// Registers the service and its endpoints on a connection.
type Register = Arc<dyn Fn(Client) -> BoxFuture<'static, Result<Service, async_nats::Error>> + Send + Sync>;

/// A service that stays registered.
#[derive(Debug)]
pub struct SiftedService {
    closing: CancellationToken,
    keeper: JoinHandle<Client>,
    question: String,
}

/// The connection of a service that accepts no more requests, for the answers to those that were accepted.
#[derive(Debug)]
pub struct ClosedService {
    client: Client,
    question: String,
}

impl ClosedService {
    /// Returns when the server has processed all that was sent: the answers, and that nobody listens any more. Whoever asks afterwards is told at
    /// once that nobody answers, and does not wait in vain.
    pub async fn finish(self) {
        if !processes(&self.client, self.question, ENDED_WAIT_MAX).await {
            tracing::debug!("the connection went before the last answers");
        }
    }
}

/// Asks a question and waits for its answer. The server processes a connection in order, so it has then processed all that was sent before.
async fn processes(client: &Client, question: String, wait: Duration) -> bool {
    matches!(tokio::time::timeout(wait, client.request(question, Bytes::new())).await, Ok(Ok(_)))
}

impl SiftedService {
    /// Registers the service, and registers it again when its line is lost. When this returns, requests reach it. `stream` is one whose
    /// state the process may ask for.
    ///
    /// # Errors
    /// When there is no line, or the service cannot be registered on it.
    pub async fn open(
        broker: &NatsBroker,
        stream: &'static str,
        register: impl Fn(Client) -> BoxFuture<'static, Result<Service, async_nats::Error>>
        + Send
        + Sync
        + 'static,
    ) -> Result<Self, async_nats::Error> {
        let closing = CancellationToken::new();
        let question = broker.api_subject(&format!("STREAM.INFO.{stream}"));
        let mut keeper =
            Keeper { broker: broker.clone(), question: question.clone(), register: Arc::new(register) };
        let (line, service) = keeper.register().await?;
        let closed = closing.clone();
        let keeper = tokio::spawn(async move { keeper.keep(line, service, closed).await });
        Ok(Self { closing, keeper, question })
    }

    /// Accepts no more requests. Returns the connection on which the accepted ones are answered.
    pub async fn close(self) -> Option<ClosedService> {
        self.closing.cancel();
        // The task ends only when it is asked to.
        let client = self.keeper.await.ok()?;
        Some(ClosedService { client, question: self.question })
    }
}

struct Keeper {
    broker: NatsBroker,
    question: String,
    register: Register,
}

impl Keeper {
    async fn register(&mut self) -> Result<(Line, Service), async_nats::Error> {
        let line = self.broker.sifted_line().await?;
        let service = (self.register)(line.client().clone()).await?;
        if !processes(line.client(), self.question.clone(), KNOWN_WAIT_MAX).await {
            tracing::warn!("requests may meet no responders for a moment");
        }
        Ok((line, service))
    }

    async fn keep(&mut self, mut line: Line, mut service: Service, closing: CancellationToken) -> Client {
        loop {
            tokio::select! {
                () = closing.cancelled() => {
                    drop(service);
                    return line.client().clone();
                }
                () = line.lost() => drop(service),
            }
            tracing::warn!("the line of a service was lost; the service is registered again");
            (line, service) = tokio::select! {
                again = self.register_again() => again,
                () = closing.cancelled() => return line.client().clone(),
            };
        }
    }

    async fn register_again(&mut self) -> (Line, Service) {
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            match self.register().await {
                Ok(registered) => return registered,
                Err(error) => tracing::debug!(%error, "the service is not registered yet"),
            }
            backoff.pause().await;
        }
    }
}
