//! The `millstream` command line.

use std::process::ExitCode;

use clap::Parser as _;
use millstream_cli::{Arguments, Environment};

/// Small messages are many allocations: faster than the system's allocator (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match Arguments::try_parse() {
        Ok(arguments) => millstream_cli::run(arguments, environment),
        Err(answer) => {
            // Help and version go to standard output; when nobody reads it, nothing is left to say.
            let _unread = answer.print();
            if answer.use_stderr() {
                ExitCode::from(millstream_engine::exit_code::ExitCode::Usage.number())
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}
