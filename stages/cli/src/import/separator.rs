//! What stands between the columns of a text: as its first line says, or as its rows show.

use std::io::{self, BufRead as _, BufReader, Read};

use super::file_form::is_delimiter;

/// Rows that are looked at.
const SNIFFED_ROWS: usize = 100;
/// What may stand between columns; the first of those that fit equally well.
pub(super) const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// What stands between columns, where a text says it on its first line, as Excel does: `sep=;`.
pub(super) fn told_separator(text: &str) -> Option<u8> {
    let first = text.split(['\r', '\n']).next()?;
    let first = first.strip_prefix('"').and_then(|first| first.strip_suffix('"')).unwrap_or(first);
    let (name, sign) = first.split_once('=')?;
    match sign.as_bytes() {
        [sign] if name.eq_ignore_ascii_case("sep") && is_delimiter(*sign) => Some(*sign),
        _ => None,
    }
}

/// A text without its first line.
pub(super) fn behind_first_line(text: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut text = BufReader::new(text);
    let mut byte = [0];
    while text.read(&mut byte)? == 1 && !matches!(byte, [b'\r' | b'\n']) {}
    if byte == [b'\r'] && text.fill_buf()?.first() == Some(&b'\n') {
        text.consume(1);
    }
    Ok(Box::new(text))
}

/// What stands between the columns of a text: that by which all rows have the same number of fields, and most of them.
pub(super) fn delimiter(text: &str, is_cut: bool) -> u8 {
    let of = |delimiter: u8| {
        let reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .has_headers(false)
            .from_reader(text.as_bytes());
        let mut lengths: Vec<usize> = reader
            .into_byte_records()
            .take(SNIFFED_ROWS)
            .map_while(Result::ok)
            .map(|row| row.len())
            .collect();
        // The last row may be a part of one.
        if is_cut && lengths.len() > 1 && lengths.len() < SNIFFED_ROWS {
            lengths.pop();
        }
        let first = lengths.first().copied().unwrap_or_default();
        (first > 1 && lengths.iter().all(|length| *length == first), first)
    };
    let mut best = (b',', of(b','));
    for delimiter in DELIMITERS {
        let found = of(delimiter);
        if found > best.1 && found.1 > 1 {
            best = (delimiter, found);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_may_say_what_stands_between_columns() {
        for (text, told) in [
            ("sep=;\nsku;price\n", Some(b';')),
            ("SEP=,\r\nsku,price\r\n", Some(b',')),
            ("\"sep=;\"\rsku;price\r", Some(b';')),
            ("sep=\t\nsku\tprice\n", Some(b'\t')),
            ("sep=", None),
            ("sep=ab\n", None),
            ("sep=a\n", None),
            ("separator=;\n", None),
            ("sku;sep=;\n", None),
            ("sku\nsep=;\n", None),
            ("", None),
        ] {
            assert_eq!(told_separator(text), told, "{text:?}");
        }
    }

    #[test]
    fn the_rest_of_a_text_begins_behind_its_first_line_end() {
        for (text, rest) in [
            ("sep=;\na\n", "a\n"),
            ("sep=;\r\na\r\n", "a\r\n"),
            ("sep=;\ra\rb", "a\rb"),
            ("sep=;\n\na", "\na"),
            ("sep=;", ""),
            ("", ""),
        ] {
            let mut read = String::new();
            behind_first_line(Box::new(text.as_bytes())).unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, rest, "{text:?}");
        }
    }
}
