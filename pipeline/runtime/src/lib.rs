//! What every process needs: configuration, connection, health, metrics, logs, shutdown, and the frame of a stage.
//!
//! [`stage`] is the common `main` of all stages. [`config`] reads their keys from all places in order, [`connection`] keeps them
//! connected, [`health`] and [`metrics`] report how they are, [`stream_watch`] asks for them what the streams hold,
//! [`time_zone_watch`] compares what two stages have to agree on, [`memory_limit`] bounds their caches, [`process_memory`] measures
//! them, [`file_work`] keeps work on files away from async tasks, and [`shutdown`] ends them in time. [`stage_needs`] lists what each
//! stage asks of the server, and [`stage_check`] tries it. What any of them prints goes through [`standard_streams`].
//!
//! Deliberately absent: what a stage does between start and stop.

pub mod config;
pub mod connection;
pub mod file_work;
pub mod health;
pub mod memory_limit;
pub mod metrics;
pub mod process_memory;
pub mod shutdown;
pub mod stage;
pub mod stage_check;
pub mod stage_needs;
pub mod standard_streams;
pub mod status_service;
pub mod stream_watch;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time_zone_watch;
