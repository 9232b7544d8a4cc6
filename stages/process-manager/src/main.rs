//! `process-manager`. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_engine::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
};
use process_manager::config::StageConfig;

/// Small messages are many allocations: faster than the system's allocator (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IDENTITY: StageIdentity = StageIdentity {
    name: "process-manager",
    version: env!("CARGO_PKG_VERSION"),
    about: "Answers events with commands and timers, and sends commands that fall due",
};

fn main() -> ExitCode {
    let run = |config: Config<StageConfig>, runtime: StageRuntime| process_manager::run(config, runtime);
    run_stage(IDENTITY, std::env::args_os(), std::env::vars_os(), run)
}
