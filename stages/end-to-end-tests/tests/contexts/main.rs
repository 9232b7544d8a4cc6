//! The contexts as people use them, on a whole system: orders with their fulfilment, stock, comments, commands for later.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]
#![expect(clippy::indexing_slicing, reason = "a field that is missing shows as null, and the test fails")]

mod by_hand;
mod last_release;
mod later;
mod own_app;
mod own_application;
mod own_context;
mod packages;
mod replicas;
mod transfers;
mod week;
