//! What every process stands on: configuration, connection, health, metrics, logs, shutdown, and running a stage.
//!
//! Deliberately absent: what a stage does between start and stop.

#![deny(missing_docs)]

pub mod config;
pub mod connection;
pub mod health;
pub mod metrics;
pub mod shutdown;
pub mod stage;
pub mod stage_check;
pub mod stage_needs;
pub mod status_service;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
