//! The sql stage: an application's views and reports as tables of a relational database.

pub mod config;

use std::{ffi::OsString, process};

use millstream_domain::application::Application;
use millstream_runtime::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
};
use millstream_sql::replica_runner::{self, ReplicaError};

use crate::config::StageConfig;

/// The program of this stage: its command line, its environment, its exit code.
pub fn program<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> process::ExitCode {
    let identity = StageIdentity {
        name: "sql",
        version: A::VERSION,
        about: "Keeps views and reports as tables of SQLite or PostgreSQL",
    };
    run_stage(identity, arguments, environment, run::<A>)
}

/// Runs until asked to stop.
///
/// # Errors
/// [`ReplicaError`].
pub async fn run<A: Application>(
    config: Config<StageConfig<A>>,
    runtime: StageRuntime,
) -> Result<(), ReplicaError> {
    let StageConfig { settings, projections, outcome_projections, .. } = config.stage;
    replica_runner::run(&settings, runtime, projections, outcome_projections).await
}
