//! The configuration file of a private nats-server.

use std::{fmt::Write as _, net::Ipv4Addr, path::PathBuf};

/// How many messages may wait for one stream while each is synced. config/nats-server.conf has the same number.
const BUFFERED_MAX: usize = 5000;

/// The server's place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The port for the other servers.
    pub port: u16,
    /// The cluster ports of all servers.
    pub routes: Vec<u16>,
}

/// The settings of a server. It listens only on the loopback interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServerConfig {
    /// Name of the server, unique in its cluster.
    pub name: String,
    /// Port for clients.
    pub port: u16,
    /// Where JetStream keeps its files.
    pub store_folder: PathBuf,
    /// When JetStream syncs to disk: `always` or a duration; the server's default (2 minutes) when absent.
    pub sync_interval: Option<String>,
    /// More of the server's configuration, copied as it is.
    pub extra: String,
    /// `None` for a server without a cluster.
    pub cluster: Option<ClusterConfig>,
}

impl NatsServerConfig {
    /// A server without a cluster.
    pub fn new(port: u16, store_folder: impl Into<PathBuf>) -> Self {
        Self {
            name: "millstream".to_owned(),
            port,
            store_folder: store_folder.into(),
            sync_interval: None,
            extra: String::new(),
            cluster: None,
        }
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("nats://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// The text of the configuration file. It states the limits of the store, because the server's own guess from the free disk space may
    /// be less than the sizes of all streams together, and it would then refuse to create them.
    pub fn render(&self) -> String {
        let mut text = String::from("# Written at each start; changes are lost.\n");
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            text.write_fmt(arguments).and_then(|()| text.write_char('\n')).expect("text can always grow");
        };
        line(format_args!("server_name: {}", quoted(&self.name)));
        line(format_args!("listen: \"{}:{}\"", Ipv4Addr::LOCALHOST, self.port));
        // The same as in production: a client that does not read its answers must not slow down the sender.
        line(format_args!("no_fast_producer_stall: true"));
        line(format_args!("jetstream {{"));
        line(format_args!("  store_dir: {}", quoted(&self.store_folder.to_string_lossy())));
        line(format_args!("  max_mem: 256MB"));
        line(format_args!("  max_file: 1TB"));
        if let Some(interval) = &self.sync_interval {
            line(format_args!("  sync_interval: {}", quoted(interval)));
            // As in production: a client that does not wait for acknowledgements must not make the messages of others wait long.
            line(format_args!("  max_buffered_msgs: {BUFFERED_MAX}"));
        }
        line(format_args!("}}"));
        if let Some(cluster) = &self.cluster {
            line(format_args!("cluster {{"));
            line(format_args!("  name: \"millstream\""));
            line(format_args!("  listen: \"{}:{}\"", Ipv4Addr::LOCALHOST, cluster.port));
            let routes =
                cluster.routes.iter().map(|port| format!("\"nats://{}:{port}\"", Ipv4Addr::LOCALHOST));
            line(format_args!("  routes: [{}]", routes.collect::<Vec<_>>().join(", ")));
            line(format_args!("}}"));
        }
        text.push_str(&self.extra);
        text
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
