//! Computes when a day ends, and sets the timers that end it. For processes that close something at an hour of the day.
//!
//! A day ends when its hour comes for the first time after noon of the business date: 22:00 is the evening of the same day, 03:00 the night
//! after. Later entries are closed at the next occurrence of the hour.

use jiff::{
    Span, Timestamp,
    civil::{Date, Time},
    tz::TimeZone,
};
use millstream_domain::{
    process::{Effect, ProcessCommand, Timer},
    projection::{ProjectionError, Rows},
};

use crate::business_date::BusinessDate;

/// Noon: a day ends after it.
const NOON: Time = Time::constant(12, 0, 0, 0);

/// How many days are tried until the hour occurs. It may have passed on the first day, and a day on which the clock is put forward may not have
/// it.
const DAYS_TRIED: i64 = 3;

/// The first time at which `hour` occurs after noon of the business date and after the entry was recorded.
pub fn end_of_day(date: BusinessDate, hour: Time, zone: &TimeZone, recorded_at: Timestamp) -> Timestamp {
    let noon = moment(date.date(), NOON, zone);
    let after = noon.max(recorded_at);
    let first = after.to_zoned(zone.clone()).date();
    let days = (0..DAYS_TRIED).filter_map(|days| first.checked_add(Span::new().days(days)).ok());
    days.map(|day| moment(day, hour, zone)).find(|end| *end > after).unwrap_or(Timestamp::MAX)
}

/// For a time that a change of the clock skips or repeats, jiff's rule applies: the later offset, or the first occurrence.
fn moment(date: Date, time: Time, zone: &TimeZone) -> Timestamp {
    zone.to_zoned(date.to_datetime(time)).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

/// Sets the timer `name`, and notes in `table` when it fires. Nothing happens if the timer is already set and had not fired when the entry was
/// recorded.
///
/// # Errors
/// [`ProjectionError`] when the note cannot be read.
pub fn arm(
    table: &'static str,
    name: &str,
    recorded_at: Timestamp,
    end: Timestamp,
    command: ProcessCommand,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Effect>, ProjectionError> {
    if rows.read::<Timestamp>(table, name)?.is_some_and(|fires| fires > recorded_at) {
        return Ok(vec![]);
    }
    rows.write(table, name, &end);
    Ok(vec![Effect::SetTimer(Timer { name: name.to_owned(), at: end, command })])
}

/// Cancels the timer `name` and deletes its note in `table`, if it was set.
///
/// # Errors
/// [`ProjectionError`] when the note cannot be read.
pub fn disarm(
    table: &'static str,
    name: &str,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<Effect>, ProjectionError> {
    if rows.read::<Timestamp>(table, name)?.is_none() {
        return Ok(vec![]);
    }
    rows.delete(table, name);
    Ok(vec![Effect::CancelTimer(name.to_owned())])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_hour_that_a_change_of_the_clock_skips_still_ends_the_day() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let end = |hour: &str| {
            end_of_day("2012-03-24".parse().unwrap(), hour.parse().unwrap(), &zone, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(end("02:30").to_string(), "2012-03-25T01:30:00Z");
        assert_eq!(end("22:00").to_string(), "2012-03-24T21:00:00Z");
    }

    proptest! {
        #[test]
        fn every_day_ends_after_its_noon_and_after_what_came_in(
            day in 0_i64..20_000,
            hour in 0_i8..24,
            minute in 0_i8..60,
            late in 0_i64..2_000_000,
            zone in prop::sample::select(vec!["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"]),
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let date = Date::constant(1970, 1, 2).checked_add(Span::new().days(day)).unwrap();
            let noon = moment(date, NOON, &zone);
            let recorded_at = noon + jiff::SignedDuration::from_secs(late - 1_000_000);
            let date = BusinessDate::of(noon, &zone);
            let end = end_of_day(date, Time::constant(hour, minute, 0, 0), &zone, recorded_at);
            prop_assert!(end > noon && end > recorded_at);
            prop_assert!(end <= noon.max(recorded_at) + jiff::SignedDuration::from_hours(49));
        }
    }
}
