//! Answers `query.<context>.<view>.get` and `.list` as a NATS micro service, so that `nats micro ls|info|stats` shows it.
//! docs/queries.md is the contract.
//!
//! Every answer carries the stream position of its rows in `Millstream-Position`. A request with a position waits, for a limited time, until
//! the view has reached it. A limited number of requests are answered at the same time, and another limited number may wait, of which each
//! client may have a share. Further requests are refused at once instead of being queued. Rows are stored as JSON and copied into the answer
//! without parsing.

mod answer;
mod cursor;
mod local_queries;
mod places;
mod replicas;
mod request;
mod view_query;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message};
use futures::FutureExt;
use millstream_contract::{error_text::one_line, header, header_check::check_headers, stream_names::EVENTS};
use millstream_jetstream::{
    broker::Broker as _,
    nats_broker::{
        NatsBroker, headers_from,
        service::{About, Request, Service, ServiceError},
        sifted_service::SiftedService,
    },
};
use millstream_runtime::metrics::{Metrics, QueryMetrics};
use millstream_store::read_store::ReadStore;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    answer::QueryError,
    local_queries::LocalQueries,
    request::{LIMIT_DEFAULT, LIMIT_MAX, Operation},
};
use self::{
    places::{Place, PlaceAtOnce, PlacesAtOnce},
    replicas::ServedView,
    view_query::{Answer, Asked, Reads, ViewQuery},
};

use crate::{
    client_shares::{ClientShares, client_of},
    projection_runner::{View, ViewDirectory},
};

/// The `Millstream-…` headers that a query may have.
const HEADERS: [&str; 2] = [header::POSITION, header::WAIT_MS];
/// How long a query waits for its position unless it or the configuration says otherwise.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(2);
/// How long a query may wait at most, unless configured otherwise.
pub const WAIT_MAX_DEFAULT: Duration = Duration::from_secs(30);
/// How many requests are answered at once unless configured otherwise.
pub const IN_FLIGHT_MAX_DEFAULT: usize = 1_024;
/// How many requests may wait for their position unless configured otherwise.
pub const WAITING_MAX_DEFAULT: usize = 1_024;
/// How many requests of one client may wait unless configured otherwise.
pub const WAITING_CLIENT_MAX_DEFAULT: usize = 128;
/// The largest body of a request, in bytes. No query needs a tenth of it, and a thousand may wait at once.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// From this many bytes on, an answer counts as in memory until it is written to the server.
const LARGE_ANSWER_BYTES: usize = 64 * 1024;

/// The settings of the service.
#[derive(Debug, Clone)]
pub struct QueryServiceConfig {
    /// The name of the service, which is that of the stage.
    pub name: String,
    /// The semantic version of the service.
    pub version: String,
    /// The description for `nats micro info`.
    pub description: String,
    /// How long a query waits for its position unless it says otherwise.
    pub wait_default: Duration,
    /// How long a query may wait at most.
    pub wait_max: Duration,
    /// How many requests are answered at once.
    pub in_flight_max: usize,
    /// How many requests may wait for their position.
    pub waiting_max: usize,
    /// How many of them may be of one client.
    pub waiting_client_max: usize,
}

impl QueryServiceConfig {
    /// The defaults for a stage.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            description: format!("millstream {name}: views and where they stand"),
            wait_default: WAIT_DEFAULT,
            wait_max: WAIT_MAX_DEFAULT,
            in_flight_max: IN_FLIGHT_MAX_DEFAULT,
            waiting_max: WAITING_MAX_DEFAULT,
            waiting_client_max: WAITING_CLIENT_MAX_DEFAULT,
        }
    }

    fn waits(&self) -> Arc<ClientShares> {
        Arc::new(ClientShares::new(self.waiting_max, self.waiting_client_max))
    }
}

/// The service could not be registered.
#[derive(Debug, thiserror::Error)]
#[error("the query service cannot be registered; may this user subscribe to query.> and $SRV.>?")]
pub struct QueryServiceError {
    /// The error of the client library.
    #[source]
    source: async_nats::Error,
}

/// A running service.
pub struct QueryService {
    service: SiftedService,
    requests: TaskTracker,
    endpoints: TaskTracker,
    closing: CancellationToken,
}

/// What all requests to one endpoint share.
struct EndpointContext {
    query: ViewQuery,
    operation: Operation,
    broker: NatsBroker,
    at_once: Arc<PlacesAtOnce>,
    waits: Arc<ClientShares>,
    metrics: QueryMetrics,
    requests: TaskTracker,
}

/// A request, either to an endpoint of the service or to a view that cannot answer and has no endpoint.
enum Incoming {
    Request(Request),
    Message(Message),
}

/// What is registered again on each line.
struct Registration {
    broker: NatsBroker,
    config: QueryServiceConfig,
    views: ViewDirectory,
    served: Vec<Arc<ServedView>>,
    serving: TaskTracker,
    /// Ends all subscriptions on every line.
    closing: CancellationToken,
    /// Ends the subscriptions of a line when the next line replaces it.
    line: Mutex<Option<DropGuard>>,
}

impl QueryService {
    /// Registers the service, which answers queries of `views` from then on. When this returns, requests reach it.
    ///
    /// # Errors
    /// [`QueryServiceError`] when the connection is closed.
    pub async fn start(
        broker: &NatsBroker,
        store: ReadStore,
        views: &ViewDirectory,
        metrics: &Metrics,
        config: QueryServiceConfig,
    ) -> Result<Self, QueryServiceError> {
        let (requests, serving) = (TaskTracker::new(), TaskTracker::new());
        let at_once = Arc::new(PlacesAtOnce::new(config.in_flight_max));
        let waits = config.waits();
        let reads = Reads::new();
        let mut served = Vec::new();
        for view in views.iter() {
            let endpoints = Operation::ALL.map(|operation| {
                let name = format!("{}.{}.{}", view.context, view.name, operation.name());
                Arc::new(EndpointContext {
                    query: ViewQuery::new(store.clone(), view.clone(), reads.clone(), &config),
                    operation,
                    broker: broker.clone(),
                    at_once: Arc::clone(&at_once),
                    waits: Arc::clone(&waits),
                    metrics: metrics.query(&name),
                    requests: requests.clone(),
                })
            });
            served.push(Arc::new(ServedView { view: view.clone(), endpoints: endpoints.to_vec() }));
        }
        let closing = CancellationToken::new();
        let registration = Arc::new(Registration {
            broker: broker.clone(),
            config,
            views: views.clone(),
            served,
            serving: serving.clone(),
            line: Mutex::default(),
            closing: closing.clone(),
        });
        let service = SiftedService::open(broker, EVENTS, move |client| {
            register(client, Arc::clone(&registration)).boxed()
        });
        let service = service.await.map_err(|source| QueryServiceError { source })?;
        Ok(Self { service, requests, endpoints: serving, closing })
    }

    /// Accepts no more requests, and returns when those that were accepted are answered. A request that the server delivers at this very moment
    /// is lost: its sender gets no answer and has to ask again.
    pub async fn stop(self) {
        self.closing.cancel();
        // Before the service ends all its endpoints at once, each view stops saying that it can answer.
        self.endpoints.close();
        self.endpoints.wait().await;
        let closed = self.service.close().await;
        self.requests.close();
        self.requests.wait().await;
        if let Some(closed) = closed {
            closed.finish().await;
        }
    }

    /// Answers until `shutdown`, then stops as [`Self::stop`] does.
    pub async fn run(self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        self.stop().await;
    }
}

async fn register(client: Client, registration: Arc<Registration>) -> Result<Service, async_nats::Error> {
    let Registration { broker, config, views, served, serving, closing, line } = &*registration;
    let by_endpoint = endpoint_views(views);
    let mut about = About::new(&config.name, &config.version, &config.description);
    about.details = Some(Arc::new(move |endpoint| by_endpoint.get(endpoint).map_or(json!(null), statistics)));
    let service = Service::start(broker, client.clone(), about).await?;
    let this_line = closing.child_token();
    *line.lock().unwrap_or_else(PoisonError::into_inner) = Some(this_line.clone().drop_guard());
    for view in served {
        replicas::serve(
            Arc::clone(view),
            service.endpoints().clone(),
            client.clone(),
            serving,
            this_line.clone(),
        )
        .await?;
    }
    Ok(service)
}

impl EndpointContext {
    async fn answer(&self, request: Incoming, at_once: PlaceAtOnce) {
        let began = Instant::now();
        let message = request.message();
        let headers = headers_from(message.headers.as_ref());
        let asked = Asked {
            position: headers.find(header::POSITION),
            wait_ms: headers.find(header::WAIT_MS),
            body: &message.payload,
            bytes_max: self.broker.message_bytes_max(),
        };
        let waited = asked.position.is_some();
        let answered = match check_headers(&headers, &HEADERS) {
            Ok(()) if asked.body.len() > REQUEST_BYTES_MAX => {
                let bytes = asked.body.len();
                Err(QueryError::Malformed(format!(
                    "body: {bytes} bytes; a query has at most {REQUEST_BYTES_MAX}"
                )))
            }
            Ok(()) => self.query.answer(self.operation, &asked, self.place(message, at_once)).await,
            Err(error) => Err(QueryError::Malformed(error.to_string())),
        };
        let mut held = None;
        let (result, headers) = match answered {
            Ok(Answer { body, position, waited: time, place }) => {
                held = place;
                if waited {
                    self.metrics.wait_seconds.observe(time.as_secs_f64());
                }
                let mut headers = HeaderMap::new();
                headers.insert(header::POSITION, position.to_string());
                headers.insert(header::CONTENT_TYPE, header::JSON);
                (Ok(body), headers)
            }
            Err(error) => {
                // The view may have moved on since it was read, so that the row exists at the view's current position.
                let mut headers = self.query.headers();
                if let QueryError::NoSuchKey { position, .. } = &error {
                    headers.insert(header::POSITION, position.to_string());
                }
                (Err(error), headers)
            }
        };
        let is_large = result.as_ref().is_ok_and(|body| body.len() >= LARGE_ANSWER_BYTES);
        self.respond(&request, result, headers).await;
        if is_large {
            request.written(self).await;
        }
        drop(held);
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
    }

    fn place(&self, message: &Message, at_once: PlaceAtOnce) -> Place {
        let client = client_of_message(message).to_owned();
        Place { at_once: Some(at_once), waits: Arc::clone(&self.waits), client }
    }

    async fn respond(&self, request: &Incoming, result: Result<Vec<u8>, QueryError>, headers: HeaderMap) {
        self.metrics.answered(result.as_ref().map_or_else(QueryError::code, |_| 200));
        // Damage is logged once: the first by the watcher of the file, any other by the store.
        if let Err(QueryError::Store(error)) = &result
            && !error.is_damage()
        {
            tracing::error!(subject = %request.message().subject, error = one_line(error), "query failed");
        }
        let response =
            result.map(Into::into).map_err(|error| ServiceError::new(error.code(), &error.to_string()));
        if let Err(error) = request.respond(self, response, headers).await {
            tracing::debug!(subject = %request.message().subject, %error, "query has nobody to answer");
        }
    }
}

/// The name of an endpoint. NATS allows no dots in it, and names of contexts and views have hyphens, so underscores separate them.
fn endpoint_name(view: &View, operation: &str) -> String {
    format!("{}_{}_{operation}", view.context, view.name)
}

fn endpoint_views(views: &ViewDirectory) -> HashMap<String, View> {
    views
        .iter()
        .flat_map(|view| Operation::ALL.map(|each| (endpoint_name(view, each.name()), view.clone())))
        .collect()
}

/// What `nats micro stats` shows about a view besides counts and times.
fn statistics(view: &View) -> serde_json::Value {
    let status = view.status.borrow();
    json!({
        "position": status.position().to_string(),
        "lag": status.lag(),
        "complete": status.is_complete(),
        "halted": status.halted.as_ref().map(|halt| json!({
            "sequence": halt.sequence,
            "reason": &*halt.reason,
        })),
    })
}

/// Who asks, as far as the reply subject shows.
fn client_of_message(message: &Message) -> &str {
    client_of(message.reply.as_deref().unwrap_or_default())
}
