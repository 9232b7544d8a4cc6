//! The gateway as real processes, asked over real connections.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where something unexpected happens"
)]

mod audit;
mod command_ids;
mod commands;
mod configured_queries;
mod dead_letters;
mod doors;
mod faults;
mod guide;
mod history;
mod issuer;
mod keys;
mod lines;
mod live;
mod live_faults;
mod live_load;
mod openapi;
mod places;
mod preconditions;
mod proxies;
mod queries;
mod reports;
mod tls;
mod tokens;
mod users;
mod views;

use std::path::{Path, PathBuf};

use end_to_end_tests::{http_client::HttpClient, stage_process::StageProcess};
use millstream_jetstream::nats_server::free_port;

/// A gateway that is not started yet, and a client for it.
fn gateway(url: &str, folder: &Path) -> (StageProcess, HttpClient) {
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let gateway = StageProcess::new("gateway", "", url, folder).set(&format!("gateway.listen={address}"));
    (gateway, HttpClient::new(&address))
}

/// The same, which asks for the keys in a file; the file is not written yet.
fn gateway_with_keys(url: &str, folder: &Path) -> (StageProcess, HttpClient, PathBuf) {
    let file = folder.join("keys.toml");
    let (process, client) = gateway(url, folder);
    (process.set(&format!("gateway.keys_file={}", file.display())), client, file)
}
