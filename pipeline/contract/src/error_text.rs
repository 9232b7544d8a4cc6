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

/// What a decoder says of a value of the wrong type or size, in the words of whoever typed the value; every other text as it is.
#[must_use]
pub fn plain_decoder_text(text: &str) -> Cow<'_, str> {
    let wrong = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    // What was typed comes first, and can hold anything.
    let Some((found, expected)) = wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) else {
        return Cow::Borrowed(text);
    };
    let (expected, place) = match expected.split_once(" at line ") {
        Some((expected, place)) => (expected, format!(" at line {place}")),
        None => (expected, String::new()),
    };
    Cow::Owned(format!("{} is expected, not {}{place}", expected_value(expected), found_value(found)))
}

fn expected_value(words: &str) -> &str {
    match words {
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number from 0 on",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        structure if structure.starts_with("struct ") => "an object",
        other => other,
    }
}

fn found_value(words: &str) -> String {
    let quoted = |kind: &str| words.strip_prefix(kind).map(|rest| rest.trim_matches('`'));
    match words {
        "map" => return "an object".to_owned(),
        "sequence" => return "a list".to_owned(),
        "unit value" => return "null".to_owned(),
        _ => {}
    }
    if let Some(number) = quoted("integer ").or_else(|| quoted("floating point ")) {
        return format!("the number {number}");
    }
    match (quoted("boolean "), words.strip_prefix("string ")) {
        (Some(value), _) => value.to_owned(),
        (_, Some(text)) => format!("the text {text}"),
        _ => words.to_owned(),
    }
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
    fn what_a_decoder_says_is_said_in_the_words_of_json() {
        for (said, plain) in [
            (
                "invalid type: map, expected a string at line 1 column 9",
                "a string is expected, not an object at line 1 column 9",
            ),
            (
                "invalid type: string \"a, expected b\", expected i64",
                "a whole number is expected, not the text \"a, expected b\"",
            ),
            (
                "invalid value: integer `-1`, expected u32",
                "a whole number from 0 on is expected, not the number -1",
            ),
            (
                "invalid type: floating point `1.5`, expected u64",
                "a whole number from 0 on is expected, not the number 1.5",
            ),
            ("invalid type: sequence, expected struct Sale", "an object is expected, not a list"),
            ("invalid type: boolean `true`, expected a sequence", "a list is expected, not true"),
            ("invalid type: null, expected f64", "a number is expected, not null"),
            ("missing field `sale`", "missing field `sale`"),
        ] {
            assert_eq!(plain_decoder_text(said), plain);
        }
    }

    #[test]
    fn causes_are_joined_in_one_line() {
        let error = Outer(std::io::Error::other("inner\n  cause"));
        assert_eq!(one_line(&error), "outer: inner cause");
    }
}
