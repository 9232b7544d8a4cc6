//! The gateway stage: takes an application's commands over HTTP and answers queries. It holds no state, so any number of them may run.
//!
//! In reading order: [`config`] says where the gateway listens, and `listener` takes connections, with the TLS of `certificate`. `guard` lets
//! requests in, by `key_ring`, `tokens`, `rate_limit` and `concurrency_limit`. `commands` stores a command and `command_lines` several at once;
//! `command_request` checks them, `command_ids` names them, and `answers`, `command_log` and `forgotten_outcomes` say what became of them. `queries` passes on what `views`
//! answer; `reports` makes documents of it with `report_document`, in the form that `media_type` chooses; `configured_queries` asks the stage
//! `sql`. `history` reads the events of an aggregate, or its state as of a moment. `live` sends rows again whenever they change. `dead_letters` shows what was set aside, and has it retried or dropped. `user_requests`
//! answers the same requests over NATS, for users whose name the server proves. `problem` writes refusals. `openapi` describes the API for
//! programs and `docs_page` for people, and `api_documents` serves both. `pages` shows everything in a browser. `audit` records who sent what,
//! and who was refused.
//!
//! Deliberately absent: decisions and rows.

mod ad_hoc_sql;
mod answers;
mod api_documents;
mod audit;
mod certificate;
mod client_address;
mod command_ids;
mod command_lines;
mod command_log;
mod command_request;
mod commands;
mod concurrency_limit;
pub mod config;
mod configured_queries;
mod dead_letters;
mod docs_page;
mod forgotten_outcomes;
mod guard;
mod history;
mod key_ring;
mod listener;
mod live;
mod media_type;
mod openapi;
mod pages;
mod problem;
mod queries;
mod rate_limit;
mod recent_keys;
mod report_document;
mod reports;
mod tokens;
mod user_requests;
mod views;
mod watched_stream;
mod whole_number;

use std::{ffi::OsString, net::SocketAddr, process, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    http::StatusCode,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stream_names::{AUDIT, COMMANDS, EVENTS},
    subject::GATEWAY_REPLY_PREFIX,
};
use millstream_domain::application::Application;
use millstream_jetstream::{
    broker::Broker as _,
    id_source::IdSource,
    intake::{Intake, WhenFull},
    nats_broker::{NatsBroker, answering_service::AnsweringError},
    retry::answered,
};
use millstream_runtime::{
    config::Config,
    health::Readiness,
    metrics::Metrics,
    stage::{StageIdentity, StageRuntime, run_stage},
};
use millstream_write_side::outcome_inbox::{OutcomeInbox, OutcomeInboxError};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::{
    api_documents::Documents,
    audit::Audit,
    command_ids::CommandIds,
    command_log::CommandLog,
    commands::Commands,
    concurrency_limit::Places,
    config::{Limits, StageConfig},
    forgotten_outcomes::Forgotten,
    guard::Guard,
    key_ring::KeyRing,
    listener::Listener,
    live::Hub,
    openapi::Described,
    pages::Pages,
    problem::Problem,
    recent_keys::RecentKeys,
    user_requests::UserRequests,
    views::Views,
    watched_stream::WatchedStream,
};
pub use crate::{
    audit::Audited,
    certificate::{CertificateError, CertificateFiles},
    client_address::{ForwardedHeader, TrustedProxies},
    command_ids::IdSecretError,
    key_ring::KeyRingError,
    watched_stream::WatchedStreamError,
};

/// How long what was begun may still wait for somebody else when the stage is asked to stop: what needs no wait is answered.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Why the stage ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file of keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
    /// The secret in the ids of commands cannot be used.
    #[error(transparent)]
    IdSecret(#[from] IdSecretError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A stream is not there.
    #[error(transparent)]
    Stream(#[from] WatchedStreamError),
    /// Outcomes cannot be heard.
    #[error(transparent)]
    Outcomes(#[from] OutcomeInboxError),
    /// Users of NATS cannot be heard.
    #[error("requests of users cannot be taken; may this user subscribe to as.> and $SRV.>?")]
    Users(#[source] AnsweringError),
    /// The address is taken or not ours.
    #[error("gateway.listen {address} cannot be used; choose another one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Failure for RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Keys(error) => error.exit_code(),
            Self::IdSecret(error) => error.exit_code(),
            Self::Certificate(error) => error.exit_code(),
            Self::Stream(error) => error.exit_code(),
            Self::Outcomes(_) | Self::Users(_) => ExitCode::Unavailable,
            Self::Listen { .. } => ExitCode::Configuration,
        }
    }
}

/// The program of this stage: its command line, its environment, its exit code.
pub fn program<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> process::ExitCode {
    let identity = StageIdentity {
        name: "gateway",
        version: A::VERSION,
        about: "Takes commands and answers queries over HTTP",
    };
    run_stage(identity, arguments, environment, run::<A>)
}

/// Runs until asked to stop.
///
/// # Errors
/// [`RunError`].
pub async fn run<A: Application>(
    config: Config<StageConfig<A>>,
    runtime: StageRuntime,
) -> Result<(), RunError> {
    // A client that takes its time must not make the end too slow.
    let end_timeout = config.shutdown.limit / 5 * 4;
    let documents = Arc::new(documents(&config.stage));
    let stage = config.stage;
    let (limits, parts) = (stage.limits, stage.parts);
    let StageRuntime { broker, metrics, readiness, shutdown, .. } = runtime;
    let stop = shutdown.token().clone();
    let ids = IdSource::new(Ulid::generate().to_string());
    let (listening, keys) = (readiness.condition("http"), readiness.condition("keys"));
    let keys = KeyRing::open(stage.keys_file, stage.tokens, keys, stop.clone()).await?;
    let command_ids = CommandIds::open(stage.id_secret_file).await?;
    let tls = tls(stage.certificate, &readiness, &stop).await?;
    let socket = TcpListener::bind(stage.listen).await;
    let socket = socket.map_err(|source| RunError::Listen { address: stage.listen, source })?;
    let streams = streams(&broker, stage.audited, &ids, &readiness, &stop);
    let Some(streams) = stop.run_until_cancelled(streams).await else { return Ok(()) };
    let [stream, events] = streams?;
    let log = CommandLog::new(broker.clone(), parts.contexts);
    let views = Views {
        broker: broker.clone(),
        stream: stream.clone(),
        events,
        forgotten: Forgotten::follow(broker.clone(), stop.clone()).await,
        log: log.clone(),
        known: parts.views,
        of_outcomes: parts.outcome_views,
        stop: stop.clone(),
    };
    let recording = readiness.condition("audit");
    let (audit, audit_end) = Audit::start(stage.audited, broker.clone(), &ids, recording);
    let live = Hub::start(broker.clone(), metrics.live(), limits.live_recheck, stop.clone());
    let commands = Commands {
        stream,
        views,
        intake: Intake::start(broker.clone(), ids.clone(), WhenFull::Tell),
        outcomes: OutcomeInbox::open(&broker, GATEWAY_REPLY_PREFIX, &ids).await?,
        log,
        broker,
        ids: command_ids,
        recent_keys: RecentKeys::new(),
        aggregates: parts.aggregates,
        reports: parts.reports,
        limits,
        preconditions_required: stage.preconditions_required,
        places_for_lines: Places::for_lines(&limits),
        places_for_waiting: Places::for_waiting(&limits),
        places_for_histories: Places::for_histories(&limits),
        places_for_states: Places::for_states(&limits),
        places_for_letters: Places::for_letters(&limits),
        places_for_overviews: Places::for_overviews(&limits),
        places_for_queries: Places::for_queries(&limits),
        places_for_live: Places::for_live(&limits),
        live,
        audit: audit.clone(),
        stop: stop.clone(),
    };
    // Without keys nobody's name would be proved.
    let with_users = !keys.is_open();
    let guard = Arc::new(Guard::new(keys, &limits, stage.proxies, tls.is_some(), audit, metrics.clone()));
    let commands = Arc::new(commands);
    let router = router::<A>(Arc::clone(&commands), documents, Arc::clone(&guard));
    let listener = listener(socket, tls, router, &limits, end_timeout, &metrics);
    let users = users(with_users, commands, guard, A::VERSION).await?;
    tracing::info!(address = %stage.listen, "answering HTTP");
    listening.holds();
    serve(listener, users, stop).await;
    audit_end.reached(end_timeout / 8).await;
    Ok(())
}

/// With what TLS is spoken, if it is.
async fn tls(
    files: Option<CertificateFiles>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<Option<TlsAcceptor>, CertificateError> {
    let Some(files) = files else { return Ok(None) };
    let condition = readiness.condition("certificate");
    certificate::acceptor(files, condition, stop.clone()).await.map(Some)
}

/// COMMANDS and EVENTS, when all streams that are needed are there.
async fn streams(
    broker: &NatsBroker,
    audited: Audited,
    ids: &IdSource,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<[WatchedStream; 2], WatchedStreamError> {
    if audited != Audited::Nothing {
        answered(ids, || broker.state(AUDIT)).await?;
    }
    let watched = async |name: &'static str| {
        WatchedStream::open(broker.clone(), name, ids, readiness.condition(name), stop.clone()).await
    };
    Ok([watched(COMMANDS).await?, watched(EVENTS).await?])
}

/// Answers users of NATS, if there may be some. Otherwise nothing is kept of what they would ask.
async fn users(
    with_users: bool,
    commands: Arc<Commands>,
    guard: Arc<Guard>,
    version: &str,
) -> Result<Option<UserRequests>, RunError> {
    if !with_users {
        return Ok(None);
    }
    UserRequests::start(commands, guard, version).await.map(Some).map_err(RunError::Users)
}

fn listener(
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: &Limits,
    end_timeout: Duration,
    metrics: &Metrics,
) -> Listener {
    Listener {
        socket,
        tls,
        router,
        connections_max: limits.connections_max,
        header_timeout: limits.header_timeout,
        // Whoever has taken an answer has that long for the headers of the next request.
        answer_timeout: limits.body_timeout + limits.header_timeout,
        end_timeout,
        connections: metrics.gateway_connections(),
    }
}

/// What it tells of itself.
fn documents<A: Application>(stage: &StageConfig<A>) -> Documents {
    Documents::of(&Described {
        name: A::NAME,
        version: A::VERSION,
        about: A::ABOUT,
        parts: &stage.parts,
        limits: &stage.limits,
        port: stage.listen.port(),
        with_preconditions: !stage.preconditions_required.is_empty(),
        with_keys: stage.keys_file.is_some(),
    })
}

/// Answers until `stop`, and ends when everybody who was taken in has an answer.
async fn serve(listener: Listener, mut users: Option<UserRequests>, stop: CancellationToken) {
    let leaving = async {
        if let Some(users) = &mut users {
            users.follow(&stop).await;
        }
    };
    tokio::join!(listener.serve(stop.clone()), leaving);
    if let Some(users) = users {
        users.stop().await;
    }
}

fn router<A: Application>(commands: Arc<Commands>, documents: Arc<Documents>, guard: Arc<Guard>) -> Router {
    let pages = Arc::new(Pages::of::<A>(&commands, &guard));
    Router::new()
        .route(
            "/v1/openapi.json",
            get(api_documents::openapi).with_state((Arc::clone(&documents), Arc::clone(&commands))),
        )
        .route("/v1/asyncapi.json", get(api_documents::asyncapi).with_state(Arc::clone(&documents)))
        .route("/v1/docs", get(api_documents::page).with_state(documents))
        .route("/v1/commands/{context}/{aggregate}/{id}/{command}", post(commands::post))
        .route("/v1/live", get(live::get))
        .route("/v1/commands", post(command_lines::post))
        .route("/v1/commands/{command_id}", get(commands::get))
        .route("/v1/reports/{report}", get(reports::list))
        .route("/v1/reports/{report}/{*key}", get(reports::get))
        .route("/v1/sql", post(ad_hoc_sql::post))
        .route("/v1/queries", get(configured_queries::list))
        .route("/v1/queries/{context}/{name}", get(configured_queries::get))
        .route("/v1/deadletters", get(dead_letters::list))
        .route("/v1/deadletters/{letter}", get(dead_letters::get))
        .route("/v1/deadletters/{letter}/retry", post(dead_letters::retry))
        .route("/v1/deadletters/{letter}/drop", post(dead_letters::drop_letter))
        .route("/v1/history/{context}/{aggregate}/{id}", get(history::get))
        .route("/v1/{context}/{view}", get(queries::list))
        .route("/v1/{context}/{view}/{key}", get(queries::get))
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "address-unknown", "there is nothing at this address")
        })
        .method_not_allowed_fallback(async || {
            let detail = "this address takes another method";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        })
        .with_state(commands)
        .merge(pages::router(&pages))
        .layer(Extension(Arc::clone(&guard)))
        .layer(from_fn_with_state(guard, guard::pass))
        .merge(pages::open_router(&pages))
        .layer(from_fn_with_state(pages, pages::around))
}

/// Ends a moment after `stop`, for what waits for somebody else.
async fn last_moment(stop: &CancellationToken) {
    after(stop, LAST_MOMENT).await;
}

async fn after(stop: &CancellationToken, pause: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(pause).await;
}
