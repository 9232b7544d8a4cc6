//! A log that takes nothing: standard error on a device that is always full, and a system whose disk of logs is full. Lines are lost
//! and counted; nothing ends because of them, and every program ends with the code that it would have had.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::symlink,
    path::Path,
    process::Stdio,
};

use end_to_end_tests::{
    binaries::binary,
    program::{self, Ended},
    small_disk::SmallDisk,
    stage_process::StageProcess,
    system::{fresh_folder, processes},
    waiting::{PATIENCE, until},
};
use futures::future::join_all;
use millstream_contract::exit_code::ExitCode;
use millstream_jetstream::{
    nats_server::{NatsServerConfig, free_port},
    testing::test_server::TestServer,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Command;

/// Every write to it fails as on a full disk.
const FULL: &str = "/dev/full";
/// The stages that `up` starts without being asked for one.
const STAGES: [&str; 5] = ["command-handler", "projector", "reporter", "process-manager", "gateway"];
/// Nobody listens there.
const NOWHERE: &str = "nats://127.0.0.1:1";

fn full() -> File {
    File::options().write(true).open(FULL).unwrap()
}

fn number(code: ExitCode) -> Option<i32> {
    Some(code.number().into())
}

async fn exit_code(mut command: Command) -> Option<i32> {
    let status = tokio::time::timeout(PATIENCE, command.status()).await.expect("it ends").unwrap();
    status.code()
}

/// Each stage ended with 101, which stands in no table, at its first line.
#[tokio::test]
async fn a_stage_whose_log_takes_nothing_works_and_counts_the_lines() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    for stage in STAGES.into_iter().chain(["sql"]) {
        let mut stage =
            StageProcess::new(stage, "", &server.url(), folder.path()).logging_to(Path::new(FULL));
        stage.start_ready().await;
        let dropped = stage.metric("millstream_log_lines_dropped_total ").await;
        assert!(dropped.is_some_and(|lines| lines > 0.0), "{}: {dropped:?}", stage.name());
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_stage_whose_log_takes_nothing_ends_with_its_own_code() {
    let unavailable = ["nats.url=nats://127.0.0.1:1", "nats.connect_timeout=1ms"];
    let wrong = ["nats.connect_timeout=soon"];
    let folder = fresh_folder();
    for stage in STAGES.into_iter().chain(["sql"]) {
        for (settings, code) in [(&unavailable[..], ExitCode::Unavailable), (&wrong, ExitCode::Configuration)]
        {
            let mut command = program::command(binary(stage));
            command.args(settings.iter().flat_map(|setting| ["--set", setting]));
            command.current_dir(folder.path()).stdout(Stdio::null()).stderr(full());
            assert_eq!(exit_code(command).await, number(code), "{stage} {settings:?}");
        }
    }
}

/// One line for each command, which makes it say something on standard error, and the code with which it ends.
const LINES: [(&str, ExitCode); 24] = [
    ("up --dir .", ExitCode::Usage),
    ("stage no-such", ExitCode::Usage),
    ("demo", ExitCode::Configuration),
    ("check --connect", ExitCode::Unavailable),
    ("docs", ExitCode::InputOutput),
    ("doctor", ExitCode::Unavailable),
    ("ready 127.0.0.1:1", ExitCode::Unavailable),
    ("setup", ExitCode::Unavailable),
    ("send retail stock a receive {\"quantity\":1}", ExitCode::Unavailable),
    ("import --map no-such.toml no-such.csv", ExitCode::Usage),
    ("report store-daily --date 2012-01-31", ExitCode::Unavailable),
    ("query retail stock a", ExitCode::Unavailable),
    ("sql --command SELECT", ExitCode::InputOutput),
    ("history retail stock a", ExitCode::Unavailable),
    ("explain retail stock a", ExitCode::Unavailable),
    ("deadletters list", ExitCode::Unavailable),
    ("events show 1", ExitCode::Unavailable),
    ("verify outcomes", ExitCode::Unavailable),
    ("audit list", ExitCode::Unavailable),
    ("decode", ExitCode::Data),
    ("schema check", ExitCode::Usage),
    ("new context Not-Allowed", ExitCode::Usage),
    ("keys list --file no-such/keys", ExitCode::CannotCreate),
    ("bench pipeline", ExitCode::Configuration),
];

fn millstream(line: &str) -> Command {
    let mut command = program::command(binary("millstream"));
    command.args(["--server", NOWHERE]).args(line.split(' ')).env("NATS_SERVER", "no-such/nats-server");
    command
}

#[tokio::test]
async fn a_command_whose_standard_error_takes_nothing_ends_with_its_own_code() {
    let help = program::run(millstream("--help"), b"").await.expect_success("help").stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed: Vec<&str> = listed.map_while(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let here = LINES.map(|(line, _)| line.split(' ').next().unwrap());
    assert_eq!(listed.strip_suffix(&["help"]), Some(&here[..]), "a line for each command");
    let folder = fresh_folder();
    let ended = join_all(LINES.map(|(line, code)| {
        let mut command = millstream(line);
        // `docs` has nothing to say but that its page cannot be written.
        let page = if line == "docs" { Stdio::from(full()) } else { Stdio::null() };
        command.current_dir(folder.path()).stdout(page).stderr(full());
        async move { (line, exit_code(command).await, number(code)) }
    }));
    for (line, ended, code) in ended.await {
        assert_eq!(ended, code, "{line}");
    }
}

/// The help of all programs ended with 0, and what a stage was asked for with 74 and no word.
#[tokio::test]
async fn what_was_asked_for_and_cannot_be_written_ends_with_74_and_a_sentence() {
    for (name, line) in [
        ("millstream", "--help"),
        ("millstream", "--version"),
        ("millstream", "docs"),
        ("projector", "--help"),
        ("projector", "--dump-config"),
        ("projector", "--reference-config"),
        ("projector", "--check-config"),
    ] {
        let mut command = program::command(binary(name));
        command.args(line.split(' ')).stdout(full()).stderr(Stdio::piped());
        // `output` would take standard output itself.
        let output = command.spawn().unwrap().wait_with_output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), number(ExitCode::InputOutput), "{name} {line}: {said}");
        assert!(said.starts_with("error: cannot write to standard output: "), "{name} {line}: {said}");
    }
}

/// Takes the room that a file still has on a disk that is full otherwise.
fn stuff(file: &Path) {
    let mut file = File::options().append(true).open(file).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(b"\n")).find_map(Result::err);
    assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::StorageFull));
}

/// A sentence of `up` that could not be written ended the supervision of the stage of which it told, for good.
#[tokio::test]
async fn a_system_whose_disk_of_logs_is_full_starts_its_stages_again() {
    let Some(disk) = SmallDisk::mount(8 * 1024).await else { return };
    let data = fresh_folder();
    let outside = disk.from_outside("system");
    fs::create_dir(&outside).unwrap();
    symlink(data.path(), outside.join("data")).unwrap();
    let said = disk.from_outside("said");
    let port = free_port().unwrap();
    let url = NatsServerConfig::new(port, "").url();
    let line = disk.entrance();
    let (entrance, more) = line.split_first().unwrap();
    let mut up = program::command(entrance);
    up.args(more).arg(binary("millstream")).args(["up", "--nats-port", &port.to_string(), "--dir"]);
    up.arg(disk.path().join("system")).stdout(Stdio::null()).stderr(File::create_new(&said).unwrap());
    let mut up = up.spawn().unwrap();
    let has_said = async |text: &str| {
        let what = format!("it says {text:?}: {}", fs::read_to_string(&said).unwrap());
        until(what, async || fs::read_to_string(&said).unwrap().contains(text).then_some(())).await;
    };
    has_said("ready: ").await;
    disk.fill(0);
    stuff(&said);
    for log in fs::read_dir(outside.join("logs")).unwrap() {
        stuff(&log.unwrap().path());
    }
    // A log that was moved away cannot be made again.
    let log = outside.join("logs/reporter.log");
    fs::rename(&log, outside.join("logs/moved")).unwrap();
    fs::create_dir(&log).unwrap();
    let before = processes(&outside);
    for stage in STAGES {
        let id = Pid::from_raw(before[stage].pid.unwrap());
        kill(id, Signal::SIGKILL).unwrap();
        until(format!("{stage} is gone"), async || kill(id, None).is_err().then_some(())).await;
    }
    until("all stages run again on the full disk", async || {
        let mut doctor = program::command(binary("millstream"));
        doctor.args(["doctor", "--server", &url]);
        let doctor: Ended = program::run(doctor, b"").await;
        doctor.status.success().then_some(())
    })
    .await;
    assert_eq!(processes(&outside), before, "the list could not be written");
    disk.free();
    has_said("processes.json is written again").await;
    let now = processes(&outside);
    for stage in STAGES {
        assert_ne!(now[stage].pid, before[stage].pid, "{stage}");
        assert!(now[stage].restarts > 0, "{stage}");
    }
    kill(Pid::from_raw(i32::try_from(up.id().unwrap()).unwrap()), Signal::SIGTERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, up.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}: {}", fs::read_to_string(&said).unwrap());
}
