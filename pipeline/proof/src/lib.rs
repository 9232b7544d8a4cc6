//! Proof that the promises were kept, from the streams alone, and attempts to break them.
//!
//! [`verification`] reads COMMANDS, EVENTS and OUTCOMES and is what `millstream verify` runs. The feature `testing` adds a small
//! domain for tests; the feature `simulation` adds whole systems in memory under random faults, and plants bugs in them, to show
//! that the checks find them.
//!
//! Deliberately absent: a place in any running stage.

#[cfg(feature = "testing")]
pub mod testing;
pub mod verification;
