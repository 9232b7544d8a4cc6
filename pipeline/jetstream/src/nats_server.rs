//! A private nats-server for `millstream up`, the demo and tests: found or downloaded, started, stopped, killed.
//!
//! Nothing here is used in production, which runs its own servers (see `config/` and `deploy/`).

pub use self::{
    config::{ClusterConfig, NatsServerConfig},
    find::{FindError, NatsServerProgram, SearchPlaces, VERSION_FETCHED, VERSION_MIN, Version},
    server::{NatsServer, ServerError, free_port, wait_for_jetstream, wait_until_ready},
};

mod config;
mod find;
mod server;
