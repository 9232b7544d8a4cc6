//! `business-day.<date>`: a day that ends, in a context of an application's own. Closing it seals the reports of the day.
//!
//! The aggregate cannot know whether there were entries since the last close, so each close is an event; reports without new postings ignore
//! it. [`DayClosing`] closes days by a timer. [`timers`] is for processes that also close other things, such as each till of a day.

mod closing;
pub mod settings;
pub mod timers;

use std::marker::PhantomData;

use millstream_domain::decider::{ANY_COMMAND, Decider, DecisionContext, Rejection};
use serde::{Deserialize, Serialize};

pub use self::closing::{DayClosing, DayEntries};
use crate::{business_date::BusinessDate, context::InContext};

/// Ends the day. It may be ended more than once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseDay {}

millstream_domain::commands! {
    /// What can be asked of a business day.
    pub enum BusinessDayCommand { Close(CloseDay) = "close" }
}

/// The day was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayClosed {
    /// The number of the close, from 1.
    pub closing: u32,
}

millstream_domain::events! {
    /// What can happen to a business day.
    pub enum BusinessDayEvent of "business-day" { Closed(DayClosed) = "day-closed" v 1 }
}

/// What the rules need to know of a business day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusinessDayState {
    closings: u32,
}

/// The rules of `business-day.<date>` in the context `C`.
#[derive(Debug)]
pub struct BusinessDay<C>(PhantomData<fn() -> C>);

impl<C: InContext> Decider for BusinessDay<C> {
    type Command = BusinessDayCommand;
    type Event = BusinessDayEvent;
    type State = BusinessDayState;

    const CONTEXT: &'static str = C::CONTEXT;
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
        Ok(vec![BusinessDayEvent::Closed(DayClosed { closing: state.closings.saturating_add(1) })])
    }

    fn evolve(state: &mut BusinessDayState, event: &BusinessDayEvent) {
        let BusinessDayEvent::Closed(closed) = event;
        state.closings = closed.closing;
    }
}

#[cfg(test)]
mod tests;
