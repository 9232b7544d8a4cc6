//! A NATS micro service: endpoints whose requests the server distributes among all processes of the service, and discovery, by which `nats
//! micro ls|info|stats` finds them. The protocol is NATS's ADR-32.
//!
//! The client library has such services, too, but its discovery answers on whatever subject a question names, with the rights of the stage.
//! On `out.…`, the answer would be stored as an outcome. Here, discovery and endpoints answer only on subjects that are allowed for answers
//! ([`is_reply_subject`]).

mod discovery;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{
    Client, HeaderMap, Message, Subscriber,
    client::{FlushError, PublishError},
};
use bytes::Bytes;
use futures::StreamExt;
use millstream_contract::{error_text::bounded, subject::is_reply_subject};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use ulid::Ulid;

use super::{
    NatsBroker,
    wire::{ERROR_CODE, ERROR_TEXT},
};
use crate::line::unreadable_reason;

/// The queue group in which the endpoints of all processes of a service listen. It is the usual name for micro services.
const QUEUE_GROUP: &str = "q";

/// What `nats micro stats` shows of an endpoint besides counts and times. It is called with the endpoint's name.
pub type EndpointDetails = Arc<dyn Fn(&str) -> Value + Send + Sync>;

/// The description of a service.
#[derive(Clone)]
pub struct About {
    /// The name, which all processes of the service share: letters, digits, `-` and `_`.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// One sentence about its purpose.
    pub description: String,
    /// Metadata that distinguishes this process from others.
    pub metadata: BTreeMap<String, String>,
    /// The details that it reports for each endpoint.
    pub details: Option<EndpointDetails>,
}

impl About {
    /// Without metadata and details.
    pub fn new(name: &str, version: &str, description: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            description: description.to_owned(),
            metadata: BTreeMap::new(),
            details: None,
        }
    }
}

impl fmt::Debug for About {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("About").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An error as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceError {
    code: u16,
    status: String,
}

impl ServiceError {
    /// The code is like an HTTP status. The sentence for people may contain whatever a client typed: it is cut to
    /// [`TEXT_MAX`](millstream_contract::error_text::TEXT_MAX) bytes and becomes one line, because it is sent as the value of a header, where a
    /// control character would end the value or make the client library panic.
    #[must_use]
    pub fn new(code: u16, sentence: &str) -> Self {
        let shown = |letter: char| if letter.is_control() { ' ' } else { letter };
        let line: String = bounded(sentence).chars().map(shown).collect();
        Self { code, status: line.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    /// The sentence as it is sent.
    #[must_use]
    pub fn status(&self) -> &str {
        &self.status
    }
}

/// A service on one connection. It ends when it is dropped: its endpoints hand out the requests that have come, and no more.
#[derive(Debug)]
pub struct Service {
    endpoints: Endpoints,
    _closes: DropGuard,
}

/// Where endpoints are added to a service.
#[derive(Debug, Clone)]
pub struct Endpoints {
    broker: NatsBroker,
    client: Client,
    shared: Arc<Shared>,
    closing: CancellationToken,
}

/// What discovery reports.
#[derive(Debug)]
struct Shared {
    about: About,
    /// Distinguishes this process's service on this connection from all others.
    id: String,
    started: OffsetDateTime,
    /// By name. An endpoint that listens again continues its counts.
    endpoints: Mutex<BTreeMap<String, Arc<EndpointFigures>>>,
}

/// An endpoint as discovery shows it.
#[derive(Debug)]
struct EndpointFigures {
    subject: String,
    metadata: BTreeMap<String, String>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    errors: u64,
    time: Duration,
    last_error: String,
}

/// The endpoint for one subject.
#[derive(Debug)]
pub struct Endpoint {
    broker: NatsBroker,
    requests: Subscriber,
    client: Client,
    figures: Arc<EndpointFigures>,
    closing: CancellationToken,
    listens: bool,
}

/// A request to an endpoint.
#[derive(Debug)]
pub struct Request {
    /// The message as it came.
    pub message: Message,
    came: Instant,
    client: Client,
    figures: Arc<EndpointFigures>,
}

impl Service {
    /// Makes a service without endpoints that discovery can find.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn start(broker: &NatsBroker, client: Client, about: About) -> Result<Self, async_nats::Error> {
        let shared = Arc::new(Shared {
            about,
            id: Ulid::generate().to_string(),
            started: OffsetDateTime::now_utc(),
            endpoints: Mutex::default(),
        });
        let closing = CancellationToken::new();
        discovery::start(broker, &client, &shared, closing.clone()).await?;
        let closes = closing.clone().drop_guard();
        let endpoints = Endpoints { broker: broker.clone(), client, shared, closing };
        Ok(Self { endpoints, _closes: closes })
    }

    /// Where endpoints can be added.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }
}

impl Endpoints {
    /// Begins to accept requests on `subject`.
    ///
    /// # Errors
    /// When the connection is closed or the subject is invalid.
    pub async fn add(
        &self,
        name: &str,
        subject: &str,
        metadata: &[(&str, &str)],
    ) -> Result<Endpoint, async_nats::Error> {
        let requests = self.client.queue_subscribe(subject.to_owned(), QUEUE_GROUP.to_owned()).await?;
        let figures = self.shared.endpoint(name, || EndpointFigures {
            subject: subject.to_owned(),
            metadata: metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            counts: Mutex::default(),
        });
        let (broker, client, closing) = (self.broker.clone(), self.client.clone(), self.closing.clone());
        Ok(Endpoint { broker, requests, client, figures, closing, listens: true })
    }
}

impl Shared {
    fn endpoint(&self, name: &str, new: impl FnOnce() -> EndpointFigures) -> Arc<EndpointFigures> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(endpoints.entry(name.to_owned()).or_insert_with(|| Arc::new(new())))
    }
}

impl Endpoint {
    /// The next request; `None` when the service or the endpoint has ended and all requests that had come are handed out. A request that
    /// cannot be read is answered with an error and not handed out.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            let request = self.next_of_any_bytes().await?;
            let Some(reason) = unreadable_reason(&request.message) else { return Some(request) };
            let error = ServiceError::new(400, &format!("the request cannot be read: {reason}"));
            let broker = self.broker.clone();
            // This runs in a task of its own, because the caller may give up waiting at any time and the answer must still be sent.
            tokio::spawn(async move {
                if let Err(error) = request.respond(&broker, Err(error), HeaderMap::new()).await {
                    tracing::debug!(%error, "an unreadable request has nobody to answer");
                }
            });
        }
    }

    async fn next_of_any_bytes(&mut self) -> Option<Request> {
        if self.listens {
            tokio::select! {
                message = self.requests.next() => return Some(self.request(message?)),
                () = self.closing.cancelled() => self.stop().await,
            }
        }
        let message = self.requests.next().await?;
        Some(self.request(message))
    }

    /// Accepts no more requests. Those that have come are still handed out.
    pub async fn stop(&mut self) {
        self.listens = false;
        // `unsubscribe` would discard what the server has sent and this process has not read yet, which on a busy machine is a fifth of a
        // second of requests. Draining fails only if the connection is gone, and the subscription with it.
        let _gone = self.requests.drain().await;
    }

    fn request(&self, message: Message) -> Request {
        let (client, figures) = (self.client.clone(), Arc::clone(&self.figures));
        Request { message, came: Instant::now(), client, figures }
    }
}

impl Request {
    /// Answers. If the line on which the request came is lost, the process's main connection is used. A reply subject that is not allowed
    /// for answers gets none.
    ///
    /// # Errors
    /// When there is no reply subject, or both connections are closed.
    pub async fn respond(
        &self,
        broker: &NatsBroker,
        response: Result<Bytes, ServiceError>,
        headers: HeaderMap,
    ) -> Result<(), async_nats::Error> {
        let Some(reply) = &self.message.reply else { return Err("nobody asked to be answered".into()) };
        if !broker.may_answer(reply) {
            return Ok(());
        }
        if self.send(response.clone(), headers.clone()).await.is_ok() {
            return Ok(());
        }
        answer(broker, &self.message, response, headers).await
    }

    /// Answers clients as [`Self::respond`] does, and also other processes of the same stage. Those receive replies in the inbox of the
    /// stage, where a client that names this inbox could pass an answer off as somebody else's. So use it only for answers that can harm
    /// nobody.
    ///
    /// # Errors
    /// As [`Self::respond`].
    pub async fn respond_to_clients_and_replicas(
        &self,
        broker: &NatsBroker,
        body: Bytes,
        headers: HeaderMap,
    ) -> Result<(), async_nats::Error> {
        let own = self.client.new_inbox();
        if self.message.reply.as_ref().is_some_and(|reply| is_of_same_stage(&own, reply)) {
            return Ok(self.send(Ok(body), headers).await?);
        }
        self.respond(broker, Ok(body), headers).await
    }

    /// Returns when all answers sent so far on the request's line have reached the server.
    ///
    /// # Errors
    /// When that line is lost.
    pub async fn written(&self) -> Result<(), FlushError> {
        self.client.flush().await
    }

    async fn send(
        &self,
        response: Result<Bytes, ServiceError>,
        headers: HeaderMap,
    ) -> Result<(), PublishError> {
        let error = response.as_ref().err().map(|error| format!("{}:{}", error.code, error.status));
        let sent = publish(&self.client, &self.message, response, headers).await;
        let mut counts = self.figures.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.requests += 1;
        counts.time += self.came.elapsed();
        if let Some(error) = error {
            counts.errors += 1;
            counts.last_error = error;
        }
        sent
    }
}

/// Answers a message as an endpoint of a service would, on the process's main connection. A reply subject that is not allowed for answers
/// gets none.
///
/// # Errors
/// When that connection is closed.
pub async fn answer(
    broker: &NatsBroker,
    message: &Message,
    response: Result<Bytes, ServiceError>,
    headers: HeaderMap,
) -> Result<(), async_nats::Error> {
    if !message.reply.as_ref().is_some_and(|reply| broker.may_answer(reply)) {
        return Ok(());
    }
    Ok(publish(broker.client(), message, response, headers).await?)
}

async fn publish(
    client: &Client,
    message: &Message,
    response: Result<Bytes, ServiceError>,
    mut headers: HeaderMap,
) -> Result<(), PublishError> {
    let Some(reply) = message.reply.clone() else { return Ok(()) };
    let body = response.unwrap_or_else(|error| {
        headers.insert(ERROR_TEXT, error.status);
        headers.insert(ERROR_CODE, error.code.to_string());
        Bytes::new()
    });
    client.publish_with_headers(reply, headers, body).await
}

/// Whether a reply subject equals the inbox `own` up to its last token, and is well-formed.
fn is_of_same_stage(own: &str, reply: &str) -> bool {
    let rest = own.rsplit_once('.').and_then(|(prefix, _)| reply.strip_prefix(prefix));
    rest.is_some_and(|rest| is_reply_subject(&format!("_INBOX{rest}")))
}

#[cfg(test)]
mod tests {
    use millstream_contract::error_text::TEXT_MAX;

    use super::*;

    #[test]
    fn errors_are_one_line_whatever_a_client_typed() {
        let told = ServiceError::new(404, "there is no query a.\r\n b\0\u{9b}\u{85}c\td");
        assert_eq!((told.code, told.status.as_str()), (404, "there is no query a. b c d"));
        assert!(ServiceError::new(400, &"\r".repeat(TEXT_MAX)).status.is_empty());
        assert!(ServiceError::new(400, &"x".repeat(1_000_000)).status.len() <= TEXT_MAX);
    }

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
