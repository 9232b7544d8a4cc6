//! Cursors: where the next page of a list begins. For clients, a cursor is an opaque text. It contains a version digit and the last key in
//! hexadecimal, and none of the server's state, so it stays valid when rows come and go, and after a restart.

use millstream_contract::commit::hexadecimal;

use super::QueryError;

const VERSION: char = '1';

pub(super) fn encode(last_key: &str) -> String {
    format!("{VERSION}{}", hexadecimal(last_key.as_bytes()))
}

pub(super) fn decode(cursor: &str) -> Result<String, QueryError> {
    let malformed = || QueryError::Malformed("cursor: not one that an answer has given".to_owned());
    let digits = cursor.strip_prefix(VERSION).ok_or_else(malformed)?;
    let digits: Option<Vec<u8>> =
        digits.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or_else(malformed)?;
    let (pairs, _) = digits.as_chunks::<2>();
    String::from_utf8(pairs.iter().map(|[high, low]| high << 4 | low).collect()).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_key_comes_back(key in ".*") {
            prop_assert_eq!(decode(&encode(&key)).unwrap(), key);
        }

        #[test]
        fn any_other_text_is_refused_by_name(text in "[^1].*|1.*[g-z].*") {
            prop_assert!(decode(&text).unwrap_err().to_string().starts_with("cursor"));
        }
    }

    #[test]
    fn half_a_byte_and_broken_characters_are_refused() {
        for text in ["", "1a", "1ff"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
