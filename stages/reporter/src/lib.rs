//! The reporter stage: an application's reports as ledgers, queried like views and published revision by revision.

pub mod config;

use std::{ffi::OsString, process};

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_domain::application::Application;
use millstream_read_side::{
    read_side::{ReadSide, ReadSideError},
    report_publisher::{PublishError, ReportPublisher},
};
use millstream_runtime::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
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

/// The program of this stage: its command line, its environment, its exit code.
pub fn program<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> process::ExitCode {
    let identity = StageIdentity {
        name: "reporter",
        version: A::VERSION,
        about: "Keeps daily reports as a ledger, publishes their revisions and answers queries of them",
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
    let stop = runtime.shutdown.token().child_token();
    let (broker, metrics) = (runtime.broker.clone(), runtime.metrics.clone());
    let progress = runtime.readiness.progress("publishing reports");
    let StageConfig { read_side, publish, open_interval, ledgers, .. } = config.stage;
    let side = ReadSide::open(&read_side, runtime, ledgers, Vec::new()).await?;
    let publisher = ReportPublisher::new(
        broker,
        side.store().clone(),
        side.views(),
        side.row_remover(),
        metrics,
        progress,
        open_interval,
    );
    let publishing = async {
        if publish {
            publisher.run(stop).await?
        } else {
            stop.cancelled().await
        }
        Ok(())
    };
    let keeping = async { Ok(side.run().await?) };
    tokio::try_join!(keeping, publishing).map(|_| ())
}
