//! `sql` of the reference application: keeps views and reports as tables. Arguments, environment and exit code only.

use std::process::ExitCode;

use millstream_model::Reference;

fn main() -> ExitCode {
    sql_stage::program::<Reference>(std::env::args_os(), std::env::vars_os())
}
