//! The demo's day: made up from a seed, and summed up without any of the pipeline's code.

pub(crate) mod day;
pub(crate) mod sums;
