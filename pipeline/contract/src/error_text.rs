//! Errors and panics in words, for log lines, dead letters and the last line of a process.

use std::{any::Any, borrow::Cow};

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

/// Longest text that an outcome, a dead letter or an answer tells, in bytes: enough for a sentence with a name in it, and so
/// little that a thousand of them fit into a record.
pub const TEXT_MAX: usize = 1000;

/// `text`, cut to [`TEXT_MAX`] bytes; what is cut says how long it was. What a client typed can stand in it.
#[must_use]
pub fn bounded(text: &str) -> Cow<'_, str> {
    cut(text, TEXT_MAX)
}

/// `text`, cut to about `max` bytes.
#[must_use]
pub fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let note = format!(" … ({} bytes in all)", text.len());
    let end = text.floor_char_boundary(max.saturating_sub(note.len()));
    Cow::Owned(format!("{}{note}", text.get(..end).unwrap_or_default()))
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
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(bounded("short"), "short");
        let cut = bounded(&"é\u{7f}".repeat(100_000)).into_owned();
        assert!(cut.len() <= TEXT_MAX && cut.ends_with("(300000 bytes in all)"), "{cut}");
    }

    #[test]
    fn causes_are_joined_in_one_line() {
        let error = Outer(std::io::Error::other("inner\n  cause"));
        assert_eq!(one_line(&error), "outer: inner cause");
    }
}
