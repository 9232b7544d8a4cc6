//! A stage as a process that goes on: watched by its log, its health and its exit code.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use end_to_end_tests::waiting::PATIENCE;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running process. It is killed when dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    _folder: TempDir,
}

impl Process {
    /// Starts a command, in a folder of its own.
    pub(crate) fn start(mut command: Command) -> Self {
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("log");
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, name, log, _folder: folder }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }

    /// Its exit code, when it ends by itself within `limit`.
    pub(crate) async fn exit_code(&mut self, limit: Duration) -> i32 {
        let ended = timeout(limit, self.child.wait()).await;
        let Ok(status) = ended else { panic!("{} does not end: {}", self.name, self.log()) };
        status.unwrap().code().unwrap_or_else(|| panic!("{} was killed", self.name))
    }

    /// Fails when it has ended.
    pub(crate) fn expect_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended ({status}): {}", self.name, self.log());
        }
    }

    /// Waits until a health path answers 200.
    pub(crate) async fn healthy(&mut self, address: &str, path: &str) {
        let mut last = String::new();
        let found = async {
            loop {
                self.expect_running();
                last = get(address, path).await.unwrap_or_else(|error| error.to_string());
                if last.starts_with("HTTP/1.1 200") {
                    return;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        if timeout(PATIENCE, found).await.is_err() {
            panic!("{} is not healthy ({last}): {}", self.name, self.log());
        }
    }
}

/// The answer to a plain GET, head and body.
pub(crate) async fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}
