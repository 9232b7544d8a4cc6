//! Ties a child process to its supervisor: if the supervisor ends, even by `kill -9`, so does the child.
//!
//! The child starts as `millstream tethered <pid of the supervisor> <program> <arguments>`, asks the kernel for a SIGKILL when its parent ends,
//! and becomes the program, in the same process with the same id. This works on Linux only; elsewhere it just becomes the program, and a killed
//! supervisor leaves its children behind.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt as _, parent_id},
    path::PathBuf,
    process::Command,
};

/// Name of the hidden subcommand.
pub(crate) const TETHERED: &str = "tethered";

/// What the hidden subcommand takes.
#[derive(Debug, clap::Args)]
pub(crate) struct TetherArguments {
    /// The supervisor.
    supervisor: u32,
    /// What to become.
    program: PathBuf,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the program. Returns only if that fails, or if the supervisor has already ended.
pub(crate) fn become_tethered(arguments: &TetherArguments) -> io::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL) {
        return error.into();
    }
    // The supervisor may have ended before the kernel was asked.
    if parent_id() != arguments.supervisor {
        return io::Error::other("the supervisor is gone");
    }
    Command::new(&arguments.program).args(&arguments.arguments).exec()
}
