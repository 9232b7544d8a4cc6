//! Benchmarks: the real stages against a bare loop on the same server in the same run, so that a shared and noisy machine
//! slows both.

pub(crate) mod bare_loop;
pub(crate) mod figures;
pub(crate) mod latency;
pub(crate) mod load;
pub(crate) mod pipeline;
#[cfg(feature = "reference")]
pub(crate) mod rebuild;
#[cfg(feature = "reference")]
pub(crate) mod sales;
