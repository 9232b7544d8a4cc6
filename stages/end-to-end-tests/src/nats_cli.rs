//! The real `nats` CLI, of the version that natscli/go.mod pins, built by Go into the target folder when it is not there.
//!
//! A machine without Go has no such program: the tests that need it say so and end, but fail where `CI` is set.

use std::{fs::File, path::PathBuf, process::Command, sync::OnceLock};

use crate::{
    binaries::{repository, target_folder},
    program::{self, Ended, announce_skip},
};

const MODULE: &str = "github.com/nats-io/natscli";

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

/// Builds it once; several test processes may ask at the same time.
fn program() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(find_or_build).clone()
}

fn find_or_build() -> Option<PathBuf> {
    let module = repository().join("stages/end-to-end-tests/natscli");
    let pinned =
        std::fs::read_to_string(module.join("go.mod")).expect("the module file is part of the repository");
    let version = pinned
        .lines()
        .find_map(|line| line.trim().strip_prefix(MODULE)?.split_whitespace().next()?.strip_prefix('v'))
        .expect("the module file pins the nats CLI");
    let folder = target_folder().join("tools").join(format!("nats-cli-{version}"));
    let path = folder.join("nats");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let lock = File::create(folder.join("lock")).expect("the target folder can be written");
    lock.lock().expect("a file can be locked");
    if path.is_file() {
        return Some(path);
    }
    if let Err(error) = Command::new("go").arg("version").output() {
        let missing = format!(
            "the `nats` CLI has to be built and Go does not run ({error}); install it from https://go.dev/dl/"
        );
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        announce_skip(&missing);
        return None;
    }
    let partial = folder.join("nats.partial");
    let output = Command::new("go")
        .args(["build", "-mod=readonly", "-o"])
        .arg(&partial)
        .arg(format!("{MODULE}/nats"))
        .current_dir(&module)
        .output()
        .expect("Go, which said its version, runs");
    assert!(
        output.status.success(),
        "the nats CLI does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::rename(&partial, &path).expect("a file can be renamed in its folder");
    Some(path)
}
