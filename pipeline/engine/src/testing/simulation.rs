//! Simulation of the write side: handlers without trust in each other over the twin of JetStream, every fault, and the
//! checkers of [`crate::verification`] afterwards. A run is determined by its seed.

pub mod account;
