//! A micro service on a line of its own: requests bring foreign bytes. When one of them ends the line, the service is
//! registered again on the next; nothing but requests that were on their way in that moment is lost.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, HeaderMap, Message,
    service::{Request, Service, error::Error as ServiceError},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use millstream_contract::subject::is_reply_subject;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::NatsBroker;
use crate::line::Line;

/// First pause after a line could not be opened; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a new service may wait for the server to know of it.
const KNOWN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Makes the service with its endpoints on a connection.
type Register = Arc<dyn Fn(Client) -> BoxFuture<'static, Result<Service, async_nats::Error>> + Send + Sync>;

/// A service that stays registered.
#[derive(Debug)]
pub struct Door {
    closing: CancellationToken,
    keeper: JoinHandle<Client>,
}

impl Door {
    /// Registers the service and keeps it so. When this returns, requests find it. `stream` is one whose state the process may
    /// ask for.
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

    /// Takes no more requests. The connection on which those that were taken are answered comes back.
    pub async fn close(self) -> Option<Client> {
        self.closing.cancel();
        // It ends in no other way than asked.
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
        let line = self.broker.line().await?;
        let service = (self.register)(line.client().clone()).await?;
        // The server works through a connection in order: an answer to any question says that it knows the subscriptions.
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
                    stop(service).await;
                    return line.client().clone();
                }
                () = line.lost() => stop(service).await,
            }
            tracing::warn!("the line of a service was lost; the service is registered again");
            (line, service) = tokio::select! {
                again = self.register_again() => again,
                () = closing.cancelled() => return line.client().clone(),
            };
        }
    }

    async fn register_again(&mut self) -> (Line, Service) {
        let mut pause = PAUSE_FIRST;
        loop {
            match self.register().await {
                Ok(registered) => return registered,
                Err(error) => tracing::debug!(%error, "the service is not registered yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

async fn stop(service: Service) {
    if let Err(error) = service.stop().await {
        tracing::debug!(error, "the service did not stop in order");
    }
}

/// Answers a request; on the process's connection when the line on which it came is lost. A reply subject that is no place for
/// answers gets none.
pub async fn respond(
    broker: &NatsBroker,
    request: &Request,
    response: Result<Bytes, ServiceError>,
    headers: HeaderMap,
) -> Result<(), async_nats::Error> {
    if request.message.reply.as_ref().is_some_and(|reply| !broker.may_answer(reply)) {
        return Ok(());
    }
    let Err(error) = request.respond_with_headers(response.clone(), headers.clone()).await else {
        return Ok(());
    };
    if request.message.reply.is_none() {
        return Err(error.into());
    }
    answer(broker, &request.message, response, headers).await
}

/// Answers clients as [`respond`] does, and also other processes of the same stage. These get their replies in the inbox of the stage,
/// where a client that names it could pass an answer off as somebody else's. So this is only for answers that harm nobody.
///
/// # Errors
/// When the connection is closed.
pub async fn respond_to_clients_and_replicas(
    broker: &NatsBroker,
    client: &Client,
    request: &Request,
    body: Bytes,
    headers: HeaderMap,
) -> Result<(), async_nats::Error> {
    let own = client.new_inbox();
    if request.message.reply.as_ref().is_some_and(|reply| is_of_same_stage(&own, reply)) {
        return Ok(request.respond_with_headers(Ok(body), headers).await?);
    }
    respond(broker, request, Ok(body), headers).await
}

/// Whether a reply subject begins as the inbox `own` does, up to its last token, and is well-formed.
fn is_of_same_stage(own: &str, reply: &str) -> bool {
    let rest = own.rsplit_once('.').and_then(|(prefix, _)| reply.strip_prefix(prefix));
    rest.is_some_and(|rest| is_reply_subject(&format!("_INBOX{rest}")))
}

/// Answers a message as an endpoint of a service would, on the process's connection. A reply subject that is no place for answers
/// gets none.
///
/// # Errors
/// When that connection is closed.
pub async fn answer(
    broker: &NatsBroker,
    message: &Message,
    response: Result<Bytes, ServiceError>,
    mut headers: HeaderMap,
) -> Result<(), async_nats::Error> {
    let Some(reply) = message.reply.clone().filter(|reply| broker.may_answer(reply)) else { return Ok(()) };
    let body = response.clone().unwrap_or_default();
    if let Err(error) = response {
        headers.insert("Nats-Service-Error", error.status);
        headers.insert("Nats-Service-Error-Code", error.code.to_string());
    }
    Ok(broker.client().publish_with_headers(reply, headers, body).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_stage_is_told_by_the_first_tokens_of_its_inbox() {
        for (own, reply, expected) in [
            ("_INBOX_projector.AbC", "_INBOX_projector.DeF.1", true),
            ("_INBOX_projector.AbC", "_INBOX_projector2.DeF.1", false),
            ("_INBOX_projector.AbC", "_INBOX_projector", false),
            ("_INBOX_projector.AbC", "_INBOX_projector.*", false),
            ("_INBOX_projector.AbC", "_INBOX_reporter.DeF.1", false),
            ("_INBOX_projector.AbC", "$JS.API.STREAM.PURGE.EVENTS", false),
            ("_INBOX.own.AbC", "_INBOX.own.DeF.1", true),
        ] {
            assert_eq!(is_of_same_stage(own, reply), expected, "{own} {reply}");
        }
    }
}
