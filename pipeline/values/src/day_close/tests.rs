//! Days of a gym: visits are their entries.

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use millstream_contract::commit::EventEnvelope;
use millstream_domain::{
    application::DefaultSettings,
    decider::{AggregateRegistry, EventSet as _},
    process::ProcessError,
    testing::{
        given_when_then::{assert_every_rejection_is_provoked, given},
        in_memory_system::InMemorySystem,
    },
};
use proptest::prelude::*;

use super::*;

#[derive(Debug)]
struct Gym;

impl InContext for Gym {
    const CONTEXT: &'static str = "gym";
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordVisit {}

millstream_domain::commands! { enum ClubCommand { Visit(RecordVisit) = "visit" } }

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Visited {
    date: BusinessDate,
}

millstream_domain::events! { enum ClubEvent of "club" { Visited(Visited) = "visited" v 1 } }

#[derive(Debug)]
struct Club;

impl Decider for Club {
    type Command = ClubCommand;
    type Event = ClubEvent;
    type State = ();

    const CONTEXT: &'static str = "gym";
    const AGGREGATE: &'static str = "club";

    fn decide(
        _state: &(),
        ClubCommand::Visit(_): &ClubCommand,
        context: &DecisionContext<'_>,
    ) -> Result<Vec<ClubEvent>, Rejection> {
        Ok(vec![ClubEvent::Visited(Visited { date: BusinessDate::today(context) })])
    }

    fn evolve(_state: &mut (), _event: &ClubEvent) {}
}

#[derive(Debug)]
struct Visits;

impl DayEntries for Visits {
    type Context = Gym;

    const PROCESS: &'static str = "club-days";

    fn handles(context: &str, aggregate: &str) -> bool {
        (context, aggregate) == ("gym", "club")
    }

    fn day_of(envelope: &EventEnvelope<'_>) -> Result<Option<BusinessDate>, ProcessError> {
        let ClubEvent::Visited(visited) = ClubEvent::from_envelope(envelope)?;
        Ok(Some(visited.date))
    }
}

fn new_york() -> TimeZone {
    TimeZone::get("America/New_York").unwrap()
}

fn system(hour: Option<Time>) -> InMemorySystem {
    let registry =
        AggregateRegistry::new().with::<Club>().with::<BusinessDay<Gym>>().in_time_zone(new_york());
    InMemorySystem::new(registry, vec![Box::new(DayClosing::<Visits>::new(hour, new_york()))])
}

fn midnight() -> Option<Time> {
    Some(Time::midnight())
}

fn timers(system: &InMemorySystem) -> Vec<String> {
    system.timers().map(|(name, at)| format!("{name} {at}")).collect()
}

fn closed_days(system: &InMemorySystem) -> Vec<String> {
    let envelopes = system.history().commits().iter().flat_map(|commit| commit.envelopes());
    envelopes
        .filter(|envelope| envelope.event_type == "day-closed")
        .map(|envelope| envelope.stream_id.id().to_owned())
        .collect()
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

#[test]
fn each_close_is_an_event_with_its_number() {
    let closed = |closing| BusinessDayEvent::Closed(DayClosed { closing });
    given::<BusinessDay<Gym>>("2012-01-31", [])
        .when_typed("close", "")
        .then([closed(1)])
        .when_typed("close", "{}")
        .then([closed(2)]);
}

#[test]
fn id_is_a_date() {
    assert_every_rejection_is_provoked([(
        given::<BusinessDay<Gym>>("2012-02-30", []),
        "close",
        "",
        "date-malformed",
    )]);
}

#[test]
fn a_day_ends_at_its_hour_of_the_time_zone() {
    let mut system = system(midnight());
    // Already the first of February in UTC, still the evening before in New York.
    system.advance_to(at("2012-02-01T02:00:00Z"));
    system.send("gym.club.c1.visit", "{}").unwrap();
    system.send("gym.club.c2.visit", "{}").unwrap();
    assert_eq!(timers(&system), ["club-days:day:2012-01-31 2012-02-01T05:00:00Z"]);
    system.advance_to(at("2012-02-01T06:00:00Z"));
    assert_eq!(closed_days(&system), ["2012-01-31"]);
    assert!(system.process_rows("club-days").dump().is_empty(), "the note goes with the close");
    system.assert_processes_repeatable();
}

#[test]
fn a_close_by_a_person_cancels_the_timer() {
    let mut system = system(midnight());
    system.send("gym.club.c1.visit", "{}").unwrap();
    system.send("gym.business-day.2012-01-31.close", "{}").unwrap();
    assert_eq!(system.timers().count(), 0);
    system.send("gym.club.c1.visit", "{}").unwrap();
    assert_eq!(system.timers().count(), 1, "what comes in after a close is closed too");
}

#[test]
fn without_an_hour_nothing_is_closed_by_a_timer() {
    let mut system = system(None);
    system.send("gym.club.c1.visit", "{}").unwrap();
    assert_eq!(system.timers().count(), 0);
}

#[test]
fn hour_and_zone_are_settings() {
    let mut keys = DefaultSettings::default();
    let process = DayClosing::<Visits>::from_keys(&mut keys);
    assert_eq!(keys.names(), ["close_days_at", "time_zone"]);
    assert!(keys.problems().is_empty());
    let registry = AggregateRegistry::new().with::<Club>().with::<BusinessDay<Gym>>();
    let mut system = InMemorySystem::new(registry, vec![Box::new(process)]);
    system.send("gym.club.c1.visit", "{}").unwrap();
    assert_eq!(system.timers().count(), 0, "no hour is set");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_day_with_visits_is_closed_after_its_last(pauses in prop::collection::vec(1_i64..60, 1..20)) {
        let mut system = system(midnight());
        for hours in pauses {
            system.send("gym.club.c1.visit", "{}").unwrap();
            system.advance_to(system.now() + jiff::SignedDuration::from_hours(hours));
        }
        system.advance_to(system.now() + jiff::SignedDuration::from_hours(72));
        let mut open = std::collections::BTreeSet::new();
        for envelope in system.history().commits().iter().flat_map(|commit| commit.envelopes()) {
            if envelope.stream_id.aggregate() == "club" {
                let ClubEvent::Visited(visited) = ClubEvent::from_envelope(&envelope).unwrap();
                open.insert(visited.date.to_string());
            } else {
                open.remove(envelope.stream_id.id());
            }
        }
        prop_assert!(open.is_empty(), "{open:?} are never closed");
        prop_assert_eq!(system.timers().count(), 0);
        system.assert_processes_repeatable();
    }
}
