//! Errors and panics in words, for log lines, dead letters and the last line of a process.

use std::any::Any;

/// The error and its causes in one line, without those that a message before already contains.
#[must_use]
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let words = current.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = current.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_joined_in_one_line() {
        let error = Outer(std::io::Error::other("inner\n  cause"));
        assert_eq!(one_line(&error), "outer: inner cause");
    }
}
