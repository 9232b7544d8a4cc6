//! The program of an application.

use std::{ffi::OsString, process::ExitCode};

use millstream_domain::application::Application;

/// The whole program of an application: every stage (`gym stage projector --config projector.toml`) and every command
/// (`gym up`, `gym report`), from the process's arguments and environment to its exit code.
pub fn main<A: Application>() -> ExitCode {
    millstream_cli::run::<A>(std::env::args_os(), std::env::vars_os(), run_stage::<A>)
}

fn run_stage<A: Application>(
    stage: &str,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
) -> Option<ExitCode> {
    let program = match stage {
        "command-handler" => command_handler::program::<A>,
        "projector" => projector::program::<A>,
        "reporter" => reporter::program::<A>,
        "sql" => sql_stage::program::<A>,
        "gateway" => gateway::program::<A>,
        "process-manager" => process_manager::program::<A>,
        _ => return None,
    };
    Some(program(arguments, environment))
}
