//! The write side: from a stored command to commits and outcomes.
//!
//! In reading order: [`command_handler`] waits until it is active and then reads COMMANDS in rounds. [`round`] decides a round, as a pure
//! function. [`settlement`] appends what was decided, and decides again if an aggregate has moved on. [`outcome_journal`] records what became
//! of each command. [`id_index`] recognises ids that were used before, and [`state_cache`] keeps the states of aggregates in memory.
//! [`submit_service`] accepts commands as requests, and [`outcome_inbox`] receives their outcomes. [`letter_service`] retries and drops dead letters on request.
//! [`past_state`] folds an aggregate's state as
//! of a moment.
//!
//! Deliberately absent: views, reports, timers, and what any command means.

pub mod aggregate_state;
pub mod command_handler;
mod handler_file;
pub mod id_index;
pub mod letter_service;
pub mod outcome_inbox;
pub mod outcome_journal;
pub mod past_state;
pub mod round;
pub mod settlement;
pub mod state_cache;
pub mod state_snapshots;
pub mod submit_service;
