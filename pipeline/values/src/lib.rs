//! What any domain needs: money, business dates, texts, and the ids and names in command bodies. Pure: no async, no clock,
//! no randomness, no NATS and no redb; time and ids arrive as arguments.

pub mod business_date;
pub mod money;
pub mod reference;
pub mod text;
