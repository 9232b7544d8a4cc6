//! Moments: how people name a point in the history of EVENTS. Pure: only the stream can tell which stream position a moment is
//! (`position_at_moment` in the crate `millstream-jetstream`).

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::position::StreamPosition;

/// A point in the history of EVENTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// After a stream position, in the form in which answers carry it.
    Position(StreamPosition),
    /// After a sequence of EVENTS, whatever its generation.
    Sequence(u64),
    /// A time: everything recorded by then, and nothing else. A date means the end of that day in UTC.
    Time(Timestamp),
}

/// A text that names no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no moment: expected a time as in 2012-01-31T18:00:00Z or 2012-01-31T18:00:00-06:00, a date as in \
     2012-01-31 (its end in UTC), a position as in EVENTS:01JD0ZV6V8Q6Y0Q3M1R5J3X2A4:17, or a sequence of EVENTS as in 17"
)]
pub struct MomentError {
    text: String,
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => write!(formatter, "{position}"),
            Self::Sequence(sequence) => write!(formatter, "{sequence}"),
            Self::Time(time) => write!(formatter, "{time}"),
        }
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let error = || MomentError { text: text.to_owned() };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Sequence).map_err(|_| error());
        }
        // A time without an offset cannot be taken for a stream position, because names of streams begin with a letter.
        if text.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return text.parse().map(Self::Position).map_err(|_| error());
        }
        let is_date = text.len() == "2012-01-31".len();
        let time = if is_date { text.parse().ok().map(end_of) } else { text.parse().ok() };
        time.map(Self::Time).ok_or_else(error)
    }
}

/// The last nanosecond of a day in UTC. For the last day of the year 9999, whose end cannot be represented, it is the last time that can
/// be.
fn end_of(date: Date) -> Timestamp {
    TimeZone::UTC.to_timestamp(date.at(23, 59, 59, 999_999_999)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Moment {
        text.parse().unwrap()
    }

    #[test]
    fn times_dates_positions_and_sequences_are_told_apart() {
        let six = "2012-02-01T00:00:00Z".parse().unwrap();
        assert_eq!(parsed("2012-01-31T18:00:00-06:00"), Moment::Time(six));
        assert_eq!(parsed("2012-01-31"), parsed("2012-01-31T23:59:59.999999999Z"));
        assert_eq!(parsed("9999-12-31"), Moment::Time(Timestamp::MAX));
        assert_eq!(parsed("17"), Moment::Sequence(17));
        assert_eq!(parsed("EVENTS:01JD:17"), Moment::Position(StreamPosition::new("EVENTS", "01JD", 17)));
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        for text in [
            "",
            "now",
            "-3",
            "2012-01-31T18:00:00",
            "2012-13-31",
            "EVENTS:17",
            "99999999999999999999",
            "2012-01-31T18:00",
        ] {
            let error = text.parse::<Moment>().unwrap_err();
            assert!(error.to_string().contains("2012-01-31T18:00:00Z"), "{text}");
        }
    }
}
