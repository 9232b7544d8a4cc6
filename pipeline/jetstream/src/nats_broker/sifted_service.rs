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

/// Registers the service and its endpoints on a connection.
type Register = Arc<dyn Fn(Client) -> BoxFuture<'static, Result<Service, async_nats::Error>> + Send + Sync>;

/// A service that stays registered.
#[derive(Debug)]
pub struct SiftedService {
    closing: CancellationToken,
    keeper: JoinHandle<Client>,
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
        let mut keeper = Keeper { broker: broker.clone(), stream, register: Arc::new(register) };
        let (line, service) = keeper.register().await?;
        let closed = closing.clone();
        let keeper = tokio::spawn(async move { keeper.keep(line, service, closed).await });
        Ok(Self { closing, keeper })
    }

    /// Accepts no more requests. Returns the connection on which the accepted ones are answered.
    pub async fn close(self) -> Option<Client> {
        self.closing.cancel();
        // The task ends only when it is asked to.
        self.keeper.await.ok()
    }
}

struct Keeper {
    broker: NatsBroker,
    stream: &'static str,
    register: Register,
}

impl Keeper {
    async fn register(&mut self) -> Result<(Line, Service), async_nats::Error> {
        let line = self.broker.sifted_line().await?;
        let service = (self.register)(line.client().clone()).await?;
        // The server processes a connection in order, so the answer to any question shows that it knows the subscriptions.
        let question = self.broker.api_subject(&format!("STREAM.INFO.{}", self.stream));
        let asked = line.client().request(question, Bytes::new());
        if !matches!(tokio::time::timeout(KNOWN_WAIT_MAX, asked).await, Ok(Ok(_))) {
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
