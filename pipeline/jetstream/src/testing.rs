//! For tests: the twin of JetStream in memory, the scenarios that twin and server must pass, faults, and real servers.

pub mod broker_scenarios;
pub mod fault_plan;
pub mod memory_broker;
pub mod operation;
pub mod raw_client;
pub mod relay;
pub mod restricted_server;
pub mod test_server;
