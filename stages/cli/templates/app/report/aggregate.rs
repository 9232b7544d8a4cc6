//! `{{aggregate}}.<place>_<date>`: what one place records on one business date, until the day is closed.
//!
//! An entry that comes after the close has happened all the same: it is recorded, and the day can be closed again.

use std::collections::BTreeMap;

use millstream::{jiff::civil::Date, prelude::*};

millstream::commands! {
    /// What can be asked.
    pub enum {{Aggregate}}Command {
        /// Records an entry. The same entry again changes nothing.
        Record {
            /// Its id, once for each day and place.
            entry: String,
            /// How much it counts, in minor units; negative where something is taken back.
            amount: i64,
        } = "record",
        /// Closes the day. Again changes nothing, until there is another entry.
        Close {} = "close",
    }
}

millstream::events! {
    /// What can happen.
    pub enum {{Aggregate}}Event of "{{aggregate}}" {
        /// An entry was recorded.
        Recorded {
            /// Its id.
            entry: String,
            /// How much it counts, in minor units.
            amount: i64,
        } = "{{aggregate}}-recorded" v 1,
        /// The day was closed.
        Closed {
            /// How many entries it had.
            entries: u64,
        } = "{{aggregate}}-closed" v 1,
    }
}

millstream::rejections! {
    /// Why a command is refused.
    pub enum {{Aggregate}}Rejection {
        /// The id names a place and a date.
        IdNotAllowed { id: String } = "id-not-allowed" on ["*"]:
            "id {id} is not <place>_<date>, as in north_2012-01-31",
        /// An entry keeps its amount.
        EntryDiffers { entry: String, amount: i64 } = "entry-differs" on ["record"]:
            "entry {entry} has the amount {amount}; use another id, or record the difference",
    }
}

/// Place and date of an id.
pub fn place_and_date(id: &str) -> Option<(&str, Date)> {
    let (place, date) = id.rsplit_once('_')?;
    Some((place, date.parse().ok()?)).filter(|_| !place.is_empty())
}

millstream::data! {
    /// What the rules need to know.
    #[derive(Default)]
    pub struct {{Aggregate}}State {
        entries: BTreeMap<String, i64>,
        /// How many entries the last close knew; none before the first.
        closed: Option<u64>,
    }
}

/// The rules of `{{aggregate}}.<place>_<date>`.
#[derive(Debug)]
pub struct {{Aggregate}};

impl Decider for {{Aggregate}} {
    type Command = {{Aggregate}}Command;
    type Event = {{Aggregate}}Event;
    type State = {{Aggregate}}State;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "{{aggregate}}";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        {{Aggregate}}Rejection::declared()
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        match place_and_date(id) {
            Some(_) => Ok(()),
            None => Err({{Aggregate}}Rejection::IdNotAllowed { id: id.to_owned() }.into()),
        }
    }

    fn decide(
        state: &{{Aggregate}}State,
        command: &{{Aggregate}}Command,
        _context: &DecisionContext<'_>,
    ) -> Result<Vec<{{Aggregate}}Event>, Rejection> {
        match command {
            {{Aggregate}}Command::Record(Record { entry, amount }) => match state.entries.get(entry) {
                None => Ok(vec![Recorded { entry: entry.clone(), amount: *amount }.into()]),
                Some(known) if known == amount => Ok(vec![]),
                Some(known) => {
                    Err({{Aggregate}}Rejection::EntryDiffers { entry: entry.clone(), amount: *known }.into())
                }
            },
            {{Aggregate}}Command::Close(_) => {
                let entries = state.entries.len() as u64;
                Ok(if state.closed == Some(entries) { vec![] } else { vec![Closed { entries }.into()] })
            }
        }
    }

    fn evolve(state: &mut {{Aggregate}}State, event: &{{Aggregate}}Event) {
        match event {
            {{Aggregate}}Event::Recorded(Recorded { entry, amount }) => {
                state.entries.insert(entry.clone(), *amount);
            }
            {{Aggregate}}Event::Closed(Closed { entries }) => state.closed = Some(*entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream::testing::given_when_then::{Given, assert_every_rejection_is_provoked, given};

    use super::*;

    fn day(events: impl IntoIterator<Item = {{Aggregate}}Event>) -> Given<{{Aggregate}}> {
        given::<{{Aggregate}}>("north_2012-01-31", events)
    }

    fn recorded() -> {{Aggregate}}Event {
        Recorded { entry: "E-1".into(), amount: 500 }.into()
    }

    #[test]
    fn day_is_closed_once_until_there_is_another_entry() {
        day([])
            .when_typed("record", r#"{"entry":"E-1","amount":500}"#)
            .then([recorded()])
            .when_typed("record", r#"{"entry":"E-1","amount":500}"#)
            .then_nothing()
            .when_typed("close", "")
            .then([Closed { entries: 1 }.into()])
            .when_typed("close", "")
            .then_nothing()
            .when_typed("record", r#"{"entry":"E-2","amount":-100}"#)
            .then([Recorded { entry: "E-2".into(), amount: -100 }.into()])
            .when_typed("close", "")
            .then([Closed { entries: 2 }.into()]);
    }

    #[test]
    fn every_rejection_is_provoked() {
        let nowhere = || given::<{{Aggregate}}>("north", []);
        let entry = r#"{"entry":"E-1","amount":500}"#;
        assert_every_rejection_is_provoked([
            (nowhere(), "record", entry, "id-not-allowed"),
            (nowhere(), "close", "{}", "id-not-allowed"),
            (day([recorded()]), "record", r#"{"entry":"E-1","amount":400}"#, "entry-differs"),
        ]);
    }
}
