//! A micro service that answers each request in a task of its own, on a line of its own ([`super::sifted_service`]). It ends in two steps:
//! first it accepts no more requests, then it answers those that it has accepted.

use std::sync::Arc;

use async_nats::Client;
use bytes::Bytes;
use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use millstream_contract::stored_message::Headers;
use tokio_util::task::TaskTracker;

use super::{
    NatsBroker, headers_from,
    service::{About, Endpoint, Request, Service, ServiceError},
    sifted_service::{ClosedService, SiftedService},
    wire::header_map,
};

/// A request, without anything of the client library.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The subject on which it came.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

/// The answer: a body with headers, or an error.
pub type Told = Result<(Bytes, Headers), ServiceError>;

/// Makes the answer to a request.
type Answer = Arc<dyn Fn(Asked) -> BoxFuture<'static, Told> + Send + Sync>;

/// The service cannot be registered.
#[derive(Debug, thiserror::Error)]
#[error("the service cannot be registered")]
pub struct AnsweringError(#[source] async_nats::Error);

/// A running service.
#[derive(Debug)]
pub struct Answering {
    /// Absent after it has stopped accepting requests.
    service: Option<SiftedService>,
    /// For the remaining answers, set when it has stopped accepting requests.
    closed: Option<ClosedService>,
    requests: TaskTracker,
}

impl Answering {
    /// Registers a service with endpoints, each with a name and a subject. When this returns, requests reach it. `stream` is one whose
    /// state the process may ask for.
    ///
    /// # Errors
    /// [`AnsweringError`] when there is no connection, or this user may not listen on those subjects.
    pub async fn start(
        broker: &NatsBroker,
        stream: &'static str,
        about: About,
        endpoints: Vec<(&'static str, String)>,
        answer: impl Fn(Asked) -> BoxFuture<'static, Told> + Send + Sync + 'static,
    ) -> Result<Self, AnsweringError> {
        let requests = TaskTracker::new();
        let (answering, tasks) = (broker.clone(), requests.clone());
        let (endpoints, answer): (Arc<[_]>, Answer) = (endpoints.into(), Arc::new(answer));
        let register = move |client| {
            let (about, endpoints, answer) = (about.clone(), Arc::clone(&endpoints), Arc::clone(&answer));
            register(answering.clone(), client, about, endpoints, answer, tasks.clone()).boxed()
        };
        let service = SiftedService::open(broker, stream, register).await.map_err(AnsweringError)?;
        Ok(Self { service: Some(service), closed: None, requests })
    }

    /// Accepts no more requests, so that NATS gives them to the other processes. Requests that were accepted are still answered.
    pub async fn take_no_more(&mut self) {
        if let Some(service) = self.service.take() {
            self.closed = service.close().await;
        }
    }

    /// Returns when each accepted request has its answer.
    pub async fn stop(mut self) {
        self.take_no_more().await;
        self.requests.close();
        self.requests.wait().await;
        if let Some(closed) = self.closed {
            closed.finish().await;
        }
    }
}

async fn register(
    broker: NatsBroker,
    client: Client,
    about: About,
    endpoints: Arc<[(&'static str, String)]>,
    answer: Answer,
    requests: TaskTracker,
) -> Result<Service, async_nats::Error> {
    let service = Service::start(&broker, client, about).await?;
    let added = endpoints.iter().map(|(name, subject)| service.endpoints().add(name, subject, &[]));
    for endpoint in join_all(added).await {
        let (broker, answer) = (broker.clone(), Arc::clone(&answer));
        requests.spawn(serve(endpoint?, broker, answer, requests.clone()));
    }
    Ok(service)
}

async fn serve(mut endpoint: Endpoint, broker: NatsBroker, answer: Answer, requests: TaskTracker) {
    while let Some(request) = endpoint.next().await {
        let (broker, answer) = (broker.clone(), Arc::clone(&answer));
        requests.spawn(async move { respond(&broker, &request, &answer).await });
    }
}

async fn respond(broker: &NatsBroker, request: &Request, answer: &Answer) {
    let asked = Asked {
        subject: request.message.subject.to_string(),
        headers: headers_from(request.message.headers.as_ref()),
        body: request.message.payload.clone(),
    };
    let (response, headers) = match answer(asked).await {
        Ok((body, headers)) => (Ok(body), headers),
        Err(error) => (Err(error), Headers::new()),
    };
    if let Err(error) = request.respond(broker, response, header_map(&headers)).await {
        tracing::debug!(subject = %request.message.subject, %error, "a request has nobody to answer");
    }
}
