//! `gym`: every stage and every command.

use std::process::ExitCode;

use gym_model::Gym;

fn main() -> ExitCode {
    millstream::main::<Gym>()
}
