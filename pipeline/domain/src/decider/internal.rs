//! Commands that only processes and timers may give.

use millstream_contract::subject::{CommandAddress, Origin};

use super::Rejection;

/// The code with which the engine refuses such a command from anybody else, before any rule is asked. No decider declares this code.
pub const INTERNAL_COMMAND: &str = "internal-command";

/// Refuses a command of `internal`, the list in [`super::Decider::internal_commands`], unless it comes from a process or a timer.
///
/// # Errors
/// A rejection that names the command and says who may send it.
pub fn check_origin(
    internal: &[&'static str],
    address: &CommandAddress,
    origin: Origin,
) -> Result<(), Rejection> {
    let command = &*address.command;
    if origin == Origin::Effect || !internal.contains(&command) {
        return Ok(());
    }
    let (context, aggregate) = (address.stream_id.context(), address.stream_id.aggregate());
    let message =
        format!("only a process or a timer sends {command} to {context}.{aggregate}, nobody else may");
    Err(Rejection::new(INTERNAL_COMMAND, message))
}
