//! Letters that can be written in two ways: as one sign, or as a letter with a mark behind it, as some systems write the names of files. Both
//! look the same, and mean the same. What an import reads, and the map, are taken in the first way, which Unicode calls NFC, so that a name is one
//! name whoever has written it.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// A text in one way of writing.
pub(super) fn composed(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc(text) { Cow::Borrowed(text) } else { Cow::Owned(text.nfc().collect()) }
}

/// The fields of a row, or the names of columns.
pub(super) fn composed_fields(record: csv::StringRecord) -> csv::StringRecord {
    // Of all fields at once: this is asked for each row.
    if record.as_slice().is_ascii() || record.iter().all(is_nfc) {
        return record;
    }
    record.iter().map(composed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_however_its_letters_are_written() {
        for (text, composed_text) in [
            ("Ka\u{308}nnchen", "K\u{e4}nnchen"),
            ("\u{1100}\u{1161}", "\u{ac00}"),
            ("K\u{e4}nnchen", "K\u{e4}nnchen"),
            ("q\u{308}", "q\u{308}"),
            ("tea", "tea"),
        ] {
            assert_eq!(composed(text), composed_text);
            let record = csv::StringRecord::from(vec!["a", text, ""]);
            assert_eq!(composed_fields(record), csv::StringRecord::from(vec!["a", composed_text, ""]));
        }
    }
}
