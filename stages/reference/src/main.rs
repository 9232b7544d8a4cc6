//! `millstream`: the whole program of the reference application, every stage and every command.

use std::process::ExitCode;

use millstream_model::Reference;

fn main() -> ExitCode {
    millstream::main::<Reference>()
}
