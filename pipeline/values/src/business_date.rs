//! Business dates: civil days as the business counts them. A command without a date gets the date on which it was stored, in the time zone of
//! the business ([`BusinessDate::today`]). If a business day ends after midnight, commands must name it.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use millstream_domain::{
    decider::{DecisionContext, Rejection},
    report::SmolStr,
    schemars::{JsonSchema, Schema, SchemaGenerator, json_schema},
};
use serde::{Deserialize, Serialize};

/// A business date. Its text form is always `YYYY-MM-DD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BusinessDate(Date);

/// A text that is not a date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a date; write it as YYYY-MM-DD, as in 2012-01-31")]
pub struct BusinessDateError {
    text: String,
}

impl BusinessDate {
    /// The date of a command that names none: the date on which the command was stored, in the time zone of the business.
    pub fn today(context: &DecisionContext<'_>) -> Self {
        Self(context.today())
    }

    /// The date in a time zone at `time`.
    pub fn of(time: Timestamp, zone: &TimeZone) -> Self {
        Self(time.to_zoned(zone.clone()).date())
    }

    /// The civil date.
    pub fn date(self) -> Date {
        self.0
    }

    /// Reads a date in a command.
    ///
    /// # Errors
    /// The rejection `date-malformed`.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        text.parse().map_err(|error: BusinessDateError| Rejection::new("date-malformed", error.to_string()))
    }
}

impl JsonSchema for BusinessDate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BusinessDate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date" })
    }
}

impl FromStr for BusinessDate {
    type Err = BusinessDateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // jiff's own parser also accepts 20120131 and whole timestamps, but a key must have only one form.
        parse(text.as_bytes()).map(Self).ok_or_else(|| BusinessDateError { text: text.to_owned() })
    }
}

fn parse(text: &[u8]) -> Option<Date> {
    let [year @ .., b'-', ten_months, months, b'-', ten_days, days] = text else { return None };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_i16, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i16::from(digit - b'0'))
        })
    };
    let small = |digits: [u8; 2]| i8::try_from(number(&digits)?).ok();
    let year = (year.len() == 4).then_some(year)?;
    Date::new(number(year)?, small([*ten_months, *months])?, small([*ten_days, *days])?).ok()
}

impl TryFrom<String> for BusinessDate {
    type Error = BusinessDateError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BusinessDate> for String {
    fn from(date: BusinessDate) -> Self {
        SmolStr::from(date).into()
    }
}

impl fmt::Display for BusinessDate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(SmolStr::from(*self).as_str())
    }
}

/// Dates are written so often that a general formatter would be noticeably slower.
impl From<BusinessDate> for SmolStr {
    fn from(date: BusinessDate) -> Self {
        let BusinessDate(date) = date;
        let Ok(year) = u16::try_from(date.year()) else { return date.to_string().into() };
        let digit = |number: u16| char::from(b'0' + (number % 10) as u8);
        let [month, day] = [date.month(), date.day()].map(i8::unsigned_abs).map(u16::from);
        let text = [
            digit(year / 1_000),
            digit(year / 100),
            digit(year / 10),
            digit(year),
            '-',
            digit(month / 10),
            digit(month),
            '-',
            digit(day / 10),
            digit(day),
        ];
        text.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_text_form_is_a_date() {
        assert_eq!("2012-02-29".parse::<BusinessDate>().unwrap().to_string(), "2012-02-29");
        for text in
            ["", "2012-02-30", "20120131", "2012-1-31", "2012-01-31T10:00", "31.01.2012", "-2012-01-31"]
        {
            assert_eq!(BusinessDate::parse(text).unwrap_err().code, "date-malformed", "{text}");
        }
    }

    #[test]
    fn the_date_of_a_moment_is_that_of_the_time_zone() {
        let late = "2012-01-31T23:30:00-05:00".parse().unwrap();
        assert_eq!(BusinessDate::of(late, &TimeZone::UTC).to_string(), "2012-02-01");
        let new_york = TimeZone::get("America/New_York").unwrap();
        assert_eq!(BusinessDate::of(late, &new_york).to_string(), "2012-01-31");
    }
}
