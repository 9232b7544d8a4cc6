//! Ids and names in command bodies: how a body may name a sku, a sale, a supplier or a person.
//!
//! Such an id follows the rules of an aggregate's own id, so that it can always become one, or the key of a row.

use millstream_contract::subject::check_id;
use millstream_domain::decider::Rejection;

use crate::text::{check_printable, is_blank, is_harmful};

/// The longest name or other line of text, in characters.
pub const NAME_LENGTH_MAX: usize = 500;

/// Checks an id in a body. `code` is the rejection's code (`sku-not-allowed`), `field` what the body calls it.
///
/// # Errors
/// A rejection with `code` that says what an id looks like.
pub fn check_reference(code: &'static str, field: &str, text: &str) -> Result<(), Rejection> {
    check_id(text).map_err(|error| Rejection::new(code, format!("{field}: {error}")))
}

/// The longest label, in characters: two ids and a separator.
pub const LABEL_LENGTH_MAX: usize = 300;

/// Checks a label: the name of a document or a promise that is not an aggregate, so its form is free. `code` is the rejection's code
/// (`reference-not-allowed`), and `field` is the field's name in the body.
///
/// # Errors
/// A rejection with `code` that says what a label looks like.
pub fn check_label(code: &'static str, field: &str, text: &str) -> Result<(), Rejection> {
    let length = text.chars().count();
    if is_blank(text) || length > LABEL_LENGTH_MAX || text.chars().any(is_harmful) {
        let message =
            format!("{field} {text:?} is not allowed: use 1 to {LABEL_LENGTH_MAX} printable characters");
        return Err(Rejection::new(code, message));
    }
    Ok(())
}

/// Checks a name: it has visible characters, all of it can be printed, and it is not too long.
///
/// # Errors
/// `name-blank` and `name-too-long`; both mention the `field`.
pub fn check_name(field: &str, text: &str) -> Result<(), Rejection> {
    if is_blank(text) {
        return Err(Rejection::new("name-blank", format!("{field} is blank; give a name")));
    }
    check_printable("name-blank", field, text, |_| false)?;
    if text.chars().count() > NAME_LENGTH_MAX {
        let message = format!("{field} is longer than {NAME_LENGTH_MAX} characters; shorten it");
        return Err(Rejection::new("name-too-long", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_follow_the_rules_of_aggregate_ids() {
        assert_eq!(check_reference("sku-not-allowed", "sku", "75087:a@b_c-D"), Ok(()));
        for text in ["", "a b", "a.b", "a/b", "ü", &"x".repeat(129)] {
            let rejection = check_reference("sku-not-allowed", "sku", text).unwrap_err();
            assert_eq!(rejection.code, "sku-not-allowed");
            assert!(rejection.message.starts_with("sku: "), "{rejection}");
        }
    }

    #[test]
    fn labels_are_free_but_printable_and_not_endless() {
        assert_eq!(check_label("reference-not-allowed", "reference", "sale 2506_2012-01-31/S-1"), Ok(()));
        for text in [
            "",
            " ",
            "a\nb",
            "a\0b",
            "a\u{1b}b",
            "a\u{2028}b",
            "a\u{202e}b",
            "\u{200b}",
            &"x".repeat(LABEL_LENGTH_MAX + 1),
        ] {
            let rejection = check_label("reference-not-allowed", "reference", text).unwrap_err();
            assert_eq!(rejection.code, "reference-not-allowed");
        }
    }

    #[test]
    fn names_are_neither_blank_nor_endless() {
        for text in ["", " \t", "\u{200b}", "\u{2800}", "\u{ad}", "\u{3164}", "\0"] {
            assert_eq!(check_name("name", text).unwrap_err().code, "name-blank", "{text:?}");
        }
        for text in ["a\0b", "a\u{1b}[31mred", "a\nb", "a\u{202e}b"] {
            assert_eq!(check_name("name", text).unwrap_err().code, "name-blank", "{text:?}");
        }
        assert_eq!(check_name("name", &"ü".repeat(501)).unwrap_err().code, "name-too-long");
        assert_eq!(check_name("name", &"ü".repeat(500)), Ok(()));
    }
}
