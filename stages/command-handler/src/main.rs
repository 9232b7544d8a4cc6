//! `command-handler`: decides commands and appends their events. Arguments, environment and exit code only.

use std::process::ExitCode;

use command_handler::config::StageConfig;
use millstream_engine::{
    config::Config,
    stage::{StageIdentity, StageRuntime, run_stage},
};

/// Small messages are many allocations: faster than the system's allocator (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IDENTITY: StageIdentity = StageIdentity {
    name: "command-handler",
    version: env!("CARGO_PKG_VERSION"),
    about: "Decides commands from COMMANDS and appends their events to EVENTS",
};

fn main() -> ExitCode {
    let run = |config: Config<StageConfig>, runtime: StageRuntime| command_handler::run(config, runtime);
    run_stage(IDENTITY, std::env::args_os(), std::env::vars_os(), run)
}
