//! The read side against a real nats-server: projections that are fed, halted, rebuilt and killed, and the queries that
//! see their rows.

mod running;
mod support;
