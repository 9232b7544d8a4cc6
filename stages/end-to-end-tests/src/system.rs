//! A whole Millstream under test: the real `millstream up` on a folder of its own, and what a person does with it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_nats::ConnectOptions;
use millstream_jetstream::line::Dialer;
use millstream_jetstream::{
    nats_broker::NatsBroker,
    nats_server::{NatsServerConfig, free_port},
    testing::test_server,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::{
    binaries::binary,
    nats_cli::NatsCli,
    program::{self, Ended},
    waiting::{PATIENCE, until},
};

/// Stages and a server stop one after the other, each within its own limit.
const STOP_WAIT_MAX: Duration = Duration::from_secs(90);

/// A line of `processes.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RunningProcess {
    /// `nats-server`, `command-handler`, …
    pub name: String,
    /// The running process; absent while it does not run.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u64,
    /// Its log file.
    pub log: PathBuf,
}

/// A running `millstream up`. Dropped, it is killed, and its children end with it.
#[derive(Debug)]
pub struct System {
    child: Child,
    said: watch::Receiver<String>,
    folder: PathBuf,
    port: u16,
    program: PathBuf,
}

impl System {
    /// Starts it on `folder` and returns when it says that all is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(folder: &Path, arguments: &[&str]) -> Self {
        let port = free_port().expect("a port is free");
        Self::start_on_port(folder, port, arguments).await
    }

    /// As [`Self::start`], on a port that was used before.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_on_port(folder: &Path, port: u16, arguments: &[&str]) -> Self {
        Self::start_with_settings(folder, port, arguments, &[]).await
    }

    /// As [`Self::start`], with the stage that keeps tables.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with_tables(folder: &Path, arguments: &[&str]) -> Self {
        let port = free_port().expect("a port is free");
        Self::start_program(binary("millstream"), folder, port, arguments, &[]).await
    }

    /// As [`Self::start_on_port`], with variables that configure the stages.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with_settings(
        folder: &Path,
        port: u16,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        // The stage that keeps tables takes its share of the machine, and most tests ask it nothing.
        let arguments = [arguments, &["--no-sql"]].concat();
        Self::start_program(binary("millstream"), folder, port, &arguments, variables).await
    }

    /// As [`Self::start_with_tables`], with another `millstream` and the stages that stand beside it.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_program(
        program: PathBuf,
        folder: &Path,
        port: u16,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        // Fetches the server once, here, so that no test's patience is spent on a download.
        let _server = test_server::program().await;
        let mut command = program::command(&program);
        command.args(["up", "--nats-port", &port.to_string(), "--dir"]).arg(folder).args(arguments);
        command.envs(variables.iter().copied());
        let mut child =
            command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("millstream starts");
        let said = collect(child.stderr.take().expect("standard error is piped"));
        let system = Self { child, said, folder: folder.to_owned(), port, program };
        system.expect_said("ready:").await;
        system
    }

    /// The URL of its server.
    #[must_use]
    pub fn url(&self) -> String {
        NatsServerConfig::new(self.port, "").url()
    }

    /// The port of its server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder it runs on.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The real `nats` CLI for its server; none on a machine without Go.
    pub async fn nats(&self) -> Option<NatsCli> {
        NatsCli::for_server(self.url()).await
    }

    /// What it has said so far on standard error.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.borrow().clone()
    }

    /// Waits until it has said `text`.
    ///
    /// # Panics
    /// When it ends before, or does not in time.
    pub async fn expect_said(&self, text: &str) {
        let mut said = self.said.clone();
        let waited = tokio::time::timeout(PATIENCE * 2, said.wait_for(|said| said.contains(text))).await;
        let found = matches!(waited, Ok(Ok(_)));
        assert!(found, "millstream up never says {text:?}; it said:\n{}\n{}", self.said(), self.log_tails());
    }

    /// Runs `millstream <arguments>` for its server, to its end.
    ///
    /// # Panics
    /// When it does not start, or does not end in time.
    pub async fn millstream(&self, arguments: &[&str]) -> Ended {
        self.millstream_with_input(arguments, b"").await
    }

    /// As [`Self::millstream`], with something on standard input.
    ///
    /// # Panics
    /// When it does not start, or does not end in time.
    pub async fn millstream_with_input(&self, arguments: &[&str], input: &[u8]) -> Ended {
        program::run(self.command(arguments), input).await
    }

    /// `millstream <arguments>` for its server, not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program::command(&self.program);
        command.env("NATS_URL", self.url()).args(arguments).current_dir(&self.folder);
        command
    }

    /// The processes that run, by name.
    ///
    /// # Panics
    /// When the list cannot be read.
    #[must_use]
    pub fn processes(&self) -> BTreeMap<String, RunningProcess> {
        processes(&self.folder)
    }

    /// Sends a signal to one of its processes; says whether it was there to get it.
    #[must_use]
    pub fn signal(&self, name: &str, signal: Signal) -> bool {
        self.processes()
            .get(name)
            .and_then(|process| process.pid)
            .is_some_and(|pid| kill(Pid::from_raw(pid), signal).is_ok())
    }

    /// `kill -9` of one of its processes, then waits until another one runs in its place.
    ///
    /// # Panics
    /// When nothing takes its place in time.
    pub async fn kill(&self, name: &str) {
        let before = until(format!("{name} runs"), async || {
            self.processes().get(name).filter(|process| process.pid.is_some()).cloned()
        })
        .await;
        let pid = before.pid.expect("it was asked for");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a process on the list can be killed");
        until(format!("{name} is started again"), async || {
            let now = self.processes();
            let now = now.get(name)?;
            (now.restarts > before.restarts && now.pid.is_some()).then_some(())
        })
        .await;
    }

    /// From its next start on a stage connects to `url` instead of to the server itself, such as to a line that leads there.
    ///
    /// # Panics
    /// When it is no stage that runs.
    pub fn lead_over(&self, name: &str, url: &str) {
        let path = self.folder.join("config").join(format!("{name}.toml"));
        let config = fs::read_to_string(&path).expect("each stage has its configuration");
        assert!(config.contains(&self.url()), "{config}");
        fs::write(&path, config.replace(&self.url(), url)).expect("a file that can be read can be written");
    }

    /// JetStream of its server, over a new connection that reconnects for ever; as the stages connect, who may do everything.
    ///
    /// # Panics
    /// When the server does not take the connection.
    pub async fn broker(&self) -> NatsBroker {
        let client = self
            .options()
            .max_reconnects(None)
            .retry_on_initial_connect()
            .connect(self.url())
            .await
            .expect("a server that is ready takes a connection");
        NatsBroker::new(client, Dialer::with_options(&self.url(), self.options()), None)
    }

    /// The file of the key with which the stages connect.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("config/stages.nk")
    }

    fn options(&self) -> ConnectOptions {
        let seed = std::fs::read_to_string(self.key_file()).expect("a running system has a key");
        ConnectOptions::with_nkey(seed.trim().to_owned())
    }

    /// Runs `millstream report`, which waits for everything that is in EVENTS now.
    ///
    /// # Panics
    /// When there is no answer in time.
    pub async fn report(&self, arguments: &[&str]) -> Ended {
        let arguments = [&["report"], arguments].concat();
        until("the report", async || {
            let ended = self.millstream(&arguments).await;
            // 69: not there yet, or its stage is just being started again.
            (ended.code() != Some(69)).then_some(ended)
        })
        .await
    }

    /// A query by request; the answer's JSON, or code and text of the refusal.
    ///
    /// # Panics
    /// When nobody answers or the answer is not JSON.
    pub async fn query(&self, subject: &str, body: &Value) -> Result<Value, (String, String)> {
        let client = async_nats::connect(self.url()).await.expect("the server takes a connection");
        let answer = client
            .request(subject.to_owned(), body.to_string().into())
            .await
            .unwrap_or_else(|error| panic!("{subject}: {error}"));
        let header = |name: &str| {
            answer.headers.as_ref().and_then(|headers| headers.get(name)).map(ToString::to_string)
        };
        match header("Nats-Service-Error-Code") {
            Some(code) => Err((code, header("Nats-Service-Error").unwrap_or_default())),
            None => Ok(serde_json::from_slice(&answer.payload).expect("answers are JSON")),
        }
    }

    /// SIGTERM, and what it said; it must end with exit code 0 and leave no process behind.
    ///
    /// # Panics
    /// When it does not end so.
    pub async fn stop(mut self) -> String {
        let pids: Vec<i32> = self.processes().values().filter_map(|process| process.pid).collect();
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(pid).expect("process ids are small")), Signal::SIGTERM)
            .expect("it runs");
        let status = tokio::time::timeout(STOP_WAIT_MAX, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("millstream up does not stop; it said:\n{}", self.said()))
            .expect("a child can be waited for");
        // The lines before the end of the pipe.
        let mut said = self.said.clone();
        let _closed = said.wait_for(|_| false).await.is_err();
        let said = self.said();
        assert!(status.success(), "millstream up ends with {status}; it said:\n{said}");
        for pid in pids {
            assert!(
                kill(Pid::from_raw(pid), None).is_err(),
                "process {pid} is left behind; up said:\n{said}"
            );
        }
        said
    }

    /// The last lines of every log, for the message of a failure.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let mut tails = String::new();
        for entry in std::fs::read_dir(self.folder.join("logs")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n");
            tails.push_str(&format!("--- {}\n{tail}\n", entry.path().display()));
        }
        tails
    }
}

/// A folder for a system, gone with the value.
///
/// # Panics
/// When none can be made.
#[must_use]
pub fn fresh_folder() -> TempDir {
    TempDir::new().expect("a temporary folder can be made")
}

/// The `millstream` program, in an environment of no settings.
#[must_use]
pub fn millstream() -> Command {
    program::command(binary("millstream"))
}

/// What the list of a system on `folder` says, by name.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn processes(folder: &Path) -> BTreeMap<String, RunningProcess> {
    let text = std::fs::read(folder.join("processes.json")).expect("a running system keeps its list");
    let list: Vec<RunningProcess> = serde_json::from_slice(&text).expect("the list is JSON");
    list.into_iter().map(|process| (process.name.clone(), process)).collect()
}

/// Collects lines as they come; ends with the pipe.
fn collect(pipe: impl AsyncRead + Unpin + Send + 'static) -> watch::Receiver<String> {
    let (sender, receiver) = watch::channel(String::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|said| {
                said.push_str(&line);
                said.push('\n');
            });
        }
    });
    receiver
}
