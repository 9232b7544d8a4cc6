//! The faults that no simulation plays: real processes, real servers, real sockets and disks fail under load, and afterwards
//! everything that was acknowledged is there, decided once, as a plain fold decides it. One module for each fault;
//! docs/reliability.md is the list. Every test prints its seed; `MILLSTREAM_FAULTS_SEED` sets it.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]
#![expect(clippy::print_stderr, reason = "the test harness shows it with a failure")]

mod broker;
mod disk_full;
mod full_log;
mod handlers;
mod network;
mod process_manager;
mod projector;
mod slow_disk;
mod stalls;
mod steps;
mod verdict;
