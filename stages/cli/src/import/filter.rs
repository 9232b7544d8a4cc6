//! What a map does to the text of a column: `{column|filter|filter}`.
//!
//! Deliberately absent: an expression language, and arithmetic. ADR 64 says why.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    date_form::DateForm,
    key::key,
    number::{Around, Number, NumberForm, without_sign},
    text::{Columns, Row, RowError, TEXT_BYTES_MAX, TextError, shortened},
};
use jiff::{
    Timestamp,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone},
};

/// Years before this one come from years of two digits, which were read as years of the first century.
const YEAR_MIN: i16 = 1000;
/// Longest number that is filled up with zeros.
const PAD_MAX: usize = 40;

/// All of them, for messages.
pub(super) const NAMES: &str = "slug, lower, upper, abs, date:<format>, time:<format>, day, replace:<this>:<that>, before:<text>, after:<text>, pad:<length>, \
     table:<name>, default:<text>";

/// A table of a map, from what a file says to what a command says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) entries: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    Slug,
    Lower,
    Upper,
    /// A number without its sign.
    Abs(NumberForm),
    Date(DateForm),
    /// An instant, of a time in this zone unless it tells its own.
    Time(DateForm, TimeZone),
    /// The day on which an instant falls in this zone.
    Day(TimeZone),
    Replace(String, String),
    Before(String),
    After(String),
    /// With zeros before it.
    Pad(usize),
    Table(Arc<Table>),
    /// Where there is nothing.
    Default(String),
}

impl Filter {
    /// Reads one as it stands in `text`.
    pub(super) fn parse(text: &str, filter: &str, columns: &Columns) -> Result<Self, TextError> {
        let (name, rest) = filter.split_once(':').unwrap_or((filter, ""));
        let has_rest = filter.contains(':');
        let format = rest.trim();
        let unknown = || TextError::Filter { text: text.to_owned(), filter: filter.to_owned() };
        Ok(match (name.trim(), has_rest) {
            ("slug", false) => Self::Slug,
            ("lower", false) => Self::Lower,
            ("upper", false) => Self::Upper,
            ("abs", false) => Self::Abs(columns.numbers),
            ("day", false) => Self::Day(columns.zone(text, filter)?),
            ("date", _) => match DateForm::new(format) {
                form if form.reads_dates() => Self::Date(form),
                _ => return Err(TextError::Date { text: text.to_owned(), format: format.to_owned() }),
            },
            ("time", _) => match DateForm::new(format) {
                form if form.names_zone() || !form.reads_times() => {
                    return Err(TextError::Time { text: text.to_owned(), format: format.to_owned() });
                }
                form if form.tells_offset() => Self::Time(form, TimeZone::UTC),
                form => Self::Time(form, columns.zone(text, filter)?),
            },
            ("replace", true) => match &*arguments(rest) {
                [this, that] if !this.is_empty() => Self::Replace(this.clone(), that.clone()),
                _ => return Err(unknown()),
            },
            ("before", true) if !rest.is_empty() => Self::Before(one_argument(rest).ok_or_else(unknown)?),
            ("after", true) if !rest.is_empty() => Self::After(one_argument(rest).ok_or_else(unknown)?),
            ("pad", true) => match rest.trim().parse() {
                Ok(length) if length <= PAD_MAX => Self::Pad(length),
                _ => return Err(unknown()),
            },
            ("table", true) => Self::Table(columns.table(text, rest.trim())?),
            ("default", true) => Self::Default(one_argument(rest).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        })
    }

    /// Whether it may make one text of different ones that people mean to be two.
    pub(super) fn may_join(&self) -> bool {
        match self {
            Self::Slug
            | Self::Abs(_)
            | Self::Day(_)
            | Self::Replace(..)
            | Self::Before(_)
            | Self::After(_)
            | Self::Pad(_)
            | Self::Table(_)
            | Self::Default(_)
            | Self::Lower
            | Self::Upper => true,
            // The date of a time drops the time, so that two times of one day become one text.
            Self::Date(form) => form.reads_times(),
            Self::Time(..) => false,
        }
    }

    /// What becomes of a text. `of` is what a message about it begins with, such as "column price".
    pub(super) fn apply(
        &self,
        before: Result<String, RowError>,
        of: &str,
        row: &Row<'_>,
    ) -> Result<String, RowError> {
        if let Self::Default(text) = self {
            return match before {
                Err(RowError::Empty { .. } | RowError::NotInTable { .. }) => Ok(text.clone()),
                other => other,
            };
        }
        let text = before?;
        let wrong = |wanted: String| RowError::Form { of: of.to_owned(), text: shortened(&text), wanted };
        let made = match self {
            Self::Slug => key(&text, of, row)?,
            Self::Lower => text.to_lowercase(),
            Self::Upper => text.to_uppercase(),
            Self::Abs(form) => match Number::read(&text, *form, Around::AnyCurrency) {
                Some(_) => without_sign(&text),
                None => return Err(wrong("a number".to_owned())),
            },
            Self::Date(form) => read_date(&text, form).map_err(wrong)?,
            Self::Time(form, zone) => read_time(&text, form, zone).map_err(wrong)?,
            Self::Day(zone) => match text.parse::<Timestamp>() {
                Ok(instant) => instant.to_zoned(zone.clone()).date().to_string(),
                Err(_) => return Err(wrong("an instant; write time:<format> before day".to_owned())),
            },
            Self::Replace(this, that) if text.matches(this).count() * that.len() > TEXT_BYTES_MAX => {
                return Err(RowError::Long { of: of.to_owned() });
            }
            Self::Replace(this, that) => text.replace(this, that).trim().to_owned(),
            Self::Before(mark) => {
                text.split_once(mark.as_str()).map_or(&*text, |(before, _)| before).trim().to_owned()
            }
            Self::After(mark) => {
                text.split_once(mark.as_str()).map_or("", |(_, after)| after).trim().to_owned()
            }
            Self::Pad(length) => format!("{text:0>length$}"),
            Self::Table(table) => match table.entries.get(&text) {
                Some(found) => found.clone(),
                None => {
                    let (of, text, table) = (of.to_owned(), shortened(&text), table.name.clone());
                    return Err(RowError::NotInTable { of, text, table });
                }
            },
            Self::Default(_) => text,
        };
        if made.is_empty() { Err(RowError::Empty { of: of.to_owned() }) } else { Ok(made) }
    }
}

/// What stands between colons; a part in single quotes may hold colons itself.
fn arguments(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut is_quoted) = (Vec::new(), String::new(), false);
    for sign in text.chars() {
        match sign {
            '\'' => is_quoted = !is_quoted,
            ':' if !is_quoted => parts.push(std::mem::take(&mut part)),
            _ => part.push(sign),
        }
    }
    parts.push(part);
    parts
}

fn one_argument(text: &str) -> Option<String> {
    let mut all = arguments(text);
    if all.len() == 1 { all.pop() } else { None }
}

fn read_date(text: &str, form: &DateForm) -> Result<String, String> {
    let wrong = || format!("a date as in {}", form.shown());
    let date: Date = form.parse(text).and_then(|parsed| parsed.to_date()).map_err(|_| wrong())?;
    if !form.has_its_digits(text) {
        return Err(format!("{}, with all its digits", wrong()));
    }
    if date.year() < YEAR_MIN {
        return Err(format!("a date with a year of four digits, as in {}", form.shown()));
    }
    Ok(date.to_string())
}

fn read_time(text: &str, form: &DateForm, zone: &TimeZone) -> Result<String, String> {
    let wrong = || format!("a time as in {}", form.shown());
    let short = || format!("a time with a year of four digits, as in {}", form.shown());
    let checked = |instant: Timestamp| {
        let year = instant.to_zoned(TimeZone::UTC).year();
        if year < YEAR_MIN { Err(short()) } else { Ok(instant.to_string()) }
    };
    let unread = || match form.leaves_an_offset(text) {
        true => format!("{}; %z at the end of the format reads the offset that it tells", wrong()),
        false => wrong(),
    };
    let parsed = form.parse(text);
    // What tells its offset needs no zone.
    let told = match &parsed {
        Ok(parsed) => parsed.to_timestamp().ok(),
        Err(_) => Some(form.parse_with_offset(text).ok_or_else(unread)?),
    };
    if !form.has_its_digits(text) {
        return Err(format!("{}, with all its digits", wrong()));
    }
    if let Some(instant) = told {
        return checked(instant);
    }
    let local = parsed.and_then(|parsed| parsed.to_datetime()).map_err(|_| wrong())?;
    if local.year() < YEAR_MIN {
        return Err(short());
    }
    let ambiguous = zone.to_ambiguous_timestamp(local);
    if let AmbiguousOffset::Gap { .. } = ambiguous.offset() {
        let zone = zone.iana_name().unwrap_or("its zone");
        return Err(format!("a time that there was in {zone}, where the clocks were put forward"));
    }
    // An hour that comes twice is the first of the two.
    ambiguous.compatible().map(|instant| instant.to_string()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests;
