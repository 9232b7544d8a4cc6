//! One stage as a process of its own, outside `millstream up`: connected through a proxy, on a small disk, killed, stopped and
//! started again on the same folder.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use millstream_jetstream::nats_server::free_port;
use millstream_runtime::process_memory;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Child,
};

use crate::{
    binaries::binary,
    program,
    small_disk::SmallDisk,
    waiting::{PATIENCE, until_within},
};

/// Lines of a log that a failing test shows.
const LINES_SHOWN: usize = 40;

/// A stage; killed when dropped.
#[derive(Debug)]
pub struct StageProcess {
    name: String,
    line: Vec<OsString>,
    log: PathBuf,
    health: String,
    child: Option<Child>,
}

impl StageProcess {
    /// A stage that connects to `url` and keeps its files and its log in `folder`. It does not run yet.
    ///
    /// # Panics
    /// When the folder cannot be used, or no port is free.
    #[must_use]
    pub fn new(stage: &str, instance: &str, url: &str, folder: &Path) -> Self {
        let name = if instance.is_empty() { stage.to_owned() } else { format!("{stage}-{instance}") };
        fs::create_dir_all(folder).expect("the folder can be made");
        let health = format!("127.0.0.1:{}", free_port().expect("a port is free"));
        let data = folder.join(&name);
        let own = match stage {
            "gateway" => format!("gateway.listen=127.0.0.1:{}", free_port().expect("a port is free")),
            _ => format!("{}.data_directory={}", stage.replace('-', "_"), data.display()),
        };
        let settings = [
            format!("nats.url={url}"),
            format!("process.instance={instance}"),
            format!("telemetry.address={health}"),
            own,
        ];
        let mut line = vec![binary(stage).into_os_string()];
        line.extend(settings.into_iter().flat_map(|setting| ["--set".into(), setting.into()]));
        Self { log: folder.join(format!("{name}.log")), name, line, health, child: None }
    }

    /// With another key set.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.line.extend(["--set".into(), setting.into()]);
        self
    }

    /// What it logs goes to this file.
    #[must_use]
    pub fn logging_to(mut self, log: &Path) -> Self {
        log.clone_into(&mut self.log);
        self
    }

    /// Among the files that it sees is this disk.
    #[must_use]
    pub fn inside(mut self, disk: &SmallDisk) -> Self {
        self.line.splice(..0, disk.entrance());
        self
    }

    /// Starts it, unless it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        if self.child.is_some() {
            return;
        }
        let (program, arguments) = self.line.split_first().expect("a line begins with a program");
        let log = File::options().create(true).append(true).open(&self.log).expect("the log can be written");
        let child = program::command(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        self.child = Some(child);
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead, or does not become ready in time.
    pub async fn start_ready(&mut self) {
        self.start();
        self.ready().await;
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead, or does not become ready in time.
    pub async fn ready(&mut self) {
        self.ready_within(PATIENCE).await;
    }

    /// The same for one that has much to read first.
    ///
    /// # Panics
    /// When it ends instead, or does not become ready within `limit`.
    pub async fn ready_within(&mut self, limit: Duration) {
        let what = format!("{} is ready; its log is {}", self.name, self.log.display());
        until_within(limit, what, async || {
            self.expect_running();
            self.readiness().await.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }

    /// The most memory that it had since its start, in bytes; none when it does not run.
    #[must_use]
    pub fn memory_max(&self) -> Option<u64> {
        process_memory::most(self.child.as_ref()?.id()?)
    }

    /// What `/readyz` answers, head and body; empty when nobody answers.
    pub async fn readiness(&self) -> String {
        self.get("/readyz").await
    }

    /// The number on the line of `/metrics` that begins so, if there is one.
    pub async fn metric(&self, beginning: &str) -> Option<f64> {
        let answer = self.get("/metrics").await;
        let line = answer.lines().find(|line| line.starts_with(beginning))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    async fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        let asked = async {
            let mut connection = TcpStream::connect(&self.health).await?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.health);
            connection.write_all(request.as_bytes()).await?;
            connection.read_to_string(&mut answer).await
        };
        match asked.await {
            Ok(_) => answer,
            Err(_) => String::new(),
        }
    }

    /// Fails when it has ended.
    ///
    /// # Panics
    /// Then.
    pub fn expect_running(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended ({status}): {}", self.name, self.log());
        }
    }

    /// How it ended, if it has, or was never started.
    ///
    /// # Panics
    /// When the system cannot tell.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut().expect("it was started");
        child.try_wait().expect("a child can be asked after")
    }

    /// What it is called on the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        i32::try_from(id).expect("process ids are small")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process_id()), signal).expect("a child can be sent signals");
    }

    /// `kill -9`; [`Self::start`] starts it again.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _status = self.wait().await;
    }

    /// Its exit code, when it ends by itself; [`Self::start`] starts it again.
    ///
    /// # Panics
    /// When it does not end in time, or a signal ended it.
    pub async fn exit_code(&mut self) -> i32 {
        let status = self.wait().await;
        status.code().unwrap_or_else(|| panic!("{} ended with {status}: {}", self.name, self.log()))
    }

    async fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was started");
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("{} does not end: {}", self.name, self.log()),
        }
    }

    /// Asks it to end; it must do so in order.
    ///
    /// # Panics
    /// When it does not.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let code = self.exit_code().await;
        assert_eq!(code, 0, "{}: {}", self.name, self.log());
    }

    /// What all its runs have logged.
    #[must_use]
    pub fn log(&self) -> String {
        // A device such as /dev/full can be read without end.
        if self.log.is_file() { fs::read_to_string(&self.log).unwrap_or_default() } else { String::new() }
    }
}

impl Drop for StageProcess {
    /// The end of its log, for whoever reads why a test failed.
    #[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default();
            eprintln!("--- {}\n{}", self.log.display(), shown.join("\n"));
        }
    }
}
