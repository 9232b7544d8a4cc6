//! Errors and panics in words, for log lines, dead letters and the last line of a process.

use std::{any::Any, borrow::Cow};

/// The error and its causes in one line. A cause whose text already occurs in an earlier message is left out.
#[must_use]
pub fn one_line(error: &dyn std::error::Error) -> String {
    let words_of = |error: &dyn std::error::Error| plain_decoder_text(&error.to_string()).into_owned();
    let mut text = words_of(error);
    let mut cause = error.source();
    while let Some(current) = cause {
        let words = words_of(current);
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = current.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The longest text in an outcome, a dead letter or an answer, in bytes: enough for a sentence with a name in it, and small enough that a
/// thousand of them fit into a record.
pub const TEXT_MAX: usize = 1000;

/// `text`, cut to [`TEXT_MAX`] bytes, because it may contain what a client typed. If it is cut, the result says how long it was.
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

/// Rewrites the message of a JSON or TOML decoder about a wrong type or size into words that the author of the value understands. Other
/// texts stay as they are.
#[must_use]
pub fn plain_decoder_text(text: &str) -> Cow<'_, str> {
    if let Some((place, said)) = toml_parts(text) {
        return Cow::Owned(format!("{place}: {}", plain_decoder_text(&said)));
    }
    if let Some(rest) = text.strip_prefix("unknown variant ") {
        return Cow::Owned(format!("unknown value {rest}"));
    }
    if let Some(rest) = text.strip_prefix("data did not match any variant of untagged enum ") {
        let (_, place) = expected_and_place(rest);
        return Cow::Owned(format!("a value of another form is expected{place}"));
    }
    for too_deep in ["recursion limit exceeded", "depth limit exceeded"] {
        if let Some(place) = text.strip_prefix(too_deep) {
            return Cow::Owned(format!("lists and objects are nested too deep{place}"));
        }
    }
    let wrong = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    let counted = text.strip_prefix("invalid length ");
    // The typed value comes first and can contain anything, so the text is split at its last separator.
    let Some((found, expected)) = wrong.or(counted).and_then(|wrong| wrong.rsplit_once(", expected ")) else {
        return Cow::Borrowed(text);
    };
    let (expected, place) = expected_and_place(expected);
    let found = if counted.is_some() { format!("{found} of them") } else { found_value(found) };
    Cow::Owned(format!("{} is expected, not {found}{place}", expected_value(expected)))
}

/// The message of the TOML decoder: its first line has the place, its last lines say what is wrong, and the lines between show the file.
fn toml_parts(text: &str) -> Option<(&str, String)> {
    let (place, rest) = text.strip_prefix("TOML parse error at ")?.split_once('\n')?;
    let shown = |line: &&str| {
        line.trim_start_matches([' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']).starts_with('|')
    };
    let said: Vec<&str> = rest.lines().filter(|line| !shown(line)).map(str::trim).collect();
    Some((place, said.join(" ").trim().to_owned()))
}

fn expected_and_place(text: &str) -> (&str, String) {
    match text.split_once(" at line ") {
        Some((expected, place)) => (expected, format!(" at line {place}")),
        None => (text, String::new()),
    }
}

fn expected_value(words: &str) -> &str {
    // `a nonzero u32`, `an Option<u32>` and the like.
    if let Some(number) = words.strip_prefix("a nonzero ") {
        return if number.starts_with('i') {
            "a whole number other than 0"
        } else {
            "a whole number from 1 on"
        };
    }
    match words {
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number from 0 on",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        "a boolean" | "bool" => "true or false",
        "a string" | "a borrowed string" | "string" | "str" | "string or table" => "a text",
        "a character" | "char" => "a text of one character",
        "unit" => "null",
        "variant identifier" | "string only" => "one of its values",
        structure if has_prefix(structure, &["struct ", "a struct"]) => "an object",
        tuple if has_prefix(tuple, &["tuple struct ", "tuple variant ", "a tuple of ", "an array of "]) => {
            "a list of another length"
        }
        enumeration
            if has_prefix(enumeration, &["enum ", "internally tagged enum ", "adjacently tagged enum "]) =>
        {
            "one of its values"
        }
        other => other,
    }
}

fn has_prefix(text: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| text.starts_with(prefix))
}

fn found_value(words: &str) -> String {
    let quoted = |kind: &str| words.strip_prefix(kind).map(|rest| rest.trim_matches('`'));
    match words {
        "map" => return "an object".to_owned(),
        "sequence" => return "a list".to_owned(),
        "unit value" | "Option value" => return "null".to_owned(),
        "byte array" => return "bytes".to_owned(),
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
                "a text is expected, not an object at line 1 column 9",
            ),
            (
                "TOML parse error at line 2, column 8\n  |\n2 | once = 3\n  |        ^\ninvalid type: integer `3`, expected a boolean\n",
                "line 2, column 8: true or false is expected, not the number 3",
            ),
            (
                "invalid value: integer `0`, expected a nonzero usize",
                "a whole number from 1 on is expected, not the number 0",
            ),
            (
                "unknown variant `dog`, expected `cat` or `mouse`",
                "unknown value `dog`, expected `cat` or `mouse`",
            ),
            (
                "invalid type: string \"x\", expected tuple struct Pair",
                "a list of another length is expected, not the text \"x\"",
            ),
            (
                "invalid type: map, expected enum Kind at line 1 column 2",
                "one of its values is expected, not an object at line 1 column 2",
            ),
            ("data did not match any variant of untagged enum Grant", "a value of another form is expected"),
            (
                "invalid length 3, expected a tuple of size 2",
                "a list of another length is expected, not 3 of them",
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
            (
                "recursion limit exceeded at line 1 column 128",
                "lists and objects are nested too deep at line 1 column 128",
            ),
            ("depth limit exceeded", "lists and objects are nested too deep"),
        ] {
            assert_eq!(plain_decoder_text(said), plain);
        }
    }

    /// People read "expected usize" and "expected struct RawMapping" of a decoder that somebody had wrapped.
    #[test]
    fn what_a_decoder_says_as_a_cause_is_said_so_too() {
        #[derive(Debug, thiserror::Error)]
        #[error("x.toml is no map")]
        struct Wrapped(#[source] std::io::Error);
        let said = "TOML parse error at line 1, column 1\n  |\n1 | a = 1\n  | ^\ninvalid type: map, expected a sequence\n";
        let error = Wrapped(std::io::Error::other(said));
        assert_eq!(one_line(&error), "x.toml is no map: line 1, column 1: a list is expected, not an object");
    }

    #[test]
    fn causes_are_joined_in_one_line() {
        let error = Outer(std::io::Error::other("inner\n  cause"));
        assert_eq!(one_line(&error), "outer: inner cause");
    }
}
