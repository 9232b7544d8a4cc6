//! `business-day.<date>`: the day of the whole company. Its close seals the day's company-wide reports.
//!
//! It cannot know whether anything came in since the close before, so each close is an event; reports that have nothing
//! new ignore it.

use millstream_engine::decider::{ANY_COMMAND, Decider, DecisionContext, Rejection};
use millstream_values::business_date::BusinessDate;
use serde::{Deserialize, Serialize};

/// Ends the day, or ends it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseDay {}

millstream_engine::commands! {
    /// What can be asked of a business day.
    pub enum BusinessDayCommand { Close(CloseDay) = "close" }
}

/// The day was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayClosed {
    /// The how-manieth close it is, from 1.
    pub closing: u32,
}

millstream_engine::events! {
    /// What can happen to a business day.
    pub enum BusinessDayEvent of "business-day" { Closed(DayClosed) = "day-closed" v 1 }
}

/// What the rules need to know of a business day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusinessDayState {
    closings: u32,
}

/// The rules of `business-day.<date>`.
#[derive(Debug)]
pub struct BusinessDay;

impl Decider for BusinessDay {
    type Command = BusinessDayCommand;
    type Event = BusinessDayEvent;
    type State = BusinessDayState;

    const CONTEXT: &'static str = super::CONTEXT;
    const AGGREGATE: &'static str = "business-day";

    fn rejections() -> Vec<(&'static str, &'static str)> {
        vec![(ANY_COMMAND, "date-malformed")]
    }

    fn check_id(id: &str) -> Result<(), Rejection> {
        BusinessDate::parse(id).map(|_| ())
    }

    fn decide(
        state: &BusinessDayState,
        command: &BusinessDayCommand,
        _context: &DecisionContext<'_>,
    ) -> Result<Vec<BusinessDayEvent>, Rejection> {
        let BusinessDayCommand::Close(_) = command;
        Ok(vec![BusinessDayEvent::Closed(DayClosed { closing: state.closings + 1 })])
    }

    fn evolve(state: &mut BusinessDayState, event: &BusinessDayEvent) {
        let BusinessDayEvent::Closed(closed) = event;
        state.closings = closed.closing;
    }
}

#[cfg(test)]
mod tests {
    use millstream_engine::testing::given_when_then::given;

    use super::*;

    #[test]
    fn each_close_is_an_event_with_its_number() {
        let closed = |closing| BusinessDayEvent::Closed(DayClosed { closing });
        given::<BusinessDay>("2012-01-31", [])
            .when_typed("close", "")
            .then([closed(1)])
            .when_typed("close", "{}")
            .then([closed(2)]);
    }

    #[test]
    fn id_is_a_date() {
        given::<BusinessDay>("2012-02-30", []).when_typed("close", "").then_rejected("date-malformed");
    }
}
