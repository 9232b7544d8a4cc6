//! The `millstream` command line.

use std::process::ExitCode;

use clap::Parser as _;
use millstream_cli::{Arguments, Environment};

fn main() -> ExitCode {
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    millstream_cli::run(Arguments::parse(), environment)
}
