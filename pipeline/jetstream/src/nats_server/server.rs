//! A nats-server as a child process.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use millstream_contract::exit_code::{ExitCode, Failure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{config::NatsServerConfig, find::NatsServerProgram, port::PORT_FIRST};

/// A store that was not closed in order is read again at the start, which takes seconds on a laptop, not minutes.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// The time for the server to hand over its leaders and close its files.
const STOP_WAIT_MAX: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file could not be written, or the program could not be started.
    #[error("{action}")]
    Io {
        /// What failed.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended without being asked to.
    #[error("nats-server ended at its start ({status}); its log {log} ends with: {tail}")]
    Ended {
        /// Its exit status.
        status: ExitStatus,
        /// Where its log is.
        log: PathBuf,
        /// The last line of the log.
        tail: String,
    },
    /// It runs but does not answer.
    #[error("nats-server on port {port} is not ready after {} s", READY_WAIT_MAX.as_secs())]
    NotReady {
        /// The port.
        port: u16,
    },
    /// It accepts clients, but JetStream does not answer.
    #[error("JetStream does not answer after {} s", READY_WAIT_MAX.as_secs())]
    NoJetStream,
    /// No port is free.
    #[error("no free port found from {PORT_FIRST} on")]
    NoPort,
}

impl Failure for ServerError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Io { source, .. } => ExitCode::of_file_error(source),
            Self::Ended { .. } | Self::NotReady { .. } | Self::NoJetStream | Self::NoPort => {
                ExitCode::Unavailable
            }
        }
    }
}

/// A server that this process has started. Dropping it kills the server.
#[derive(Debug)]
pub struct NatsServer {
    program: NatsServerProgram,
    config: NatsServerConfig,
    folder: PathBuf,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server with its files in `folder`, and waits until it accepts clients.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn start(
        program: NatsServerProgram,
        config: NatsServerConfig,
        folder: &Path,
    ) -> Result<Self, ServerError> {
        let mut server = Self::spawned(program, config, folder)?;
        server.restart().await?;
        Ok(server)
    }

    /// Starts a server without waiting, because the servers of a cluster wait for each other. [`Self::restart`] then waits.
    ///
    /// # Errors
    /// [`ServerError::Io`].
    pub fn spawned(
        program: NatsServerProgram,
        config: NatsServerConfig,
        folder: &Path,
    ) -> Result<Self, ServerError> {
        let mut server = Self { program, config, folder: folder.to_owned(), child: None };
        server.spawn()?;
        Ok(server)
    }

    /// Starts it again on the same port and store after it was stopped or killed, and waits until it accepts clients. Does nothing if it
    /// runs.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        if self.child.is_none() {
            self.spawn()?;
        }
        self.wait_until_ready().await
    }

    fn spawn(&mut self) -> Result<(), ServerError> {
        let failed = |action: String| |source| ServerError::Io { action, source };
        fs::create_dir_all(&self.folder)
            .map_err(failed(format!("cannot make the folder {}", self.folder.display())))?;
        let path = self.config_path();
        fs::write(&path, self.config.render()).map_err(failed(format!("cannot write {}", path.display())))?;
        let log_path = self.log_path();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(failed(format!("cannot write {}", log_path.display())))?;
        let also = log.try_clone().map_err(failed(format!("cannot write {}", log_path.display())))?;
        let child = Command::new(&self.program.path)
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed(format!("cannot start {}", self.program.path.display())))?;
        self.child = Some(child);
        Ok(())
    }

    async fn wait_until_ready(&mut self) -> Result<(), ServerError> {
        let port = self.config.port;
        let log = self.log_path();
        let Some(child) = &mut self.child else { return Err(ServerError::NotReady { port }) };
        tokio::select! {
            ready = wait_until_ready(port) => ready,
            ended = child.wait() => {
                self.child = None;
                let status = ended.map_err(|source| ServerError::Io { action: "cannot wait".to_owned(), source })?;
                let text = fs::read_to_string(&log).unwrap_or_default();
                let tail = text.lines().next_back().unwrap_or_default().to_owned();
                Err(ServerError::Ended { status, log, tail })
            }
        }
    }

    /// The process id, as long as it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        self.config.url()
    }

    /// The settings with which it was started.
    pub fn config(&self) -> &NatsServerConfig {
        &self.config
    }

    /// Where its log is.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }

    fn config_path(&self) -> PathBuf {
        self.folder.join("nats-server.conf")
    }

    /// Asks it to stop, waits, and kills it if it does not stop.
    pub async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if signal(&child, Signal::SIGTERM) && timeout(STOP_WAIT_MAX, child.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(server = self.config.name, "nats-server did not stop in time; killing it");
        end(child).await;
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            end(child).await;
        }
    }

    /// Sends it any signal, such as SIGSTOP or SIGCONT. Does nothing if it does not run.
    pub fn signal(&self, which: Signal) {
        if let Some(child) = &self.child {
            signal(child, which);
        }
    }
}

fn signal(child: &Child, which: Signal) -> bool {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), which).is_ok())
}

async fn end(mut child: Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "cannot kill nats-server");
    }
}

/// Waits until a server on this port of the loopback interface greets its clients.
///
/// # Errors
/// [`ServerError::NotReady`] after a bounded wait.
pub async fn wait_until_ready(port: u16) -> Result<(), ServerError> {
    let greeted = async {
        while !is_greeted(port).await {
            sleep(POLL_INTERVAL).await;
        }
    };
    timeout(READY_WAIT_MAX, greeted).await.map_err(|_| ServerError::NotReady { port })
}

/// Waits until JetStream answers. In a cluster, it does not answer before the servers have elected a leader.
///
/// # Errors
/// [`ServerError::NoJetStream`] after a bounded wait.
pub async fn wait_for_jetstream(jetstream: &async_nats::jetstream::Context) -> Result<(), ServerError> {
    let answered = async {
        while jetstream.query_account().await.is_err() {
            sleep(POLL_INTERVAL).await;
        }
    };
    timeout(READY_WAIT_MAX, answered).await.map_err(|_| ServerError::NoJetStream)
}

async fn is_greeted(port: u16) -> bool {
    let Ok(connection) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return false };
    let mut line = String::new();
    matches!(BufReader::new(connection).read_line(&mut line).await, Ok(1..)) && line.starts_with("INFO ")
}
