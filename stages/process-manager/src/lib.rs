//! The process manager stage: an application's processes, run by the engine's process runner, and commands that fall due.

pub mod config;

use std::{ffi::OsString, process};

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_domain::application::Application;
use millstream_processes::process_runner::{ProcessRunner, ProcessRunnerConfig, ProcessRunnerError};
use millstream_read_side::read_side::{FileSettings, OpenStoreError, open_store};
use millstream_runtime::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
    time_zone_watch::{COMMAND_HANDLER, PROCESS_MANAGER, telling_zone, watch_time_zone},
};
use ulid::Ulid;

use crate::config::StageConfig;

/// Why the stage ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The runner cannot continue.
    #[error(transparent)]
    Runner(#[from] ProcessRunnerError),
}

impl Failure for RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Runner(error) => error.exit_code(),
        }
    }
}

/// The program of this stage: its command line, its environment, its exit code.
pub fn program<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> process::ExitCode {
    let identity = StageIdentity {
        name: "process-manager",
        version: A::VERSION,
        about: "Answers events with commands and timers, and sends commands that fall due",
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
    let stage = config.stage;
    let FileSettings { data_directory, damaged_file, cache_size, batch_max, durable_interval } = stage.file;
    let store = open_store(&data_directory, damaged_file, cache_size, &runtime.metrics).await?;
    let zone = stage.time_zone.map(|zone| (zone, runtime.readiness.condition("time zone")));
    let broker = match &zone {
        Some((zone, _)) => telling_zone(runtime.broker, zone),
        None => runtime.broker,
    };
    let zoned = broker.clone();
    let watching = async {
        match &zone {
            Some((zone, agreed)) => {
                watch_time_zone(&zoned, agreed, PROCESS_MANAGER, zone, COMMAND_HANDLER).await
            }
            None => std::future::pending().await,
        }
    };
    let runner = ProcessRunner::new(
        broker,
        store,
        stage.processes,
        ProcessRunnerConfig {
            lease_time_to_live: stage.lease_time_to_live,
            batch_max,
            durable_interval,
            begins: stage.begins,
            ..ProcessRunnerConfig::new(&runtime.process, &Ulid::generate().to_string())
        },
        runtime.metrics,
        &runtime.readiness,
    )?;
    tokio::select! {
        ended = runner.run(runtime.shutdown) => Ok(ended?),
        never = watching => match never {},
    }
}
