//! What any domain needs: money, business dates, the ids and names in command bodies; [`report_table`], which writes reports as texts; and two
//! aggregates, each with a process: [`claims`] for what must be unique, and [`day_close`] for days that end. Pure: no async, no clock, no
//! randomness, no NATS and no redb; time and ids are arguments.

pub mod business_date;
pub mod claims;
pub mod context;
pub mod day_close;
pub mod money;
pub mod reference;
pub mod report_table;
mod table;
pub mod text;
