//! Benchmarks: the real stages against a bare loop on the same server in the same run, so that a shared and noisy machine
//! slows both.

pub(crate) mod bare_commands;
pub(crate) mod bare_loop;
mod bare_rows;
mod bare_streams;
mod client_place;
pub(crate) mod closed_loop;
pub(crate) mod closed_loop_error;
pub(crate) mod command_figures;
pub(crate) mod figures;
pub(crate) mod handler_rounds;
pub(crate) mod latency;
pub(crate) mod load;
pub(crate) mod pipeline;
pub(crate) mod process_costs;
pub(crate) mod real_commands;
#[cfg(feature = "reference")]
pub(crate) mod rebuild;
#[cfg(feature = "reference")]
pub(crate) mod sales;
pub(crate) mod storage;
