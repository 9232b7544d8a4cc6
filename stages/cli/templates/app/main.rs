//! `{{app}}`: every stage and every command.

use std::process::ExitCode;

use {{app_module}}_model::{{App}};

fn main() -> ExitCode {
    millstream::main::<{{App}}>()
}
