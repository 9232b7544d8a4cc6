//! The kits demand of every refusal that the aggregate declares its code for the command.

use crate::decider::{ANY_COMMAND, INTERNAL_COMMAND, PARTNER_REJECTIONS, Rejection};

/// Demands that `rejection` is declared, or is one of the engine's own. An unnamed command may get any declared code.
///
/// # Panics
/// When it is not.
pub(super) fn assert_declared(
    declared: &[(&'static str, &'static str)],
    aggregate: &str,
    command: Option<&str>,
    rejection: &Rejection,
) {
    if PARTNER_REJECTIONS.contains(&rejection.code) || rejection.code == INTERNAL_COMMAND {
        return;
    }
    let fits = |of: &str| of == ANY_COMMAND || command.is_none_or(|command| command == of);
    assert!(
        declared.iter().any(|(of, code)| *code == rejection.code && fits(of)),
        "{aggregate} refuses {} with {}, which its `rejections` do not declare: {rejection}",
        command.unwrap_or("a command"),
        rejection.code
    );
}
