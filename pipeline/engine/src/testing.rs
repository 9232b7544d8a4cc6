//! What tests of models, stages and the engine itself need. Behind the feature `testing`; never part of a release.

mod batchings;
pub mod broker_scenarios;
pub mod crash_storage;
mod declared;
pub mod dice;
pub mod fault_plan;
pub mod given_when_then;
pub mod golden;
pub mod in_memory_system;
pub mod memory_broker;
pub mod memory_rows;
pub mod operation;
pub mod project;
pub mod raw_client;
pub mod restricted_server;
pub mod sequential_handler;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod stage_files;
pub mod stream_dump;
pub mod test_server;
