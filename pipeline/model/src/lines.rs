//! How many lines an order, a sale, a return or a delivery has.

use millstream::decider::Rejection;

/// The most lines. Processes send a command for each at once, so that one order of a whole message would cost everybody tens of
/// thousands of commands.
pub const LINES_MAX: usize = 1_000;

/// Checks how many lines there are; `what` has them.
///
/// # Errors
/// `lines-empty` and `lines-too-many`.
pub(crate) fn check_line_count(what: &str, count: usize) -> Result<(), Rejection> {
    if count == 0 {
        return Err(Rejection::new("lines-empty", format!("{what} has no lines; give at least one")));
    }
    if count > LINES_MAX {
        let message = format!("{what} has {count} lines; at most {LINES_MAX} are allowed");
        return Err(Rejection::new("lines-too-many", message));
    }
    Ok(())
}
