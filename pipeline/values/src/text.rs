//! Texts for people: whether a text has visible characters, and how it is shown without harm.
//!
//! Characters are judged by their Unicode properties. Deliberately absent: which languages or scripts are allowed.

use std::borrow::Cow;

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{BidiControl, DefaultIgnorableCodePoint, GeneralCategory, WhiteSpace},
};
use millstream_domain::decider::Rejection;

/// The blank pattern of Braille. Unicode counts it among the symbols, although nothing is printed for it.
const BRAILLE_BLANK: char = '\u{2800}';

/// Whether a character is visible: it is not white space, not a control or formatting character, and not one that Unicode tells programs to
/// ignore when they draw a text.
pub fn is_visible(character: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(character);
    let drawn = !matches!(
        category,
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::SpaceSeparator
            | GeneralCategory::Surrogate
            | GeneralCategory::Unassigned
    );
    drawn
        && character != BRAILLE_BLANK
        && !is_ignorable(character)
        && !CodePointSetData::new::<WhiteSpace>().contains(character)
}

/// Whether a text has no visible characters.
pub fn is_blank(text: &str) -> bool {
    !text.chars().any(is_visible)
}

/// Whether Unicode tells programs to draw nothing for a character that they do not support, such as U+200B or U+00AD.
pub(crate) fn is_ignorable(character: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
}

/// Whether a character can change how a terminal or a page shows its surroundings: control characters, line separators, and those that change
/// the direction of writing.
pub fn is_harmful(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}')
        || CodePointSetData::new::<BidiControl>().contains(character)
}

/// Checks that a whole text can be printed: it has no harmful characters, except those that `stays` allows. `code` is the rejection's code, and
/// `field` is the text's name in the body.
///
/// # Errors
/// A rejection with `code` that names the first such character.
pub fn check_printable(
    code: &'static str,
    field: &str,
    text: &str,
    stays: impl Fn(char) -> bool,
) -> Result<(), Rejection> {
    match text.chars().find(|character| is_harmful(*character) && !stays(*character)) {
        None => Ok(()),
        Some(harmful) => {
            let message =
                format!("{field} holds U+{:04X}, which cannot be printed; leave it out", u32::from(harmful));
            Err(Rejection::new(code, message))
        }
    }
}

/// The text with each control character written as a JSON escape (`\u001b`): those of ASCII and Latin 1, line separators, and those that change
/// the direction of writing. JSON keeps its value.
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// [`escape_controls`] for a text with several lines, in which line ends and tabs stay.
pub fn escape_controls_in_lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| matches!(character, '\n' | '\t'))
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let escaped = |character: char| is_harmful(character) && !stays(character);
    if !text.chars().any(escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if escaped(character) {
            // All of them are among the first 65,536 characters, so four digits are always enough.
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_of_invisible_characters_is_blank() {
        for text in
            ["", " ", "\t\n", "\u{200b}", "\u{2800}", "\u{00ad}", "\u{3164}", "\0", "\u{feff}\u{2060} "]
        {
            assert!(is_blank(text), "{text:?}");
        }
        for text in [
            "a",
            " \u{200b}.",
            "\u{e9}",
            "\u{5f20}\u{4f1f}",
            "\u{1f469}\u{200d}\u{1f680}",
            "\u{0644}\u{0627}",
        ] {
            assert!(!is_blank(text), "{text:?}");
        }
    }

    #[test]
    fn first_character_that_cannot_be_printed_is_named() {
        let lines = |character| matches!(character, '\n' | '\t');
        assert_eq!(check_printable("text-not-allowed", "the text", "a\n\tb", lines), Ok(()));
        let rejection = check_printable("text-not-allowed", "the text", "a\nb\u{202e}\0", lines).unwrap_err();
        assert_eq!(rejection.code, "text-not-allowed");
        assert_eq!(rejection.message, "the text holds U+202E, which cannot be printed; leave it out");
        assert!(check_printable("name-blank", "name", "a\nb", |_| false).is_err());
    }

    #[test]
    fn controls_are_shown_and_do_nothing() {
        assert_eq!(escape_controls("a\u{1b}[31mb\u{9b}c\u{202e}d\n"), "a\\u001b[31mb\\u009bc\\u202ed\\u000a");
        assert_eq!(escape_controls_in_lines("a\n\tb\r"), "a\n\tb\\u000d");
        let plain = "Zo\u{eb} O'Neill \u{5f20}\u{4f1f} \u{1f469}\u{200d}\u{1f680}";
        assert!(matches!(escape_controls(plain), Cow::Borrowed(same) if same == plain));
    }

    proptest! {
        #[test]
        fn nothing_that_is_shown_controls_anything(text in "\\PC*|.*") {
            let shown = escape_controls(&text);
            prop_assert!(!shown.chars().any(is_harmful));
        }

        #[test]
        fn escaped_json_is_the_same_value(text in any::<String>()) {
            let json = serde_json::Value::from(text).to_string();
            let shown = escape_controls_in_lines(&json);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap().to_string(), json);
        }
    }
}
