//! The real `nats` CLI, of the version that natscli/go.mod pins, built by Go into the target folder when it is not there.
//!
//! A machine without Go has no such program: the tests that need it say so and end, but fail where `CI` is set.

use std::{path::PathBuf, sync::OnceLock};

use crate::{
    go_tool::GoTool,
    program::{self, Ended},
    waiting::until,
};

/// The `nats` CLI, talking to one server.
#[derive(Debug, Clone)]
pub struct NatsCli {
    program: PathBuf,
    url: String,
}

impl NatsCli {
    /// The CLI for the server at `url`; none on a machine without Go.
    ///
    /// # Panics
    /// When Go is there and the build fails, or `CI` is set and Go is not there.
    pub async fn for_server(url: impl Into<String>) -> Option<Self> {
        let program = tokio::task::spawn_blocking(program).await.expect("the build does not panic elsewhere");
        program.map(|program| Self { program, url: url.into() })
    }

    /// Runs `nats <arguments>` to its end.
    ///
    /// # Panics
    /// When it does not start, or does not end in time.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        program::run(self.command(arguments), b"").await
    }

    /// What `nats <arguments>` prints on standard output.
    ///
    /// # Panics
    /// When it fails.
    pub async fn output(&self, arguments: &[&str]) -> String {
        self.run(arguments).await.expect_success(&format!("nats {}", arguments.join(" "))).stdout
    }

    /// Types a line of a page, again until what stands behind its ` # ` is in the answer. Without such an end, until
    /// it succeeds.
    ///
    /// # Panics
    /// When that does not come about, or the line is none of `nats`.
    pub async fn type_line(&self, line: &str) {
        let (line, expected) =
            line.split_once(" # ").map_or((line, ""), |(line, expected)| (line, expected.trim()));
        let typed = line.strip_prefix("nats ").unwrap_or_else(|| panic!("{line} is no line of nats"));
        let mut arguments: Vec<&str> = Vec::new();
        for (number, part) in typed.split('\'').enumerate() {
            // Every second part stands between quotes.
            if number % 2 == 1 { arguments.push(part) } else { arguments.extend(part.split_whitespace()) }
        }
        until(format!("{line} says {expected}"), async || {
            let ended = self.run(&arguments).await;
            (ended.status.success() && ended.stdout.contains(expected)).then_some(())
        })
        .await;
    }

    /// `nats <arguments>`, not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = program::command(&self.program);
        command.env("NATS_URL", &self.url).args(arguments);
        command
    }

    /// Where the program is, for a shell's `PATH`.
    #[must_use]
    pub fn program(&self) -> &PathBuf {
        &self.program
    }
}

/// Looked for once a test process.
fn program() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let tool = GoTool {
        name: "nats",
        built: "nats-cli",
        folder: "stages/end-to-end-tests/natscli",
        module: "github.com/nats-io/natscli",
        package: "github.com/nats-io/natscli/nats",
        linked_with: "",
    };
    PROGRAM.get_or_init(|| tool.find_or_build()).clone()
}
