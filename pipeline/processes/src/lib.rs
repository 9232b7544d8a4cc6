//! From events to commands, now or later: runs the processes of an application, carries their effects out, and puts
//! commands that have fallen due on COMMANDS.
//!
//! Deliberately absent: what a process decides; that is a plain function of the application.

#![deny(missing_docs)]

pub mod process_runner;
