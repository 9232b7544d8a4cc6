//! Durations and byte sizes as people write them: `3s`, `1m30s`, `250ms`, `64MiB`, `2GB`.

use std::time::Duration;

/// Why a text is not a duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// It is not a duration.
    #[error("`{text}` is not a duration; write a number and a unit (ms, s, m, h, d), for example \"3s\"")]
    Duration {
        /// What was written.
        text: String,
    },
    /// It is not a size.
    #[error(
        "`{text}` is not a size; write a number and a unit (B, KiB, MiB, GiB, kB, MB, GB), for example \"64MiB\""
    )]
    Bytes {
        /// What was written.
        text: String,
    },
}

/// The milliseconds of each unit, the longest first, which is the order in which [`format_duration`] uses them.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The bytes of each unit. The binary units come first, the largest first, for [`format_bytes`].
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Splits a leading whole number from the rest.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// Parses a duration: one or more numbers with units, or `0`.
///
/// # Errors
/// [`UnitError::Duration`] for anything else, including a number without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let failure = || UnitError::Duration { text: text.to_owned() };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut milliseconds: u64 = 0;
    loop {
        let (number, after) = leading_number(rest).ok_or_else(failure)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(failure)?;
        let part = number.checked_mul(*factor).ok_or_else(failure)?;
        milliseconds = milliseconds.checked_add(part).ok_or_else(failure)?;
        if next.is_empty() {
            return Ok(Duration::from_millis(milliseconds));
        }
        rest = next;
    }
}

/// Writes a duration so that [`parse_duration`] can read it. Fractions of a millisecond are left out.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS {
        let number = rest / factor;
        rest %= factor;
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Parses a size in bytes: a whole number and a unit, or a number of bytes alone.
///
/// # Errors
/// [`UnitError::Bytes`] for anything else.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let failure = || UnitError::Bytes { text: text.to_owned() };
    let (number, rest) = leading_number(text.trim()).ok_or_else(failure)?;
    let unit = match rest.trim_start() {
        "" => "B",
        unit => unit,
    };
    let (_, factor) =
        BYTE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(failure)?;
    number.checked_mul(*factor).ok_or_else(failure)
}

/// Writes a size in the largest binary unit that divides it, so that [`parse_bytes`] can read it.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    match BYTE_UNITS.iter().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "3", "s", "3 s", "3x", "-1s", "1.5s", "99999999999999999d", "3s "] {
            let parsed = parse_duration(bad);
            assert_eq!(parsed.is_ok(), bad == "3s ", "{bad:?}: {parsed:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("2 GB"), Ok(2_000_000_000));
        assert_eq!(parse_bytes("17"), Ok(17));
        assert_eq!(parse_bytes("5kb"), Ok(5_000));
        for bad in ["", "MiB", "-1MiB", "1.5GiB", "3 apples", "99999999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(number in any::<u64>()) {
            let duration = Duration::from_millis(number);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_bytes(&format_bytes(number)), Ok(number));
        }
    }
}
