//! What every process needs: configuration, connection, health, metrics, logs, shutdown, and the frame of a stage.
//!
//! [`stage`] is the common `main` of all stages. [`config`] reads their keys from all sources in order. [`connection`] keeps them connected.
//! [`health`] and [`metrics`] report their state, for which [`stream_watch`] asks what the streams hold. [`time_zone_watch`] compares a setting
//! on which two stages have to agree. [`memory_limit`] limits their caches, and [`process_memory`] measures their memory. [`file_work`] keeps
//! work on files away from async tasks, and [`shutdown`] ends the process in time. [`stage_needs`] lists what each stage needs of the server,
//! and [`stage_check`] checks it. Everything that they print goes through [`standard_streams`].
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
