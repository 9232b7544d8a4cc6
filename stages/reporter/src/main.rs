//! `reporter`. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_engine::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
};
use reporter::config::StageConfig;

/// Small messages are many allocations: faster than the system's allocator (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IDENTITY: StageIdentity = StageIdentity {
    name: "reporter",
    version: env!("CARGO_PKG_VERSION"),
    about: "Keeps daily reports as a ledger, publishes their revisions and answers queries of them",
};

fn main() -> ExitCode {
    let run = |config: Config<StageConfig>, runtime: StageRuntime| reporter::run(config, runtime);
    run_stage(IDENTITY, std::env::args_os(), std::env::vars_os(), run)
}
