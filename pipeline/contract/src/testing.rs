//! For tests of every crate: seeded chance.

pub mod dice;
