//! Starts that cannot succeed: each ends with its exit code and one line that says what is wrong and what to do. The codes
//! are those of the table in docs/configuration.md.

use std::{fs, path::Path, process::Stdio};

use async_nats::jetstream::{self, stream};
use end_to_end_tests::{
    binaries::{binary, repository},
    program::{self, announce_skip},
    waiting::PATIENCE,
};
use millstream_contract::{exit_code::ExitCode, stream_names::EVENTS};
use millstream_jetstream::{
    nats_server::free_port,
    provision::{ProvisionOptions, definition},
    testing::test_server::TestServer,
};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    process::Process,
    production_server::ProductionServer,
    stages_with_least_privilege::{STAGES, stage},
};

/// A place where nobody can make a folder, whoever runs the tests: the kernel's own.
const READ_ONLY: &str = "/sys/millstream";
/// Room for one page of a file.
const TINY_DISK: &str = "size=4k";

/// Starts a stage that must end: its code, and the one line that says why.
async fn refused(command: Command) -> (i32, String) {
    let mut process = Process::start(command);
    let code = process.exit_code(PATIENCE).await;
    let log = process.log();
    let errors: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    let [error] = errors.as_slice() else { panic!("not one line, but: {log}") };
    assert_eq!(log.lines().last(), Some(format!("error: {error}").as_str()), "it is the last line");
    (code, (*error).to_owned())
}

/// Every stage must end with this code and a line that contains all of `words`.
async fn expect_refused(code: ExitCode, words: &[&str], start: impl Fn(&str) -> Command) {
    for name in STAGES {
        let (found, error) = refused(start(name)).await;
        assert_eq!(found, i32::from(code.number()), "{name}: {error}");
        for word in words {
            assert!(error.contains(word), "{name} does not say {word:?}: {error}");
        }
    }
}

/// The command with these keys set.
pub(crate) fn set(mut command: Command, settings: &[&str]) -> Command {
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

fn section(stage: &str) -> String {
    stage.replace('-', "_")
}

#[tokio::test]
async fn a_wrong_url_ends_with_69() {
    let folder = TempDir::new().unwrap();
    let url = format!("nats.url=nats://127.0.0.1:{}", free_port().unwrap());
    let words = ["no connection to nats://127.0.0.1", "connection refused", "check nats.url"];
    expect_refused(ExitCode::Unavailable, &words, |name| {
        let command = set(program::command(binary(name)), &[&url, "nats.connect_timeout=500ms"]);
        set(command, &[&format!("{}.data_directory={}", section(name), folder.path().join(name).display())])
    })
    .await;
}

#[tokio::test]
async fn wrong_credentials_end_with_77() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "wrong").unwrap();
    let setting = format!("nats.password_file={}", wrong.display());
    let words = ["refuses the credentials", "check [nats]"];
    let start = |name: &str| set(stage(name, &server, folder.path()), &[&setting]);
    expect_refused(ExitCode::NotPermitted, &words, start).await;
}

#[tokio::test]
async fn missing_streams_end_with_78() {
    let server = ProductionServer::start().await;
    let folder = TempDir::new().unwrap();
    let words = ["stream EVENTS: it does not exist", "run `millstream setup`"];
    expect_refused(ExitCode::Configuration, &words, |name| stage(name, &server, folder.path())).await;
}

#[tokio::test]
async fn a_stream_that_differs_ends_with_78() {
    let server = TestServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let jetstream = jetstream::new(server.client().await);
    let wanted = definition(EVENTS, &ProvisionOptions::default()).unwrap();
    jetstream.delete_stream(EVENTS).await.unwrap();
    let other = stream::Config { max_age: std::time::Duration::from_secs(3_600), ..wanted };
    jetstream.create_stream(other).await.unwrap();
    let words = ["stream EVENTS: max_age is ", "nats stream edit EVENTS"];
    expect_refused(ExitCode::Configuration, &words, |name| plain(name, &server, folder.path())).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_ends_with_73() {
    let server = TestServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    expect_refused(ExitCode::CannotCreate, &[READ_ONLY, "data_directory"], |name| {
        let setting = format!("{}.data_directory={READ_ONLY}", section(name));
        set(plain(name, &server, folder.path()), &[&setting])
    })
    .await;
}

#[tokio::test]
async fn a_file_that_another_process_has_ends_with_75() {
    let server = TestServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    for name in STAGES {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let first = format!("telemetry.address={health}");
        let mut owner = Process::start(set(plain(name, &server, folder.path()), &[&first]));
        owner.healthy(&health, "/readyz").await;
        let (code, error) = refused(set(plain(name, &server, folder.path()), &["process.instance=2"])).await;
        assert_eq!(code, i32::from(ExitCode::AlreadyRunning.number()), "{error}");
        assert!(error.contains("in use by another process") && error.contains("data_directory"), "{error}");
        owner.terminate();
        assert_eq!(owner.exit_code(PATIENCE).await, 0);
    }
}

/// Handlers of one name stand by each other; whoever keeps rows must have a name of its own, and the first one goes on.
#[tokio::test]
async fn a_second_process_of_a_name_ends_with_75_and_the_first_goes_on() {
    let server = TestServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    for name in STAGES.into_iter().filter(|name| *name != "command-handler") {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let first = format!("telemetry.address={health}");
        let mut owner = Process::start(set(plain(name, &server, folder.path()), &[&first]));
        owner.healthy(&health, "/readyz").await;
        let (code, error) = refused(plain(name, &server, &folder.path().join("second"))).await;
        assert_eq!(code, i32::from(ExitCode::AlreadyRunning.number()), "{error}");
        assert!(error.contains("another process reads") && error.contains("process.instance"), "{error}");
        owner.healthy(&health, "/readyz").await;
        owner.terminate();
        assert_eq!(owner.exit_code(PATIENCE).await, 0);
    }
}

/// The disk is a small one of its own, which takes the right to mount it.
#[tokio::test]
async fn a_full_disk_ends_with_74() {
    let server = TestServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let mut attempt = program::command("unshare");
    attempt.args(["--map-root-user", "--mount", "true"]);
    let may_mount = attempt.stderr(Stdio::null()).status().await.is_ok_and(|status| status.success());
    if !may_mount {
        announce_skip("this machine allows no mounts of one's own");
        return;
    }
    expect_refused(ExitCode::InputOutput, &["no space left", "free some"], |name| {
        let disk = folder.path().join(name);
        fs::create_dir(&disk).unwrap();
        let script = format!("mount -t tmpfs -o {TINY_DISK} tmpfs '{}' && exec \"$@\"", disk.display());
        let inner = plain(name, &server, folder.path());
        let mut command = program::command("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        command.arg(inner.as_std().get_program()).args(inner.as_std().get_args());
        command
    })
    .await;
}

#[test]
fn every_exit_code_is_in_the_documentation() {
    let text = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let (_, table) = text.split_once("## Exit codes").unwrap();
    for code in ExitCode::ALL {
        assert!(table.contains(&format!("\n| {code} | ")), "{code} is missing");
    }
}

/// A stage on a server without users.
pub(crate) fn plain(name: &str, server: &TestServer, folder: &Path) -> Command {
    let data = format!("{}.data_directory={}", section(name), folder.join(name).display());
    set(program::command(binary(name)), &[&format!("nats.url={}", server.url()), &data])
}
