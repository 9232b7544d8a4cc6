//! The reporter stage: the model's reports as ledgers, queried like views and published revision by revision.

pub mod config;

use millstream_engine::{
    config::Config,
    exit_code::{ExitCode, Failure},
    read_side::{ReadSide, ReadSideError},
    report_publisher::{PublishError, ReportPublisher},
    stage::StageRuntime,
};

use crate::config::StageConfig;

/// Why the stage ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Ledgers cannot be kept or queried.
    #[error(transparent)]
    ReadSide(#[from] ReadSideError),
    /// Revisions cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Failure for RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::ReadSide(error) => error.exit_code(),
            Self::Publish(error) => error.exit_code(),
        }
    }
}

/// Runs until asked to stop.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config<StageConfig>, runtime: StageRuntime) -> Result<(), RunError> {
    let stop = runtime.shutdown.token().child_token();
    let (broker, metrics) = (runtime.broker.clone(), runtime.metrics.clone());
    let reports = millstream_model::reports();
    let side = ReadSide::open(&config.stage.read_side, runtime, reports, Vec::new()).await?;
    let publisher =
        ReportPublisher::new(broker, side.store().clone(), side.views(), side.row_remover(), metrics);
    let publishing = async {
        if config.stage.publish {
            publisher.run(stop).await?
        } else {
            stop.cancelled().await
        }
        Ok(())
    };
    let keeping = async { Ok(side.run().await?) };
    tokio::try_join!(keeping, publishing).map(|_| ())
}
