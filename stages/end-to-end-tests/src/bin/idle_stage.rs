//! The smallest stage: it has one key of its own, is ready once it runs, and is idle until it is asked to end. It shows what a stage's `main`
//! looks like, and tests/stage_runtime.rs starts it as a process.

use std::{convert::Infallible, process::ExitCode, time::Duration};

use millstream_runtime::{
    config::{Config, Section, SectionKeys},
    stage::{StageIdentity, StageRuntime, run_stage},
};

/// The settings that only this stage has.
struct IdleSection {
    /// How long it continues after it was asked to end.
    linger: Duration,
}

impl Section for IdleSection {
    const NAME: &'static str = "idle";
    const ABOUT: &'static str = "An example.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        Self {
            linger: keys.duration("linger", Duration::ZERO, "how long it goes on after it was asked to end"),
        }
    }
}

async fn run(config: Config<IdleSection>, runtime: StageRuntime) -> Result<(), Infallible> {
    runtime.readiness.condition("idle").holds();
    runtime.shutdown.requested().await;
    tokio::time::sleep(config.stage.linger).await;
    Ok(())
}

fn main() -> ExitCode {
    let identity =
        StageIdentity { name: "idle-stage", version: env!("CARGO_PKG_VERSION"), about: "Does nothing" };
    run_stage(identity, std::env::args_os(), std::env::vars_os(), run)
}
