//! `process-manager` of the reference application: answers events with commands and timers. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_model::Reference;

fn main() -> ExitCode {
    process_manager::program::<Reference>(std::env::args_os(), std::env::vars_os())
}
