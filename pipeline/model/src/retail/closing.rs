//! The process `closing`: tills and business days are closed by timers, at an hour of their time zone.
//!
//! When that is, [`millstream::values::day_close::timers`] says. A close by a person before that cancels the timer; one that
//! finds nothing new changes nothing.
//!
//! Notes: `closing.armed`, key `till:<till>` or `day:<date>`: when its timer fires. A note goes with the close.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use millstream::{
    application::SettingKeys,
    contract::commit::EventEnvelope,
    decider::{Decider, EventSet},
    process::{Effect, Process, ProcessCommand, ProcessError},
    projection::{ProjectionError, Rows},
    values::{
        business_date::BusinessDate,
        day_close::{
            settings::{hour, zone},
            timers::{arm, disarm, end_of_day},
        },
    },
};

use super::{
    business_day::{BusinessDay, BusinessDayEvent, CloseDay},
    delivery::{Delivery, DeliveryEvent},
    till::{CloseTill, Till, TillEvent, TillId},
};

const ARMED: &str = "closing.armed";

/// When days end.
#[derive(Debug, Clone)]
pub struct ClosingHours {
    /// When a till is closed, by the clock of its store; not by a timer when absent.
    pub tills: Option<Time>,
    /// When the business day of the company is closed, by the company's clock; not by a timer when absent.
    pub business_days: Option<Time>,
    /// The company's time zone, and that of every store without its own.
    pub time_zone: TimeZone,
    /// The time zones of stores.
    pub store_time_zones: BTreeMap<String, TimeZone>,
}

impl Default for ClosingHours {
    /// Nothing is closed by a timer.
    fn default() -> Self {
        Self { tills: None, business_days: None, time_zone: TimeZone::UTC, store_time_zones: BTreeMap::new() }
    }
}

impl ClosingHours {
    /// The hours of the configuration.
    pub fn from_keys(keys: &mut dyn SettingKeys) -> Self {
        let tills = hour(
            keys,
            "close_tills_at",
            "hour of the store's time zone at which its tills are closed, such as \"03:00\"; never by a timer when not set",
        );
        let business_days = hour(
            keys,
            "close_business_days_at",
            "hour of the company's time zone at which business days are closed; never by a timer when not set",
        );
        let name =
            keys.text("time_zone", "UTC", "the company's time zone, and that of stores without their own; the same as command_handler.time_zone");
        let time_zone = zone(keys, "time_zone", &name);
        let help = "time zones of stores, such as \"2506=America/New_York\"";
        let mut store_time_zones = BTreeMap::new();
        for entry in keys.list("store_time_zones", &[], help) {
            match entry.split_once('=') {
                Some((store, name)) => {
                    let zone = zone(keys, "store_time_zones", name.trim());
                    store_time_zones.insert(store.trim().to_owned(), zone);
                }
                None => keys.problem(
                    "store_time_zones",
                    &format!("has {entry:?}; write each as <store>=<time zone>, as in 2506=America/New_York"),
                ),
            }
        }
        Self { tills, business_days, time_zone, store_time_zones }
    }
}

/// Closes tills and business days.
#[derive(Debug, Default)]
pub struct Closing {
    hours: ClosingHours,
}

impl Closing {
    /// A process that closes at `hours`.
    pub fn new(hours: ClosingHours) -> Self {
        Self { hours }
    }

    /// A process that closes at the hours of the configuration.
    pub fn from_keys(keys: &mut dyn SettingKeys) -> Self {
        Self::new(ClosingHours::from_keys(keys))
    }
}

impl Process for Closing {
    fn name(&self) -> &'static str {
        "closing"
    }

    fn tables(&self) -> &'static [&'static str] {
        &[ARMED]
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        context == super::CONTEXT
            && [Delivery::AGGREGATE, Till::AGGREGATE, BusinessDay::AGGREGATE].contains(&aggregate)
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let id = envelope.stream_id.id();
        let at = envelope.recorded_at;
        match envelope.stream_id.aggregate() {
            Delivery::AGGREGATE => {
                let DeliveryEvent::Received(received) = DeliveryEvent::from_envelope(envelope)?;
                self.entry_of_day(received.business_date, at, rows)
            }
            BusinessDay::AGGREGATE => {
                let BusinessDayEvent::Closed(_) = BusinessDayEvent::from_envelope(envelope)?;
                Ok(disarm(ARMED, &format!("day:{id}"), rows)?)
            }
            _ => match TillEvent::from_envelope(envelope)? {
                TillEvent::Closed(_) => Ok(disarm(ARMED, &format!("till:{id}"), rows)?),
                TillEvent::SaleRecorded(_) | TillEvent::ReturnRecorded(_) => self.entry_of_till(id, at, rows),
            },
        }
    }
}

impl Closing {
    /// Something came in for a till, and so for its day.
    fn entry_of_till(
        &self,
        id: &str,
        recorded_at: Timestamp,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let till =
            TillId::parse(id).map_err(|rejection| ProjectionError::Inconsistent(rejection.to_string()))?;
        let mut effects = self.entry_of_day(till.business_date, recorded_at, rows)?;
        if let Some(hour) = self.hours.tills {
            let zone = self.hours.store_time_zones.get(&till.store).unwrap_or(&self.hours.time_zone);
            let end = end_of_day(till.business_date, hour, zone, recorded_at);
            let close = ProcessCommand::to::<Till>(id, "close", &CloseTill {})?;
            effects.extend(arm(ARMED, &format!("till:{id}"), recorded_at, end, close, rows)?);
        }
        Ok(effects)
    }

    /// Something came in for a business day.
    fn entry_of_day(
        &self,
        date: BusinessDate,
        recorded_at: Timestamp,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let Some(hour) = self.hours.business_days else { return Ok(vec![]) };
        let end = end_of_day(date, hour, &self.hours.time_zone, recorded_at);
        let close = ProcessCommand::to::<BusinessDay>(&date.to_string(), "close", &CloseDay {})?;
        Ok(arm(ARMED, &format!("day:{date}"), recorded_at, end, close, rows)?)
    }
}

#[cfg(test)]
mod tests {
    use millstream::{decider::AggregateRegistry, testing::in_memory_system::InMemorySystem};

    use super::*;

    const SALE: &str = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"a","quantity":3,"unit_price":9}]}"#;
    const LATE: &str = r#"{"sale":"S2","currency":"USD","lines":[{"sku":"a","quantity":1,"unit_price":9}]}"#;

    fn hours() -> ClosingHours {
        let zone = |name| TimeZone::get(name).expect("the time zone is known");
        ClosingHours {
            tills: Some("03:00".parse().unwrap()),
            business_days: Some("05:00".parse().unwrap()),
            time_zone: zone("Europe/Berlin"),
            store_time_zones: BTreeMap::from([("ny".to_owned(), zone("America/New_York"))]),
        }
    }

    fn system() -> InMemorySystem {
        let registry = AggregateRegistry::new().with::<Delivery>().with::<Till>().with::<BusinessDay>();
        InMemorySystem::new(registry, vec![Box::new(Closing::new(hours()))])
    }

    fn timers(system: &InMemorySystem) -> Vec<(String, String)> {
        system.timers().map(|(name, at)| (name.to_owned(), at.to_string())).collect()
    }

    fn events(system: &InMemorySystem) -> Vec<String> {
        let envelopes = system.history().commits().iter().flat_map(|commit| commit.envelopes());
        envelopes.map(|envelope| format!("{} {}", envelope.stream_id.id(), envelope.event_type)).collect()
    }

    #[test]
    fn days_end_at_an_hour_of_the_stores_time_zone() {
        let mut system = system();
        system.send("retail.till.ny_2012-01-31.record-sale", SALE).unwrap();
        system.send("retail.till.b_2012-01-31.record-sale", SALE).unwrap();
        assert_eq!(
            timers(&system),
            [
                ("closing:day:2012-01-31", "2012-02-01T04:00:00Z"),
                ("closing:till:b_2012-01-31", "2012-02-01T02:00:00Z"),
                ("closing:till:ny_2012-01-31", "2012-02-01T08:00:00Z"),
            ]
            .map(|(name, at)| (name.to_owned(), at.to_owned()))
        );
        system.advance_to("2012-02-02T00:00:00Z".parse().unwrap());
        let closes = &events(&system)[2..];
        assert_eq!(
            closes,
            ["b_2012-01-31 till-closed", "2012-01-31 day-closed", "ny_2012-01-31 till-closed"]
        );
        assert_eq!(system.timers().count(), 0);
        assert!(system.process_rows("closing").dump().is_empty(), "notes go with the close");
        system.assert_processes_repeatable();
    }

    #[test]
    fn what_comes_in_late_is_closed_when_the_hour_comes_next() {
        let mut system = system();
        system.send("retail.till.b_2012-01-31.record-sale", SALE).unwrap();
        system.advance_to("2012-02-03T12:00:00Z".parse().unwrap());
        system.send("retail.till.b_2012-01-31.record-sale", LATE).unwrap();
        assert_eq!(timers(&system)[1], ("closing:till:b_2012-01-31".into(), "2012-02-04T02:00:00Z".into()));
        system.advance_to("2012-02-05T00:00:00Z".parse().unwrap());
        assert_eq!(events(&system).iter().filter(|event| event.ends_with("till-closed")).count(), 2);
        assert_eq!(system.timers().count(), 0);
    }

    #[test]
    fn close_by_a_person_cancels_the_timer() {
        let mut system = system();
        system.send("retail.till.b_2012-01-31.record-sale", SALE).unwrap();
        system.send("retail.till.b_2012-01-31.close", "{}").unwrap();
        assert_eq!(timers(&system), [("closing:day:2012-01-31".into(), "2012-02-01T04:00:00Z".into())]);
        system.send("retail.business-day.2012-01-31.close", "{}").unwrap();
        assert_eq!(system.timers().count(), 0);
    }

    #[test]
    fn without_hours_nothing_is_closed_by_a_timer() {
        let registry = AggregateRegistry::new().with::<Till>();
        let mut system = InMemorySystem::new(registry, vec![Box::new(Closing::default())]);
        system.send("retail.till.b_2012-01-31.record-sale", SALE).unwrap();
        assert_eq!(system.timers().count(), 0);
    }
}
