//! The command handler stage: an application's aggregates, decided by the engine's command handler; the submit service; and the service
//! that retries and drops dead letters.

pub mod config;

use std::{convert::Infallible, ffi::OsString, process};

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    stream_names::{COMMANDS, EVENTS, OUTCOMES, STREAMS},
};
use millstream_domain::{
    application::{Application, ApplicationError, Model},
    set_aside::SetAsides,
};
use millstream_jetstream::{id_source::IdSource, nats_broker::NatsBroker};
use millstream_runtime::{
    config::Config,
    memory_limit::MemoryLimit,
    metrics::ReaderMetrics,
    shutdown::Shutdown,
    stage::{StageIdentity, StageRuntime, run_stage},
    stream_watch::{watch_stream, watch_usage},
    time_zone_watch::{COMMAND_HANDLER, PROCESS_MANAGER, telling_zone, watch_time_zone},
};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerProgress, HandlerSettings, Observed},
    id_index::{IdIndex, IdIndexError},
    letter_service::{LetterService, RegisterError},
    state_cache::CacheLimits,
    state_snapshots::{StateSnapshots, StoreError},
    submit_service::{SubmitService, SubmitServiceError},
};
use ulid::Ulid;

use crate::config::StageConfig;

/// Why the stage ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The application is invalid.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// The data folder cannot be made.
    #[error(
        "the folder {path} cannot be made; set command_handler.data_directory to one that can be written"
    )]
    Folder {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The index of command ids cannot be opened.
    #[error(transparent)]
    Index(#[from] IdIndexError),
    /// The snapshots of states cannot be opened.
    #[error(transparent)]
    Snapshots(#[from] StoreError),
    /// The submit service cannot run.
    #[error(transparent)]
    Submit(#[from] SubmitServiceError),
    /// The service for dead letters cannot run.
    #[error(transparent)]
    Letters(#[from] RegisterError),
    /// The handler cannot continue.
    #[error(transparent)]
    Handler(#[from] HandlerError),
}

impl Failure for RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Application(error) => error.exit_code(),
            Self::Folder { source, .. } => ExitCode::of_file_error(source),
            Self::Index(error) => error.exit_code(),
            Self::Snapshots(error) => error.exit_code(),
            Self::Submit(_) | Self::Letters(_) => ExitCode::NotPermitted,
            Self::Handler(error) => error.exit_code(),
        }
    }
}

/// The program of this stage: its command line, its environment, its exit code.
pub fn program<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> process::ExitCode {
    let identity = StageIdentity {
        name: "command-handler",
        version: A::VERSION,
        about: "Decides commands from COMMANDS and appends their events to EVENTS",
    };
    run_stage(identity, arguments, environment, run::<A>)
}

/// Runs until asked to stop.
///
/// # Errors
/// [`RunError`].
pub async fn run<A: Application>(config: Config<StageConfig>, runtime: StageRuntime) -> Result<(), RunError> {
    let (registry, processes) = {
        let model = Model::of::<A>()?;
        let registry = model.aggregates().with::<SetAsides>();
        (registry.in_time_zone(config.stage.time_zone.clone()), model.process_names())
    };
    let stage = config.stage;
    let memory = stage.memory(MemoryLimit::of_this_process());
    std::fs::create_dir_all(&stage.data_directory)
        .map_err(|source| RunError::Folder { path: stage.data_directory.display().to_string(), source })?;
    let index = IdIndex::open(
        &stage.data_directory.join("command-ids.redb"),
        memory.pages_of_a_file,
        runtime.metrics.damaged_files("command-ids"),
    )?;
    let settings = HandlerSettings {
        name: runtime.process,
        round_max: stage.round_max,
        internal_commands: stage.internal_commands,
        cache: CacheLimits {
            states: stage.states_max,
            bytes: memory.states,
            unsaved_commits: stage.states_unsaved_commits,
        },
        append_strategy: stage.append_strategy,
        lease_time_to_live: stage.lease_time_to_live,
        purge: Some(stage.purge),
    };
    let snapshots = StateSnapshots::open(
        &stage.data_directory.join("states.redb"),
        memory.pages_of_a_file,
        &runtime.metrics.damaged_files("states"),
    )?;
    // A configuration can only hold a zone that has a name.
    let zone = stage.time_zone.iana_name().unwrap_or("UTC").to_owned();
    let broker = telling_zone(runtime.broker, &zone);
    let (zoned, zone_agreed) = (broker.clone(), runtime.readiness.condition("time zone"));
    let observed = Observed::new(&runtime.metrics, &runtime.readiness).of_processes(processes);
    let (filled, filling) = (broker.clone(), runtime.metrics.clone());
    let watching = watch_progress(broker.clone(), observed.progress.clone(), observed.reader.clone());
    let run = Ulid::generate().to_string();
    let ids = IdSource::new(format!("{run}-submit"));
    let mut submissions = SubmitService::start(&broker, ids, runtime.identity.version).await?;
    let mut letters = LetterService::start(&broker, runtime.identity.version).await?;
    let mut handler = CommandHandler::new(broker, registry, settings, &run, index, snapshots, observed);
    let shutdown = runtime.shutdown;
    let ended = tokio::select! {
        ended = handler.run(shutdown.clone()) => ended,
        never = watching => match never {},
        never = watch_usage(&filled, &filling, &STREAMS) => match never {},
        never = watch_time_zone(&zoned, &zone_agreed, COMMAND_HANDLER, &zone, PROCESS_MANAGER) => match never {},
        never = leave_the_queue(&mut submissions, &mut letters, &shutdown) => never,
    };
    submissions.stop().await;
    letters.stop().await;
    Ok(ended?)
}

/// Checks from outside whether there is work that the handler does not do.
async fn watch_progress(broker: NatsBroker, progress: HandlerProgress, reader: ReaderMetrics) -> Infallible {
    let (commands, ids, states) = ([&progress.commands], [&progress.ids], [&progress.states]);
    tokio::select! {
        never = watch_stream(&broker, COMMANDS, ">", &commands, Some(&reader)) => never,
        never = watch_stream(&broker, OUTCOMES, ">", &ids, None) => never,
        never = watch_stream(&broker, EVENTS, ">", &states, None) => never,
    }
}

/// Lets other processes take submitted commands, and dead letters, while this one finishes its round.
async fn leave_the_queue<T>(
    submissions: &mut SubmitService,
    letters: &mut LetterService,
    shutdown: &Shutdown,
) -> T {
    shutdown.requested().await;
    tokio::join!(submissions.take_no_more(), letters.take_no_more());
    std::future::pending().await
}
