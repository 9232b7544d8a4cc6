//! A private nats-server for `millstream up`, the demo and tests: found or downloaded, started, stopped, killed.
//!
//! Nothing here is used in production, which runs its own servers (see `config/` and `deploy/`).

pub use self::{
    config::{ClusterConfig, NatsServerConfig},
    find::{FindError, NatsServerProgram, SearchPlaces, VERSION_FETCHED, VERSION_MIN, Version},
    port::{free_port, keep_port},
    server::{NatsServer, ServerError, wait_for_jetstream, wait_until_ready},
};

mod config;
mod find;
mod port;
mod server;
