//! The projector stage: an application's views, filled by the engine's runner and queried through its service.

pub mod config;

use std::{ffi::OsString, process};

use millstream_domain::application::{Application, Views};
use millstream_read_side::read_side::{ReadSide, ReadSideError};
use millstream_runtime::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
};

use crate::config::StageConfig;

/// The program of this stage: its command line, its environment, its exit code.
pub fn program<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> process::ExitCode {
    let identity = StageIdentity {
        name: "projector",
        version: A::VERSION,
        about: "Fills views from EVENTS and OUTCOMES and answers queries of them",
    };
    run_stage(identity, arguments, environment, run::<A>)
}

/// Runs until asked to stop.
///
/// # Errors
/// [`ReadSideError`].
pub async fn run<A: Application>(
    config: Config<StageConfig<A>>,
    runtime: StageRuntime,
) -> Result<(), ReadSideError> {
    let StageConfig { read_side, views, .. } = config.stage;
    let Views { projections, outcome_projections } = views;
    ReadSide::open(&read_side, runtime, projections, outcome_projections).await?.run().await
}
