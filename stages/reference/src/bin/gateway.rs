//! `gateway` of the reference application: takes commands and answers queries over HTTP. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_model::Reference;

fn main() -> ExitCode {
    gateway::program::<Reference>(std::env::args_os(), std::env::vars_os())
}
