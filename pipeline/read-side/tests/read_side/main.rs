//! The read side against a real nats-server: projections that are fed, halted, rebuilt and killed, and the queries that
//! see their rows.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are part of tests")]

mod catching_up;
mod doubts;
mod large_answers;
mod past;
mod publishing;
mod queries;
mod replicas;
mod running;
mod support;
mod sweeping;
mod telling;
