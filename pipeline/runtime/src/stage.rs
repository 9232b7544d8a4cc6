//! The common entry point of every stage: command line, configuration, logs, health, connection, shutdown and exit code. The `main` of a stage
//! passes its arguments, its environment and one function.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use millstream_contract::{
    error_text::{bounded, one_line},
    exit_code::{ExitCode, Failure},
};
use millstream_jetstream::nats_broker::NatsBroker;
use tokio::time::Instant;

use crate::{
    config::{Config, ConfigError, Loaded, Origins, Section, load},
    connection::{self, ClientIdentity, ConnectionEnded, ConnectionMonitor, connect, dialer, process_name},
    health::{Readiness, serve},
    metrics::Metrics,
    shutdown::{Shutdown, within_limit},
    stage_check::{check_stage, verify_streams},
    stage_needs::stage_needs,
    standard_streams::{answer_command_line, refuse_output, write_error_line, write_result},
    status_service::{ObservedProcess, StatusService, StatusServiceError},
    telemetry,
};

/// The version of Millstream itself.
pub const MILLSTREAM_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The shortest time between two log lines about refused reply subjects.
const REFUSED_REPLY_PAUSE: Duration = Duration::from_secs(10);

/// Which stage of which application a process is.
#[derive(Debug, Clone, Copy)]
pub struct StageIdentity {
    /// Its name, `lower-kebab-case`.
    pub name: &'static str,
    /// The application's version.
    pub version: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
}

/// The versions of the application and of Millstream for `--version`; one version if both are the same.
#[must_use]
pub fn version_text(version: &str) -> String {
    if version == MILLSTREAM_VERSION {
        version.to_owned()
    } else {
        format!("{version} (Millstream {MILLSTREAM_VERSION})")
    }
}

/// The command line of every stage.
#[derive(Debug, Clone, Default, Parser)]
#[command(max_term_width = 110)]
pub struct StageArguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key; wins over file and variables
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// nats CLI context to connect with
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Tell several processes of this stage apart
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// Check the configuration without connecting, and end
    #[arg(long)]
    pub check_config: bool,
    /// With --check-config: also ask the server whether this stage could work
    #[arg(long, requires = "check_config")]
    pub connect: bool,
    /// Print each key, its value and where it comes from, and end
    #[arg(long)]
    pub dump_config: bool,
    /// Print a configuration file with every key explained, and end
    #[arg(long)]
    pub reference_config: bool,
}

impl StageArguments {
    /// Where the configuration comes from.
    #[must_use]
    pub fn origins(&self, environment: BTreeMap<String, String>) -> Origins {
        let mut settings = self.set.clone();
        let short = [("nats.context", &self.context), ("process.instance", &self.instance)];
        for (key, value) in short {
            settings.extend(value.as_ref().map(|value| format!("{key}={value}")));
        }
        Origins { file: self.config.clone(), environment, settings }
    }
}

/// How long `--check-config --connect` waits for a server. It asks whether the stage could work now; a stage itself waits longer.
const CHECK_CONNECT_MAX: Duration = Duration::from_secs(5);

/// What a stage runs with.
#[derive(Debug, Clone)]
pub struct StageRuntime {
    /// The stage.
    pub identity: StageIdentity,
    /// The name of the process: `projector`, or `projector-2` for the instance `2`. Names of consumers begin with it.
    pub process: String,
    /// JetStream over the process's one connection, which reconnects for ever.
    pub broker: NatsBroker,
    /// The metrics.
    pub metrics: Metrics,
    /// The conditions of readiness.
    pub readiness: Readiness,
    /// Signals when to end.
    pub shutdown: Shutdown,
}

/// The error of a stage that was too slow to end.
#[derive(Debug, thiserror::Error)]
#[error("ending took longer than shutdown.limit; raise it if the stage needs more time")]
struct TooSlow;

impl Failure for TooSlow {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Software
    }
}

/// Runs a stage from its command line to its exit code. `run` returns after `shutdown` was requested and its work is finished. An error ends
/// the process.
pub fn run_stage<S, E, R, F>(
    identity: StageIdentity,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    run: R,
) -> std::process::ExitCode
where
    S: Section,
    E: Failure + 'static,
    R: FnOnce(Config<S>, StageRuntime) -> F,
    F: Future<Output = Result<(), E>>,
{
    let arguments = match parse(identity, arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code.into(),
    };
    let origins = arguments.origins(unicode(environment));
    let loaded = match load::<S>(&origins) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error).into(),
    };
    if let Some(answered) = answer(identity, &arguments, &loaded) {
        return answered.unwrap_or_else(|error| refuse(&error)).into();
    }
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError { what: "the runtime", source }.into())
        .and_then(|runtime| {
            let result = if arguments.connect {
                runtime.block_on(check_server(identity, &loaded.config))
            } else {
                runtime.block_on(supervise(identity, loaded.config, run)).map(|()| ExitCode::Ok)
            };
            // A stage that was too slow may be stuck in a blocking call, and waiting for that would defeat the limit.
            runtime.shutdown_background();
            result
        });
    match ended {
        Ok(code) => code.into(),
        Err(AnyFailure(error)) => {
            print_error(&one_line(&*error));
            error.exit_code().into()
        }
    }
}

/// An operation that the operating system refused at the start.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be started")]
struct StartError {
    what: &'static str,
    #[source]
    source: std::io::Error,
}

impl Failure for StartError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Software
    }
}

impl Failure for StatusServiceError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Unavailable
    }
}

/// The error with which a stage ended.
struct AnyFailure(Box<dyn Failure>);

impl<E: Failure + 'static> From<E> for AnyFailure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

async fn supervise<S, E, R, F>(identity: StageIdentity, config: Config<S>, run: R) -> Result<(), AnyFailure>
where
    E: Failure + 'static,
    R: FnOnce(Config<S>, StageRuntime) -> F,
    F: Future<Output = Result<(), E>>,
{
    let instance = config.process.instance.clone();
    let process = process_name(identity.name, &instance);
    let (metrics, readiness, shutdown) = (Metrics::new(), Readiness::new(), Shutdown::new());
    telemetry::initialise(&config.telemetry, identity.name, &instance, metrics.log_lines_dropped());
    // A stage that has not added its conditions yet must not look ready.
    let joining = readiness.until_joined("stage");
    metrics.identify(identity.name, &instance, identity.version, MILLSTREAM_VERSION);
    shutdown.on_signals().map_err(|source| StartError { what: "the handler of signals", source })?;
    tracing::info!(process, version = identity.version, millstream = MILLSTREAM_VERSION, "starting");
    if let Some(address) = config.telemetry.address {
        serve(address, readiness.clone(), metrics.clone()).await?;
    }
    let monitor = ConnectionMonitor::new(metrics.connection(), readiness.condition("nats"));
    let client_identity = ClientIdentity::of_stage(identity.name, &instance);
    let client = tokio::select! {
        connected = connect(&config.nats, &client_identity, &monitor) => connected?,
        () = shutdown.requested() => return Ok(()),
    };
    let (dialer, nats) = (dialer(&config.nats, &client_identity, &monitor), config.nats.clone());
    let counting = metrics.clone();
    // These are dropped in reverse order, so that nobody closes the connection before the monitor expects it.
    let _connection = client.clone();
    let _closing = monitor.closing_on_drop();
    let limit = config.shutdown.limit;
    let stopping = readiness.condition("process");
    stopping.holds();
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            shutdown.requested().await;
            stopping.fails("stopping");
        }
    });
    let shown = ObservedProcess {
        stage: identity.name.to_owned(),
        instance,
        version: identity.version.to_owned(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
    };
    let refusing = readiness.clone();
    let broker = NatsBroker::new(client.clone(), dialer, config.nats.jetstream_domain.as_deref())
        .on_restart(move |stream, reader| {
            counting.reader_restarts(stream, reader).inc();
        })
        .on_refused_reply(refused_replies(&metrics))
        .on_unstored(move |stream, error| refusing.unstored(stream, error.to_string()));
    let status = StatusService::start(&broker, shown).await?;
    if let Some(needs) = stage_needs(identity.name, "") {
        verify_streams(&client, config.nats.jetstream_domain.as_deref(), &needs).await?;
    }
    let runtime =
        StageRuntime { identity, process, broker, metrics, readiness: joining, shutdown: shutdown.clone() };
    let ended = tokio::select! {
        ended = within_limit(&shutdown, limit, run(config, runtime)) => ended,
        () = connection::ended(&client) => {
            status.stop().await;
            return Err(ConnectionEnded.into());
        }
        error = connection::refused(&nats, &monitor) => return Err(error.into()),
    };
    status.stop().await;
    match ended {
        Some(Ok(())) => {
            tracing::info!("stopped");
            Ok(())
        }
        Some(Err(error)) => Err(error.into()),
        None => Err(TooSlow.into()),
    }
}

/// Counts reply subjects that are not allowed for answers, and logs one of them from time to time.
fn refused_replies(metrics: &Metrics) -> impl Fn(&str) + Send + Sync + use<> {
    let count = metrics.refused_replies();
    let last_said: Mutex<Option<Instant>> = Mutex::new(None);
    move |subject| {
        count.inc();
        let mut last_said = last_said.lock().unwrap_or_else(PoisonError::into_inner);
        if last_said.is_none_or(|said| said.elapsed() >= REFUSED_REPLY_PAUSE) {
            *last_said = Some(Instant::now());
            tracing::warn!(
                subject = %bounded(subject).escape_debug(),
                "somebody asks to be answered where answers do no good; nothing is sent there"
            );
        }
    }
}

/// Lists what a stage needs of the server, and whether it is there. The exit code is that of what the server forbids, if it forbids anything,
/// because that is certain and explains missing answers. Otherwise it is that of the first problem.
async fn check_server<S>(identity: StageIdentity, config: &Config<S>) -> Result<ExitCode, AnyFailure> {
    let instance = &config.process.instance;
    let needs = stage_needs(identity.name, instance).unwrap_or_default();
    let client = ClientIdentity::of_stage(identity.name, instance);
    let mut connection = config.nats.clone();
    connection.connect_timeout = match connection.connect_timeout {
        Duration::ZERO => CHECK_CONNECT_MAX,
        configured => configured.min(CHECK_CONNECT_MAX),
    };
    let checks = check_stage(&connection, &client, &needs).await?;
    let lines: String = checks.iter().map(|check| format!("{check}\n")).collect();
    let shown = show(&lines);
    let codes = || checks.iter().filter_map(|check| check.result.as_ref().err()).map(|trouble| trouble.code);
    Ok(codes().find(|code| *code == ExitCode::NotPermitted).or_else(|| codes().next()).unwrap_or(shown))
}

fn parse(
    identity: StageIdentity,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<StageArguments, ExitCode> {
    use clap::{CommandFactory, FromArgMatches};
    let command = StageArguments::command()
        .name(identity.name)
        .version(version_text(identity.version))
        .about(identity.about);
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|matches| StageArguments::from_arg_matches(&matches));
    parsed.map_err(|answer| answer_command_line(&answer))
}

/// Variables that are not Unicode cannot be Millstream's.
fn unicode(environment: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Handles what a command line asks for that needs no server.
fn answer<S: Section>(
    identity: StageIdentity,
    arguments: &StageArguments,
    loaded: &Loaded<S>,
) -> Option<Result<ExitCode, ConfigError>> {
    if arguments.reference_config {
        return Some(Ok(show(&loaded.reference_file(identity.name))));
    }
    if arguments.dump_config {
        return Some(Ok(show(&loaded.dump())));
    }
    if !arguments.check_config {
        return None;
    }
    let problems = loaded.config.file_problems();
    if !problems.is_empty() {
        return Some(Err(ConfigError { problems }));
    }
    (!arguments.connect).then(|| Ok(show("the configuration is valid\n")))
}

fn refuse(error: &ConfigError) -> ExitCode {
    for problem in &error.problems {
        print_error(problem);
    }
    error.exit_code()
}

fn show(text: &str) -> ExitCode {
    write_result(text).map_or_else(|error| refuse_output(&error), |()| ExitCode::Ok)
}

fn print_error(problem: &str) {
    write_error_line(format_args!("error: {problem}"));
}
