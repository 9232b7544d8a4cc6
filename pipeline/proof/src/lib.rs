//! Proves from the streams alone what Millstream promises, and tries to break it.
//!
//! [`verification`] is what `millstream verify` runs. The feature `simulation` adds whole systems in memory under drawn
//! faults, with bugs planted to see that they are found.

#![deny(missing_docs)]

#[cfg(feature = "testing")]
pub mod testing;
pub mod verification;
