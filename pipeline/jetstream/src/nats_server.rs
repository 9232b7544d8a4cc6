//! A nats-server of one's own, for `millstream up`, the demo and tests: found or fetched, started, stopped, killed.
//!
//! Production runs its own servers (see `config/` and `deploy/`); nothing here is used there.

pub use self::{
    config::{ClusterConfig, NatsServerConfig},
    find::{FindError, NatsServerProgram, SearchPlaces, VERSION_FETCHED, VERSION_MIN, Version},
    server::{NatsServer, ServerError, free_port, wait_for_jetstream, wait_until_ready},
};

mod config;
mod find;
mod server;
