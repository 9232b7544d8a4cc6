//! Answers `query.<context>.<name>`, with one endpoint of a micro service for each configured query, describes the queries of each context, and
//! answers `sql.ask`, where that is wanted.
//!
//! The body of a request is a JSON object of arguments. The answer carries the stream position up to which the tables show EVENTS. A request
//! with a position waits, for a limited time, until the tables show it. Files are checked every few seconds: a new query is then answered, a
//! removed one no longer is, and a query that stays misses no request.

mod descriptions;
mod position_wait;
mod running_places;
mod statements;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures::FutureExt as _;
use millstream_contract::{
    configured_query::{STATEMENT_SUBJECT, descriptions_subject, problem, query_subject},
    header,
    position::StreamPosition,
    stream_names::EVENTS,
    unique_fields::UniqueFields,
};
use millstream_jetstream::{
    broker::Broker as _,
    nats_broker::{
        NatsBroker,
        service::{About, Endpoint, Endpoints, Request, Service},
        sifted_service::SiftedService,
    },
};
use millstream_read_side::{
    client_shares::{ClientShares, client_of},
    projection_runner::{Hurry, ProjectionStatus},
};
use serde_json::{Value as Json, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{
    position_wait::{WAITING_CLIENT_MAX, WAITING_MAX},
    running_places::RunningPlaces,
};
use super::{
    answer_cache::{AnswerCache, Shown, has_reached},
    library::{Library, Query},
    reader::{Answer, Argument, AskError, Limits, Reader},
    refusal::Refusal,
};

/// How often the files are checked.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How many bytes of an answer are reserved for what surrounds its rows.
const AROUND_BYTES: usize = 4 * 1024;
/// The largest body of a request.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

type Name = (String, String);
type Queries = BTreeMap<Name, Arc<Query>>;

/// The settings of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuerySettings {
    /// The folder of the queries.
    pub folder: PathBuf,
    /// How long a query may run.
    pub time: Duration,
    /// How many queries run at once.
    pub at_once: usize,
    /// Whether statements are answered that no file has.
    pub ad_hoc: bool,
}

/// What all requests share.
struct Shared {
    broker: NatsBroker,
    reader: Arc<dyn Reader>,
    settings: QuerySettings,
    /// The contexts that may have queries.
    contexts: Vec<String>,
    running: RunningPlaces,
    waiting: Arc<ClientShares>,
    queries: Mutex<Queries>,
    kept: Mutex<AnswerCache>,
    statuses: Vec<watch::Receiver<ProjectionStatus>>,
    hurry: Hurry,
    requests: TaskTracker,
    /// The subscriptions on the current line.
    line: Mutex<Option<OnLine>>,
    closing: CancellationToken,
}

/// The endpoints on a line.
struct OnLine {
    endpoints: Endpoints,
    /// The tokens that end them.
    listening: HashMap<Name, DropGuard>,
}

/// The service could not be registered.
#[derive(Debug, thiserror::Error)]
#[error("the queries cannot be registered; may this user subscribe to query.*.* and $SRV.>?")]
pub struct QueryServiceError {
    #[source]
    source: async_nats::Error,
}

/// A running service.
pub struct SqlQueries {
    service: SiftedService,
    shared: Arc<Shared>,
    looking: tokio::task::JoinHandle<()>,
}

impl SqlQueries {
    /// Registers the queries of a library that has been read once, and continues to check its files. `statuses` say how far the tables are, and `hurry`
    /// is told while a query waits for that.
    ///
    /// # Errors
    /// [`QueryServiceError`] when the connection is closed.
    pub async fn start(
        broker: &NatsBroker,
        version: &str,
        library: Library,
        reader: Arc<dyn Reader>,
        settings: QuerySettings,
        statuses: Vec<watch::Receiver<ProjectionStatus>>,
        hurry: Hurry,
    ) -> Result<Self, QueryServiceError> {
        let shared = Arc::new(Shared {
            broker: broker.clone(),
            reader,
            running: RunningPlaces::new(settings.at_once),
            waiting: Arc::new(ClientShares::new(WAITING_MAX, WAITING_CLIENT_MAX)),
            settings,
            contexts: library.contexts().to_vec(),
            queries: Mutex::new(library.queries()),
            kept: Mutex::default(),
            statuses,
            hurry,
            requests: TaskTracker::new(),
            line: Mutex::default(),
            closing: CancellationToken::new(),
        });
        let (registered, version) = (Arc::clone(&shared), version.to_owned());
        let service = SiftedService::open(broker, EVENTS, move |client| {
            register(client, version.clone(), Arc::clone(&registered)).boxed()
        });
        let service = service.await.map_err(|source| QueryServiceError { source })?;
        let looking = tokio::spawn(look(Arc::clone(&shared), library));
        Ok(Self { service, shared, looking })
    }

    /// Accepts no more requests, and returns when those that were accepted are answered.
    pub async fn stop(self) {
        let Self { service, shared, looking } = self;
        shared.closing.cancel();
        if let Err(error) = looking.await {
            tracing::error!(%error, "looking at the files of queries failed");
        }
        let closed = service.close().await;
        shared.requests.close();
        shared.requests.wait().await;
        if let Some(closed) = closed {
            closed.finish().await;
        }
        // Connections to a database must not be closed on an async thread.
        let closed = tokio::task::spawn_blocking(move || drop(shared)).await;
        closed.unwrap_or_else(|error| tracing::error!(%error, "closing the connections of queries failed"));
    }
}

async fn register(
    client: Client,
    version: String,
    shared: Arc<Shared>,
) -> Result<Service, async_nats::Error> {
    let about = About::new("sql", &version, "millstream sql: configured queries over views and reports");
    let service = Service::start(&shared.broker, client, about).await?;
    let mut on_line = OnLine { endpoints: service.endpoints().clone(), listening: HashMap::new() };
    let names: Vec<Name> = shared.queries().keys().cloned().collect();
    for name in names {
        listen(&shared, &mut on_line, name).await?;
    }
    for context in &shared.contexts {
        let (name, subject) = (format!("{context}__queries"), descriptions_subject(context));
        let about = [("title", "The queries of the context")];
        let endpoint = on_line.endpoints.add(&name, &subject, &about).await?;
        let context = context.clone();
        let tell = move |shared: Arc<Shared>, request| {
            let context = context.clone();
            async move { shared.tell(&context, &request).await }
        };
        let ends = shared.closing.clone();
        shared.requests.spawn(answer_each(Arc::clone(&shared), endpoint, ends, tell));
    }
    if shared.settings.ad_hoc {
        let about = [("title", "Statements that no file has")];
        let endpoint = on_line.endpoints.add("ad_hoc_sql", STATEMENT_SUBJECT, &about).await?;
        let answer = |shared: Arc<Shared>, request| async move { shared.answer_statement(&request).await };
        let ends = shared.closing.clone();
        shared.requests.spawn(answer_each(Arc::clone(&shared), endpoint, ends, answer));
    }
    *shared.line() = Some(on_line);
    Ok(service)
}

async fn listen(shared: &Arc<Shared>, on_line: &mut OnLine, name: Name) -> Result<(), async_nats::Error> {
    let (context, query) = &name;
    let subject = query_subject(context, query);
    let title = shared.queries().get(&name).map(|query| query.header.title.clone()).unwrap_or_default();
    let endpoint =
        on_line.endpoints.add(&format!("{context}_{query}"), &subject, &[("title", title.as_str())]).await?;
    let ends = shared.closing.child_token();
    let asked = name.clone();
    let answer = move |shared: Arc<Shared>, request| {
        let name = asked.clone();
        async move { shared.respond(&name, request).await }
    };
    shared.requests.spawn(answer_each(Arc::clone(shared), endpoint, ends.clone(), answer));
    on_line.listening.insert(name, ends.drop_guard());
    Ok(())
}

/// Answers the requests of an endpoint until `ends`, each in a task of its own, because some wait; and then those that came before that.
async fn answer_each<A>(
    shared: Arc<Shared>,
    mut endpoint: Endpoint,
    ends: CancellationToken,
    answer: impl Fn(Arc<Shared>, Request) -> A,
) where
    A: Future<Output = ()> + Send + 'static,
{
    loop {
        let request = tokio::select! {
            request = endpoint.next() => request,
            () = ends.cancelled() => {
                endpoint.stop().await;
                break;
            }
        };
        let Some(request) = request else { return };
        shared.requests.spawn(answer(Arc::clone(&shared), request));
    }
    while let Some(request) = endpoint.next().await {
        answer(Arc::clone(&shared), request).await;
    }
}

/// Checks the files repeatedly.
async fn look(shared: Arc<Shared>, mut library: Library) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            _ = looks.tick() => {}
        }
        let reader = Arc::clone(&shared.reader);
        let looked = tokio::task::spawn_blocking(move || {
            let broken = library.read(|query| check(reader.as_ref(), query));
            (library, broken)
        });
        let broken;
        (library, broken) = match looked.await {
            Ok(looked) => looked,
            Err(error) => return tracing::error!(%error, "looking at the files of queries failed"),
        };
        tell(&broken);
        shared.take_over(library.queries()).await;
    }
}

/// Logs broken files.
pub(crate) fn tell(broken: &std::io::Result<Vec<(PathBuf, String)>>) {
    match broken {
        Ok(broken) => {
            for (path, problem) in broken {
                tracing::error!(file = %path.display(), problem, "a query is broken; what was there before stays");
            }
        }
        Err(error) => tracing::error!(%error, "the folder of queries cannot be read"),
    }
}

/// Whether the database understands a query. If the database cannot be reached, the first request will show it.
pub(crate) fn check(reader: &dyn Reader, query: &Query) -> Result<(), String> {
    match reader.check(&query.statement, &arguments(query, None)) {
        Ok(columns) => query.check_columns(&columns),
        Err(AskError::Unavailable(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The parameters with their values, or without any.
fn arguments(query: &Query, values: Option<Vec<crate::table::Value>>) -> Vec<Argument> {
    let mut values = values.unwrap_or_default().into_iter();
    let parameters = query.header.parameters.iter();
    parameters
        .map(|parameter| Argument {
            name: parameter.name.clone(),
            kind: parameter.kind,
            value: values.next().unwrap_or(crate::table::Value::Null),
        })
        .collect()
}

impl Shared {
    fn queries(&self) -> std::sync::MutexGuard<'_, Queries> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, AnswerCache> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Option<OnLine>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the current files: listens for new queries, and no longer for removed ones.
    async fn take_over(self: &Arc<Self>, queries: Queries) {
        if *self.queries() == queries {
            return;
        }
        self.queries().clone_from(&queries);
        self.answers().clear();
        let Some(mut on_line) = self.line().take() else { return };
        on_line.listening.retain(|name, _| queries.contains_key(name));
        for name in queries.into_keys() {
            if !on_line.listening.contains_key(&name)
                && let Err(error) = listen(self, &mut on_line, name).await
            {
                tracing::warn!(%error, "a new query cannot be registered; the next line registers it");
            }
        }
        let mut line = self.line();
        // A line that was opened in the meantime has registered everything itself.
        if line.is_none() {
            *line = Some(on_line);
        }
    }

    async fn respond(&self, name: &Name, request: Request) {
        let answered = self.answer(name, &request.message).await;
        self.send_shown(&request, answered).await;
    }

    async fn send_shown(&self, request: &Request, answered: Result<Shown, Refusal>) {
        let answered = answered.map(|(body, position)| {
            let mut headers = HeaderMap::new();
            if let Some((generation, sequence)) = position {
                headers
                    .insert(header::POSITION, StreamPosition::new(EVENTS, generation, sequence).to_string());
            }
            (body, headers)
        });
        self.send(request, answered).await;
    }

    async fn send(&self, request: &Request, answered: Result<(Bytes, HeaderMap), Refusal>) {
        let (body, headers) = match answered {
            Ok((body, mut headers)) => {
                headers.insert(header::CONTENT_TYPE, header::JSON);
                (Ok(body), headers)
            }
            Err(refusal) => {
                let (error, headers) = refusal.told();
                (Err(error), headers)
            }
        };
        if let Err(error) = request.respond(&self.broker, body, headers).await {
            tracing::debug!(subject = %request.message.subject, %error, "a query has nobody to answer");
        }
    }

    async fn answer(&self, name: &Name, message: &Message) -> Result<Shown, Refusal> {
        let query = self.queries().get(name).cloned();
        let query = query.ok_or_else(|| Refusal::no_such_query(&name.0, &name.1))?;
        let given = given(&message.payload).map_err(Refusal::malformed)?;
        let arguments = arguments(&query, Some(query.header.arguments(&given)?));
        let position = self.awaited(message).await?;
        let key = format!("{}.{} {arguments:?}", name.0, name.1);
        if let Some(kept) = self.answers().get(&key, position.as_ref(), Instant::now()) {
            return Ok(kept);
        }
        let asked = Arc::clone(&query);
        let answer = self.ask(client(message), query.header.rows, move |reader, limits| {
            reader.ask(&asked.statement, &arguments, limits)
        });
        let answer = answer.await?;
        let at = answer.position.clone();
        let shown = self.shown(body_of(&query, answer), at, position.as_ref())?;
        let cache = query.header.cache;
        if !cache.is_zero() {
            let mut kept = self.answers();
            // The file may have changed in the meantime. Whatever applies the change clears the kept answers after that.
            if self.queries().get(name).is_some_and(|now| Arc::ptr_eq(now, &query)) {
                kept.keep(key, shown.clone(), cache, Instant::now());
            }
        }
        Ok(shown)
    }

    /// Asks the database once there is a place for it, for at most so many rows.
    async fn ask(
        &self,
        client: &str,
        rows: usize,
        ask: impl FnOnce(&dyn Reader, Limits) -> Result<Answer, AskError> + Send + 'static,
    ) -> Result<Answer, Refusal> {
        let busy = |status: String| Refusal::new(429, problem::BUSY, status);
        let _running = self.running.take(client).await.map_err(busy)?;
        let limits = Limits { time: self.settings.time, rows, bytes: self.answer_bytes_max() };
        let reader = Arc::clone(&self.reader);
        let answer = tokio::task::spawn_blocking(move || ask(reader.as_ref(), limits)).await;
        Ok(answer.map_err(|error| Refusal::new(500, problem::QUERY_REFUSED, error.to_string()))??)
    }

    /// How many bytes the rows of an answer may have.
    fn answer_bytes_max(&self) -> usize {
        self.broker.message_bytes_max().saturating_sub(AROUND_BYTES)
    }

    /// An answer that shows everything up to `at`.
    ///
    /// # Errors
    /// If it is too large, or if it does not show `wanted`.
    fn shown(
        &self,
        body: Vec<u8>,
        at: Option<(String, u64)>,
        wanted: Option<&StreamPosition>,
    ) -> Result<Shown, Refusal> {
        if body.len() > self.broker.message_bytes_max().saturating_sub(AROUND_BYTES / 2) {
            return Err(Refusal::from(AskError::TooLarge(self.answer_bytes_max())));
        }
        if let Some(position) = wanted.filter(|position| !has_reached(at.as_ref(), position)) {
            let status = format!("the tables do not show {position} any more; they are filled anew");
            return Err(Refusal::new(504, problem::NOT_REACHED, status));
        }
        Ok((Bytes::from(body), at))
    }
}

/// Who asks, as far as a reply subject shows.
fn client(message: &Message) -> &str {
    client_of(message.reply.as_deref().unwrap_or_default())
}

fn given(body: &[u8]) -> Result<BTreeMap<String, Json>, String> {
    if body.len() > REQUEST_BYTES_MAX {
        return Err(format!("body: {} bytes; a query has at most {REQUEST_BYTES_MAX}", body.len()));
    }
    match body.trim_ascii() {
        [] => Ok(BTreeMap::new()),
        body => serde_json::from_slice::<UniqueFields>(body)
            .map(|fields| fields.0.into_iter().collect())
            .map_err(|error| format!("body: {error}; it is a record of arguments")),
    }
}

fn body_of(query: &Query, answer: Answer) -> Vec<u8> {
    let Answer { columns, rows, is_cut, .. } = answer;
    let body = json!({
        "query": format!("{}.{}", query.context, query.name),
        "title": query.header.title,
        "columns": columns,
        "money": query.header.money,
        "rows": rows,
        "cut": is_cut,
    });
    serde_json::to_vec(&body).expect("JSON values can be written")
}
