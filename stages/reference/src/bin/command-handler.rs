//! `command-handler` of the reference application: decides commands and appends their events. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_model::Reference;

/// Small messages are many allocations: faster than the system's allocator (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    command_handler::program::<Reference>(std::env::args_os(), std::env::vars_os())
}
