//! Settings of processes that close something at an hour of the clock.

use jiff::{civil::Time, tz::TimeZone};
use millstream_domain::application::SettingKeys;

/// An hour of the day, such as `"03:00"`; `None` if the key is not set. An invalid text is noted as a problem.
pub fn hour(keys: &mut dyn SettingKeys, name: &'static str, help: &'static str) -> Option<Time> {
    let text = keys.optional_text(name, help)?;
    let time = text.parse::<Time>();
    if time.is_err() {
        keys.problem(name, &format!("is {text:?}; it takes an hour of the day, such as \"03:00\""));
    }
    time.ok()
}

/// The time zone with the name that the key `key` gives. An unknown name is noted as a problem, and UTC is returned.
pub fn zone(keys: &mut dyn SettingKeys, key: &'static str, name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or_else(|_| {
        keys.problem(key, &format!("names time zone {name:?}; use a name such as Europe/Berlin or UTC"));
        TimeZone::UTC
    })
}

#[cfg(test)]
mod tests {
    use millstream_domain::application::DefaultSettings;

    use super::*;

    #[test]
    fn unknown_zone_is_noted_and_an_hour_that_is_not_set_is_none() {
        let mut keys = DefaultSettings::default();
        assert_eq!(hour(&mut keys, "close_days_at", "help"), None);
        assert_eq!(zone(&mut keys, "time_zone", "Europe/Berlin").iana_name(), Some("Europe/Berlin"));
        assert_eq!(zone(&mut keys, "time_zone", "Atlantis"), TimeZone::UTC);
        assert_eq!(keys.problems().len(), 1);
    }
}
