//! For tests: storage that fails or forgets, and projections applied in every way of cutting events into batches.

pub mod batchings;
pub mod crash_storage;
