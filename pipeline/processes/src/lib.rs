//! Process managers: from events to commands, now or later.
//!
//! [`process_runner`] folds EVENTS into the rows of each process and into an outbox, carries out what the outbox holds, and puts
//! commands that have fallen due on COMMANDS.
//!
//! Deliberately absent: what a process decides. That is a plain function of the application.

pub mod process_runner;
