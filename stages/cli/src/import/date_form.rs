//! How a map says that dates and times are written, and whether a text is written so. What reads dates takes one digit for two, so that `10226`
//! would be the 22nd of October of 2006 by `%m%d%y`, and not the second of January of 2026 that it was before a spreadsheet took its first zero away.

use jiff::{
    Timestamp,
    civil::DateTime,
    fmt::strtime,
    tz::{Offset, TimeZone},
};

/// What stands for several others.
const SHORT_FORMS: [(&str, &str); 5] =
    [("%T", "%H:%M:%S"), ("%R", "%H:%M"), ("%D", "%m/%d/%y"), ("%F", "%Y-%m-%d"), ("%z", "+")];
/// What stands for an offset from UTC at the end of a format. Each reads all three ways of writing one.
const OFFSETS: [&str; 2] = ["%:z", "%z"];
/// What stands in UTC at the end of a time.
const UTC_SIGNS: [&str; 3] = ["Z", "UTC", "GMT"];

/// A format, looked at once for all rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DateForm {
    format: String,
    /// For each number: how many digits it has, or none if they may be fewer.
    digits: Vec<Option<usize>>,
    /// The format without the offset at its end, if it ends with one.
    before_offset: Option<String>,
}

/// A moment as an example of a format.
fn example() -> DateTime {
    jiff::civil::datetime(2012, 1, 31, 18, 30, 5, 0)
}

impl DateForm {
    pub(super) fn new(format: &str) -> Self {
        let numbers = numbers_of(format).into_iter().map(|(widths, has_short_year)| {
            let may_be_shorter = widths.len() < 2 && !has_short_year;
            (!may_be_shorter).then(|| widths.iter().sum())
        });
        let before = OFFSETS.into_iter().find_map(|offset| format.strip_suffix(offset));
        let before_offset =
            before.filter(|before| !before.ends_with('%')).map(|before| before.trim_end().to_owned());
        Self { format: format.to_owned(), digits: numbers.collect(), before_offset }
    }

    /// Reads a text.
    pub(super) fn parse(&self, text: &str) -> Result<strtime::BrokenDownTime, jiff::Error> {
        strtime::parse(&self.format, text)
    }

    /// Reads a time whose offset stands at its end in another way than the format has it, such as `Z`.
    pub(super) fn parse_with_offset(&self, text: &str) -> Option<Timestamp> {
        let (local, offset) = split_offset(text)?;
        let parsed = strtime::parse(self.before_offset.as_ref()?, local).ok()?;
        offset.to_timestamp(parsed.to_datetime().ok()?).ok()
    }

    /// Whether a text tells an offset behind what the format reads.
    pub(super) fn leaves_an_offset(&self, text: &str) -> bool {
        split_offset(text)
            .is_some_and(|(local, _)| self.parse(local).is_ok_and(|parsed| parsed.to_datetime().is_ok()))
    }

    /// Whether numbers that stand side by side have all their digits, and a year of two digits both of them.
    pub(super) fn has_its_digits(&self, text: &str) -> bool {
        let mut found = text.split(|sign: char| !sign.is_ascii_digit()).filter(|digits| !digits.is_empty());
        self.digits.iter().all(|wanted| {
            let length = found.next().map_or(0, str::len);
            wanted.is_none_or(|wanted| length == wanted)
        })
    }

    /// The example, and the format beside it.
    pub(super) fn shown(&self) -> String {
        let format = &self.format;
        in_format(format).map_or_else(|_| format.clone(), |text| format!("{text} ({format})"))
    }

    /// Whether it tells one day.
    pub(super) fn reads_dates(&self) -> bool {
        let read =
            in_format(&self.format).and_then(|text| self.parse(&text)).and_then(|parsed| parsed.to_date());
        read.is_ok_and(|read| read == example().date())
    }

    /// Whether it tells one minute of one day at least.
    pub(super) fn reads_times(&self) -> bool {
        let read = in_format(&self.format)
            .and_then(|text| self.parse(&text))
            .and_then(|parsed| parsed.to_datetime());
        read.is_ok_and(|read| (read.date(), read.hour(), read.minute()) == (example().date(), 18, 30))
    }

    /// Whether it reads the name of a zone, which would be read and not heeded.
    pub(super) fn names_zone(&self) -> bool {
        let format = self.format.replace("%%", "");
        format.contains("%Q") || format.contains("%:Q")
    }

    /// Whether it tells where the time is, too: by an offset, or by a sign of UTC at its end, which is read as letters.
    pub(super) fn tells_offset(&self) -> bool {
        let read = in_format(&self.format).and_then(|text| self.parse(&text));
        self.reads_times() && (self.is_in_utc() || read.is_ok_and(|parsed| parsed.to_timestamp().is_ok()))
    }

    fn is_in_utc(&self) -> bool {
        let before = UTC_SIGNS.into_iter().find_map(|sign| self.format.strip_suffix(sign));
        // Behind other letters it is the end of a word, and behind % a part of what that stands for.
        before.is_some_and(|before| {
            let Some(letter) = before.chars().next_back().filter(|sign| sign.is_alphabetic()) else {
                return !before.ends_with('%');
            };
            let flags = |sign: char| "-_^#:.".contains(sign) || sign.is_ascii_digit();
            before.strip_suffix(letter).is_some_and(|rest| rest.trim_end_matches(flags).ends_with('%'))
        })
    }
}

/// The example in a format.
fn in_format(format: &str) -> Result<String, jiff::Error> {
    strtime::format(format, &example().to_zoned(TimeZone::UTC)?)
}

/// A text without the offset at its end, and that.
fn split_offset(text: &str) -> Option<(&str, Offset)> {
    if let Some(local) = text.strip_suffix('Z') {
        return Some((local.trim_end(), Offset::UTC));
    }
    let at = text.rfind(['+', '-'])?;
    let (local, offset) = text.split_at_checked(at)?;
    let parsed = strtime::parse("%:z", offset).or_else(|_| strtime::parse("%z", offset)).ok()?;
    Some((local.trim_end(), parsed.offset()?))
}

/// The numbers of a format: how long each part is of those that nothing separates, and whether a year of two digits is among them.
fn numbers_of(format: &str) -> Vec<(Vec<usize>, bool)> {
    let mut format = format.replace("%%", "");
    for (short, long) in SHORT_FORMS {
        format = format.replace(short, long);
    }
    let (mut all, mut one) = (Vec::new(), (Vec::new(), false));
    let mut signs = format.chars();
    while let Some(sign) = signs.next() {
        let letter = match sign {
            '%' => signs.by_ref().find(char::is_ascii_alphabetic),
            _ => None,
        };
        match letter {
            Some('Y' | 'G') => one.0.push(4),
            Some('j') => one.0.push(3),
            Some('m' | 'd' | 'e' | 'H' | 'k' | 'I' | 'l' | 'M' | 'S' | 'C' | 'U' | 'W' | 'V') => {
                one.0.push(2)
            }
            Some('y' | 'g') => {
                one.0.push(2);
                one.1 = true;
            }
            _ if one.0.is_empty() => {}
            _ => all.push(std::mem::take(&mut one)),
        }
    }
    if !one.0.is_empty() {
        all.push(one);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_may_be_left_out_only_where_a_sign_tells_the_numbers_apart() {
        for (format, right, wrong) in [
            ("%m%d%y", "010226", "10226"),
            ("%Y%m%d", "20260131", "2026131"),
            ("%Y%m%d%H%M", "202601021300", "20260102130"),
            ("%d.%m.%y", "1.2.26", "1.2.6"),
            ("%D", "1/2/26", "1/2/6"),
            ("%Y%m%d %H:%M", "20260131 9:05", "2026131 9:05"),
            ("%H:%M %d%m%y", "9:05 310126", "9:05 31126"),
            ("%d%b%y", "1Jan26", "1Jan6"),
        ] {
            let form = DateForm::new(format);
            assert!(form.has_its_digits(right), "{right} {format}");
            assert!(!form.has_its_digits(wrong), "{wrong} {format}");
        }
        for (format, text) in [
            ("%m/%d/%Y", "1/2/2026"),
            ("%Y-%m-%dT%H:%M:%S%z", "2026-1-2T9:5:7+0100"),
            ("%F %T", "2026-1-2 9:05:07"),
            ("%Y-%m-%d %H:%M:%S%.f", "2026-01-02 10:00:00.5"),
            ("%d %B %Y", "1 January 2026"),
        ] {
            assert!(DateForm::new(format).has_its_digits(text), "{text} {format}");
        }
    }

    /// The letter was read as a letter, and the time as one of the zone of the map.
    #[test]
    fn a_sign_of_utc_at_the_end_of_a_format_tells_where_the_time_is() {
        for format in [
            "%Y-%m-%dT%H:%M:%SZ",
            "%Y-%m-%dT%H:%M:%-SZ",
            "%Y-%m-%dT%H:%M:%S%.3fZ",
            "%F %T UTC",
            "%F %T GMT",
            "%F %T %z",
            "%F %T%:z",
        ] {
            assert!(DateForm::new(format).tells_offset(), "{format}");
        }
        for format in ["%F %T", "%F %T%%Z", "%F %T SEZ"] {
            assert!(!DateForm::new(format).tells_offset(), "{format}");
        }
    }
}
