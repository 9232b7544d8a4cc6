//! The day of the demo: made up from a seed, and added up without any of the pipeline's code.

pub(crate) mod day;
pub(crate) mod sums;
