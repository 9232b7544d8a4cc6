//! The stage runtime from outside: a stage as a process against a real server, its exit codes, words and health.
#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use millstream_jetstream::{nats_server::free_port, testing::test_server::TestServer};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_idle_stage"));
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn output(arguments: &[&str]) -> Output {
    command(arguments).output().await.unwrap()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A running stage, its log read line by line.
struct Running {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// Reads the log up to a line that contains `text`.
    async fn line_with(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("the process ended without `{text}`");
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("never `{text}`"))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    async fn exit_code(&mut self) -> i32 {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
        status.code().expect("it ends by itself, not by a signal")
    }
}

async fn get(address: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_stage_gets_ready_and_ends_with_zero_on_sigterm() {
    let server = TestServer::start().await;
    let url = format!("nats.url={}", server.url());
    let mut stage =
        Running::start(&["--set", &url, "--set", "telemetry.address=127.0.0.1:0", "--instance", "2"]);
    let line: serde_json::Value = serde_json::from_str(&stage.line_with("serving").await).unwrap();
    assert_eq!(
        (line["stage"].as_str(), line["instance"].as_str()),
        (Some("idle-stage"), Some("2")),
        "{line}"
    );
    let address = line["address"].as_str().unwrap().to_owned();
    stage.line_with("connected to NATS").await;
    let ready = async {
        while !get(&address, "/readyz").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("ready");
    assert!(get(&address, "/metrics").await.contains("millstream_nats_connected 1\n"));
    stage.signal(Signal::SIGTERM);
    stage.line_with("stopped").await;
    assert_eq!(stage.exit_code().await, 0);
}

#[tokio::test]
async fn a_stage_that_still_waits_for_its_server_ends_with_zero_on_sigint() {
    let url = format!("nats.url=nats://127.0.0.1:{}", free_port().unwrap());
    let mut stage = Running::start(&["--set", &url]);
    let line = stage.line_with("trying again").await;
    assert!(line.contains("connection refused"), "{line}");
    stage.signal(Signal::SIGINT);
    assert_eq!(stage.exit_code().await, 0);
}

#[tokio::test]
async fn a_stage_that_does_not_end_in_time_is_given_up_with_70() {
    let server = TestServer::start().await;
    let url = format!("nats.url={}", server.url());
    let arguments = ["--set", &url, "--set", "idle.linger=1h", "--set", "shutdown.limit=50ms"];
    let mut stage = Running::start(&arguments);
    stage.line_with("connected to NATS").await;
    stage.signal(Signal::SIGTERM);
    let line = stage.line_with("error: ").await;
    assert!(line.contains("shutdown.limit"), "{line}");
    assert_eq!(stage.exit_code().await, 70);
}

#[tokio::test]
async fn a_server_that_is_not_there_ends_with_69_and_one_line() {
    let url = format!("nats://127.0.0.1:{}", free_port().unwrap());
    let setting = format!("nats.url={url}");
    let result =
        output(&["--set", &setting, "--set", "nats.connect_timeout=100ms", "--set", "telemetry.filter=off"])
            .await;
    assert_eq!(result.status.code(), Some(69));
    let expected = format!(
        "error: no connection to {url} within 100ms: connection refused; check nats.url and whether nats-server runs \
         there\n"
    );
    assert_eq!(words(&result.stderr), expected);
}

#[tokio::test]
async fn wrong_configuration_ends_with_78_and_a_line_for_each_problem() {
    let result = output(&["--set", "idle.lingr=1s", "--set", "shutdown.limit=now"]).await;
    assert_eq!(result.status.code(), Some(78));
    let words = words(&result.stderr);
    let lines: Vec<&str> = words.lines().collect();
    assert_eq!(lines.len(), 2, "{words}");
    assert!(lines[0].starts_with("error: flag --set shutdown.limit: `shutdown.limit` is wrong: "), "{words}");
    assert_eq!(
        lines[1],
        "error: flag --set idle.lingr: unknown key `idle.lingr`; did you mean `idle.linger`?"
    );
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_64() {
    let result = output(&["--sett", "a.b=c"]).await;
    assert_eq!(result.status.code(), Some(64));
    assert!(words(&result.stderr).contains("--set"), "{}", words(&result.stderr));
}

#[tokio::test]
async fn questions_about_the_configuration_need_no_server() {
    let check = output(&["--check-config"]).await;
    assert_eq!(
        (check.status.code(), words(&check.stdout).as_str()),
        (Some(0), "the configuration is valid\n")
    );
    let dump = output(&["--dump-config", "--set", "idle.linger=3s"]).await;
    assert!(words(&dump.stdout).lines().any(|line| line.starts_with("idle.linger = \"3s\"")));
    let reference = output(&["--reference-config"]).await;
    assert!(words(&reference.stdout).contains("# linger = \"0s\"\n"));
    let version = output(&["--version"]).await;
    assert_eq!(words(&version.stdout), format!("idle-stage {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn an_address_that_another_process_uses_ends_with_78() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setting = format!("telemetry.address={}", taken.local_addr().unwrap());
    let result = output(&["--set", &setting]).await;
    assert_eq!(result.status.code(), Some(78));
    assert!(
        words(&result.stderr).contains("cannot be used; choose another one"),
        "{}",
        words(&result.stderr)
    );
}

#[tokio::test]
async fn a_check_with_the_server_lists_what_it_found() {
    let server = TestServer::start().await;
    let url = format!("nats.url={}", server.url());
    let result = output(&["--check-config", "--connect", "--set", &url]).await;
    assert_eq!(result.status.code(), Some(0), "{}", words(&result.stderr));
    assert!(words(&result.stdout).starts_with("ok      server version: 2."), "{}", words(&result.stdout));
    let unreachable = format!("nats.url=nats://127.0.0.1:{}", free_port().unwrap());
    // Whoever asks is told soon, however long the stage itself would wait: it was silent for a minute.
    for (timeout, waited) in [("100ms", "within 100ms"), ("1h", "within 5s"), ("0", "within 5s")] {
        let timeout = format!("nats.connect_timeout={timeout}");
        let result = output(&["--check-config", "--connect", "--set", &unreachable, "--set", &timeout]).await;
        assert_eq!(result.status.code(), Some(69));
        assert!(words(&result.stderr).contains(waited), "{}", words(&result.stderr));
    }
}
