//! Programs as a person runs them: to their end, with what they print.

use std::{
    ffi::OsStr,
    process::{ExitStatus, Stdio},
};

use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::waiting::PATIENCE;

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Itself, when it ended with exit code 0.
    ///
    /// # Panics
    /// When it did not, with all that was printed.
    #[must_use]
    pub fn expect_success(self, what: &str) -> Self {
        assert!(self.status.success(), "{what}: {}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// The exit code; none when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The lines of standard output as JSON values.
    ///
    /// # Panics
    /// When a line is not JSON.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
        self.stdout.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }
}

/// A command whose environment holds only what a program needs to run at all: no setting of the person who runs the tests
/// reaches it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    for name in ["PATH", "HOME", "LANG", "TMPDIR", "NATS_SERVER"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a command to its end, `input` on its standard input.
///
/// # Panics
/// When it does not start, or does not end in time.
pub async fn run(mut command: Command, input: &[u8]) -> Ended {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let feeding = async move {
        // A program may end without reading all of it.
        let _unread = stdin.write_all(input).await;
    };
    let ending = async { tokio::join!(feeding, child.wait_with_output()).1 };
    let output = tokio::time::timeout(PATIENCE * 5, ending)
        .await
        .unwrap_or_else(|_| panic!("{name} does not end"))
        .unwrap_or_else(|error| panic!("{name} cannot be waited for: {error}"));
    Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Says that a test does nothing on this machine, and why, where it is seen although the test passes: the test harness keeps
/// what is printed, but not what is written to standard error itself.
pub fn announce_skip(reason: &str) {
    use std::io::Write as _;
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // Nobody is left to tell when standard error is closed.
    let _closed = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}
