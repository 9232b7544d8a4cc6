//! What any domain needs: money, business dates, the ids and names in command bodies; and two aggregates, each with a
//! process: [`claims`] for what must be unique, [`day_close`] for days that end. Pure: no async, no clock, no randomness, no
//! NATS and no redb; time and ids arrive as arguments.

pub mod business_date;
pub mod claims;
pub mod context;
pub mod day_close;
pub mod money;
pub mod reference;
mod table;
pub mod text;

/// The blocks of the guide to claims and closing days, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/claims-and-closing-days.md")]
pub struct ClaimsAndClosingDaysGuide;
