//! `projector` of the reference application: fills views and answers queries of them. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_model::Reference;

fn main() -> ExitCode {
    projector::program::<Reference>(std::env::args_os(), std::env::vars_os())
}
