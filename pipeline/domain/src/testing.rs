//! The testing kit: rules with given, when, then; views, reports and processes on events in memory; golden files.

mod declared;
pub mod given_when_then;
pub mod golden;
pub mod in_memory_system;
pub mod memory_rows;
pub mod project;
pub mod sequential_handler;
