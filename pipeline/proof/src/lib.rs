//! Proves from the streams alone that the guarantees hold, and tries to break them.
//!
//! [`verification`] reads COMMANDS, EVENTS and OUTCOMES; `millstream verify` runs it. The feature `testing` adds a small domain for tests. The
//! feature `simulation` adds whole systems in memory under random faults, and plants bugs in them to show that the checks find them.
//!
//! Deliberately absent: a place in any running stage.

#[cfg(feature = "testing")]
pub mod testing;
pub mod verification;
