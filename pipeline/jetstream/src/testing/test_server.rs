//! A real nats-server for a test, with a free port and a temporary folder. Both are released when the value is dropped.
//!
//! The environment (`NATS_SERVER` and `PATH`) is read here, because a test has no main function that could do it.

use std::path::PathBuf;

use async_nats::{Client, ConnectOptions, jetstream};
use tempfile::TempDir;

use crate::line::Dialer;
use crate::{
    nats_broker::NatsBroker,
    nats_server::{
        ClusterConfig, NatsServer, NatsServerConfig, NatsServerProgram, SearchPlaces, ServerError, free_port,
        wait_for_jetstream,
    },
    provision::{ProvisionOptions, provision},
};

/// How often a start is repeated when somebody else took the port in the meantime.
const START_TRIES: usize = 5;

/// A nats-server, or one server of a cluster. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub struct TestServer {
    server: NatsServer,
    _folder: TempDir,
}

impl TestServer {
    /// A server with the default sync interval.
    ///
    /// # Panics
    /// When none can be found, downloaded or started. Without a server, the test would mean nothing.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server whose configuration `adjust` has changed.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(adjust: impl Fn(&mut NatsServerConfig)) -> Self {
        let program = program().await;
        let mut tries = 0;
        loop {
            let folder = TempDir::new().expect("a temporary folder can be made");
            let port = free_port().expect("a port is free");
            let mut config = NatsServerConfig::new(port, folder.path().join("jetstream"));
            adjust(&mut config);
            match NatsServer::start(program.clone(), config, folder.path()).await {
                Ok(server) => return Self { server, _folder: folder },
                Err(ServerError::Ended { .. }) if tries < START_TRIES => tries += 1,
                Err(error) => panic!("nats-server does not start: {error}"),
            }
        }
    }

    /// Three servers in one cluster, which can create streams with three replicas.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_cluster() -> [Self; 3] {
        let program = program().await;
        let ports = [0; 3].map(|_| free_port().expect("a port is free"));
        let mut servers = [1, 2, 3].map(|number: usize| {
            let folder = TempDir::new().expect("a temporary folder can be made");
            let port = free_port().expect("a port is free");
            let mut config = NatsServerConfig::new(port, folder.path().join("jetstream"));
            config.name = format!("millstream-{number}");
            let own = *ports.get(number - 1).expect("there is a port for each server");
            config.cluster = Some(ClusterConfig { port: own, routes: ports.to_vec() });
            let server = NatsServer::spawned(program.clone(), config, folder.path())
                .expect("nats-server can be started");
            Self { server, _folder: folder }
        });
        for each in &mut servers {
            each.server.restart().await.expect("every server of the cluster takes clients");
        }
        let [first, _, _] = &servers;
        let context = jetstream::new(first.client().await);
        wait_for_jetstream(&context).await.expect("the cluster elects a leader");
        servers
    }

    /// A server with all of Millstream's streams.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_provisioned() -> Self {
        let server = Self::start().await;
        let context = jetstream::new(server.client().await);
        provision(&context, &ProvisionOptions::default()).await.expect("the streams can be made");
        server
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// A new connection that reconnects for ever.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn client(&self) -> Client {
        ConnectOptions::new()
            .max_reconnects(None)
            .connect(self.url())
            .await
            .expect("a server that is ready takes a connection")
    }

    /// A new connection, as the engine uses it.
    ///
    /// # Panics
    /// As [`Self::client`].
    pub async fn broker(&self) -> NatsBroker {
        NatsBroker::new(self.client().await, Dialer::plain(&self.url()), None)
    }

    /// The folder in which it keeps a stream.
    pub fn stream_folder(&self, stream: &str) -> PathBuf {
        self.server.config().store_folder.join("jetstream").join("$G").join("streams").join(stream)
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }

    /// Stops it in an orderly way.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Starts it again on the same port and store.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.server.restart().await.expect("the server starts again on its own store");
    }

    /// The process itself.
    pub fn process(&self) -> &NatsServer {
        &self.server
    }
}

/// The program that tests use.
///
/// # Panics
/// When there is none and none can be fetched.
pub async fn program() -> NatsServerProgram {
    let places = places();
    tokio::task::spawn_blocking(move || NatsServerProgram::find(&places))
        .await
        .expect("the search does not panic")
        .unwrap_or_else(|error| panic!("{error}"))
}

fn places() -> SearchPlaces {
    let executable = std::env::current_exe().ok();
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    SearchPlaces {
        named: folder("NATS_SERVER"),
        path: std::env::var_os("PATH"),
        cache: SearchPlaces::cache_folder(executable.as_deref(), folder("XDG_CACHE_HOME"), folder("HOME")),
    }
}
