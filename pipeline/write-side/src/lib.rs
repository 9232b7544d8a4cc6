//! From a stored command to commits and outcomes.
//!
//! The [`command_handler`] reads COMMANDS in rounds, [`round`] decides them (a pure function), [`settlement`] appends what
//! was decided, [`outcome_journal`] records what became of each command. [`submit_service`] takes commands by request.
//! Deliberately absent: views, reports, timers.

pub mod aggregate_state;
pub mod command_handler;
pub mod id_index;
pub mod outcome_journal;
pub mod round;
pub mod settlement;
pub mod state_cache;
pub mod state_snapshots;
pub mod submit_service;
