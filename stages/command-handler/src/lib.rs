//! The command handler stage: the model's aggregates, decided by the engine's command handler; and the submit service.

pub mod config;

use millstream_engine::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    config::Config,
    exit_code::{ExitCode, Failure},
    id_index::{IdIndex, IdIndexError},
    retry::RunIds,
    shutdown::Shutdown,
    stage::StageRuntime,
    state_cache::CacheLimits,
    state_snapshots::{SnapshotError, StateSnapshots},
    submit_service::{SubmitService, SubmitServiceError},
};
use ulid::Ulid;

use crate::config::StageConfig;

/// Why the stage ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
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
    Snapshots(#[from] SnapshotError),
    /// Submissions cannot be taken.
    #[error(transparent)]
    Submit(#[from] SubmitServiceError),
    /// The handler cannot go on.
    #[error(transparent)]
    Handler(#[from] HandlerError),
}

impl Failure for RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Folder { source, .. } => ExitCode::of_file_error(source),
            Self::Index(error) => error.exit_code(),
            Self::Snapshots(error) => error.exit_code(),
            Self::Submit(_) => ExitCode::NotPermitted,
            Self::Handler(error) => error.exit_code(),
        }
    }
}

/// Runs until asked to stop.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config<StageConfig>, runtime: StageRuntime) -> Result<(), RunError> {
    let stage = config.stage;
    std::fs::create_dir_all(&stage.data_directory)
        .map_err(|source| RunError::Folder { path: stage.data_directory.display().to_string(), source })?;
    let index = IdIndex::open(&stage.data_directory.join("command-ids.redb"))?;
    let settings = HandlerSettings {
        name: runtime.process,
        round_max: stage.round_max,
        cache: CacheLimits { states: stage.states_max, bytes: stage.states_memory_max },
        append_strategy: stage.append_strategy,
        lease_time_to_live: stage.lease_time_to_live,
        purge: Some(stage.purge),
    };
    let snapshots = StateSnapshots::open(&stage.data_directory.join("states.redb"))?;
    let observed = Observed::new(&runtime.metrics, &runtime.readiness);
    let registry = millstream_model::aggregates();
    let run = Ulid::generate().to_string();
    let ids = RunIds::new(format!("{run}-submit"));
    let mut submissions = SubmitService::start(&runtime.broker, ids, runtime.identity.version).await?;
    let mut handler =
        CommandHandler::new(runtime.broker, registry, settings, &run, index, snapshots, observed);
    let shutdown = runtime.shutdown;
    let ended = tokio::select! {
        ended = handler.run(shutdown.clone()) => ended,
        never = leave_the_queue(&mut submissions, &shutdown) => never,
    };
    submissions.stop().await;
    Ok(ended?)
}

/// Lets other processes take the submissions while this one finishes its round.
async fn leave_the_queue<T>(submissions: &mut SubmitService, shutdown: &Shutdown) -> T {
    shutdown.requested().await;
    submissions.take_no_more().await;
    std::future::pending().await
}
