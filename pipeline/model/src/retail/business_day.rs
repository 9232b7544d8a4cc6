//! `business-day.<date>`: the day of the whole company. Its close seals the day's company-wide reports. The rules are those
//! of [`millstream::values::day_close`].

use millstream::values::{context::InContext, day_close};

pub use millstream::values::day_close::{BusinessDayCommand, BusinessDayEvent, CloseDay, DayClosed};

/// The context `retail`, for what `millstream-values` keeps in it.
#[derive(Debug)]
pub struct Retail;

impl InContext for Retail {
    const CONTEXT: &'static str = super::CONTEXT;
}

/// The rules of `business-day.<date>`.
pub type BusinessDay = day_close::BusinessDay<Retail>;
