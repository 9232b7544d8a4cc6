//! Whole numbers in the texts of a request: only digits, so that each number can be written in only one way.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

/// The number, if the text consists of digits without a sign or a leading zero, and the number is not too large.
pub(crate) fn whole_number<T: FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let one_way = digits && (text == "0" || !text.starts_with('0'));
    // A text without digits is not a number, either.
    if one_way { text.parse().ok() } else { None }
}

/// Reads an optional query parameter.
pub(crate) fn parameter<'de, D: Deserializer<'de>, T: FromStr + fmt::Display>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = whole_number(&text);
    number
        .map(Some)
        .ok_or_else(|| D::Error::custom(format_args!("{text:?} is no whole number that can be here")))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn a_number_is_written_in_one_way() {
        for (text, number) in [("0", 0), ("7", 7), ("70", 70), ("18446744073709551615", u64::MAX)] {
            assert_eq!(whole_number(text), Some(number), "{text}");
        }
        for text in ["", "00", "07", "+7", "-7", " 7", "7 ", "7.0", "7e1", "٧", "18446744073709551616"] {
            assert_eq!(whole_number::<u64>(text), None, "{text}");
        }
        assert_eq!(whole_number::<NonZeroU64>("0"), None);
    }
}
