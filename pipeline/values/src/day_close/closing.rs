//! The process that closes business days by a timer, at an hour of a time zone.
//!
//! The first entry of a day sets the timer. If a person closes the day before that, the timer is cancelled. An entry after a close sets it
//! again.
//!
//! Notes: `<process>.armed`, key `day:<date>`: when the timer fires. A note is removed with the close.

use std::marker::PhantomData;

use jiff::{civil::Time, tz::TimeZone};
use millstream_contract::commit::EventEnvelope;
use millstream_domain::{
    application::SettingKeys,
    decider::{Decider, EventSet},
    process::{Effect, Process, ProcessCommand, ProcessError},
    projection::Rows,
};

use super::{
    BusinessDay, BusinessDayEvent, CloseDay,
    settings::{hour, zone},
    timers::{arm, disarm, end_of_day},
};
use crate::{business_date::BusinessDate, context::InContext, table::Joined};

/// What counts as an entry of a business day, for [`DayClosing`].
pub trait DayEntries: Send + Sync + 'static {
    /// The context of the business days.
    type Context: InContext;

    /// The name of the process, lower-kebab-case, at most 58 characters. It must never change.
    const PROCESS: &'static str;

    /// Whether events of `aggregate` of `context` are entries of a day.
    fn handles(context: &str, aggregate: &str) -> bool;

    /// The day to which an event belongs; `None` if it belongs to no day.
    ///
    /// # Errors
    /// [`ProcessError`] for an event that cannot be read; the process then halts.
    fn day_of(envelope: &EventEnvelope<'_>) -> Result<Option<BusinessDate>, ProcessError>;
}

/// Closes the business days of the entries `E`.
#[derive(Debug)]
pub struct DayClosing<E> {
    hour: Option<Time>,
    time_zone: TimeZone,
    entries: PhantomData<fn() -> E>,
}

impl<E: DayEntries> DayClosing<E> {
    const JOINED: Joined = Joined::new(E::PROCESS, "armed");
    const TABLE: &'static str = Self::JOINED.as_str();
    const TABLES: &'static [&'static str] = &[Self::TABLE];

    /// A process that closes days at an hour of a time zone; without an hour, it never does.
    pub fn new(hour: Option<Time>, time_zone: TimeZone) -> Self {
        Self { hour, time_zone, entries: PhantomData }
    }

    /// A process that closes days at the hour `close_days_at` of the zone `time_zone` of the configuration. An application with
    /// several such processes reads keys of its own for each of them and uses [`Self::new`].
    pub fn from_keys(keys: &mut dyn SettingKeys) -> Self {
        let help = "hour of the time zone at which days are closed, such as \"03:00\"; never by a timer when not set";
        let hour = hour(keys, "close_days_at", help);
        let help = "the time zone in which days are closed; the same as command_handler.time_zone";
        let name = keys.text("time_zone", "UTC", help);
        let zone = zone(keys, "time_zone", &name);
        Self::new(hour, zone)
    }
}

impl<E: DayEntries> Process for DayClosing<E> {
    fn name(&self) -> &'static str {
        E::PROCESS
    }

    fn tables(&self) -> &'static [&'static str] {
        Self::TABLES
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        is_business_day::<E>(context, aggregate) || E::handles(context, aggregate)
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        if is_business_day::<E>(envelope.stream_id.context(), envelope.stream_id.aggregate()) {
            let BusinessDayEvent::Closed(_) = BusinessDayEvent::from_envelope(envelope)?;
            return Ok(disarm(Self::TABLE, &name(envelope.stream_id.id()), rows)?);
        }
        let (Some(hour), Some(date)) = (self.hour, E::day_of(envelope)?) else { return Ok(vec![]) };
        let day = date.to_string();
        let end = end_of_day(date, hour, &self.time_zone, envelope.recorded_at);
        let close = ProcessCommand::to::<BusinessDay<E::Context>>(&day, "close", &CloseDay {})?;
        Ok(arm(Self::TABLE, &name(&day), envelope.recorded_at, end, close, rows)?)
    }
}

fn is_business_day<E: DayEntries>(context: &str, aggregate: &str) -> bool {
    (context, aggregate) == (E::Context::CONTEXT, BusinessDay::<E::Context>::AGGREGATE)
}

/// The name of a day's timer and of its note.
fn name(day: &str) -> String {
    format!("day:{day}")
}
