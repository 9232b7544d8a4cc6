//! For tests: a small domain, dumps of streams, and the simulation.

pub mod account;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod stream_dump;
