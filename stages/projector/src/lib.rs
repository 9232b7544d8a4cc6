//! The projector stage: the model's views, filled by the engine's runner and queried through its service.

pub mod config;

use millstream_engine::{
    config::Config,
    read_side::{ReadSide, ReadSideError},
    stage::StageRuntime,
};

use crate::config::StageConfig;

/// Runs until asked to stop.
///
/// # Errors
/// [`ReadSideError`].
pub async fn run(config: Config<StageConfig>, runtime: StageRuntime) -> Result<(), ReadSideError> {
    let projections = millstream_model::projections();
    let outcome_projections = millstream_model::outcome_projections();
    ReadSide::open(&config.stage.read_side, runtime, projections, outcome_projections).await?.run().await
}
