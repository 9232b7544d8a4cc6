//! `command-handler` of the reference application: decides commands and appends their events. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_model::Reference;

fn main() -> ExitCode {
    command_handler::program::<Reference>(std::env::args_os(), std::env::vars_os())
}
