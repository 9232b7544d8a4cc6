//! Who changes streams on a server with the production configuration: `setup` gives them what the values of the chart ask for, and the
//! administrator does what the runbooks say.

use std::path::PathBuf;

use async_nats::jetstream;
use end_to_end_tests::{
    binaries::binary,
    nats_cli::NatsCli,
    program::{self, Ended},
};
use millstream_contract::stream_names::{AUDIT, EVENTS};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    chart::{list, pod_spec, text},
    helm_chart::{Chart, documents, example},
    process::Process,
    production_server::{ProductionServer, password},
    runbooks::{runbook, shows},
    stages_with_least_privilege::{millstream, stage},
};

/// The arguments of the setup job that an example of values makes.
fn setup_of(chart: &Chart, values: &str) -> Vec<String> {
    let objects = documents(&chart.render("1.36", &["--values", &example(values)]).unwrap());
    let job = objects.iter().find(|object| object["kind"] == "Job").unwrap();
    let words = list(&pod_spec(job).unwrap()["containers"][0]["command"]).iter().map(text);
    words.skip(1).map(str::to_owned).collect()
}

/// What the example asks for fits into the shipped configuration of a server, also where streams are there already.
#[tokio::test]
async fn the_values_for_production_fit_the_servers_for_production() {
    let Some(chart) = Chart::find() else { return };
    let mut arguments = setup_of(&chart, "production-values.yaml");
    // One server stands here for each of three: each of them holds a copy of everything.
    let replicas = arguments.iter().position(|word| word == "--replicas").unwrap();
    assert_eq!(arguments.drain(replicas..replicas + 2).next_back().unwrap(), "3");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = TempDir::new().unwrap();
    for server in [ProductionServer::start().await, ProductionServer::start_provisioned().await] {
        let done = millstream("setup", &server, folder.path(), &arguments).await.expect_success("setup");
        assert!(!done.stdout.contains("differs"), "{}", done.stdout);
        let streams = jetstream::new(server.client("setup").await);
        let events = streams.get_stream(EVENTS).await.unwrap().cached_info().config.max_bytes;
        assert_eq!(events, 32 << 30, "{}", done.stdout);
        let again = millstream("setup", &server, folder.path(), &arguments).await.expect_success("setup");
        assert!(!again.stdout.contains("changed"), "{}", again.stdout);
    }
}

/// Without `--apply` nothing is changed, and that is no success; what the disk cannot hold is refused in so many words.
#[tokio::test]
async fn setup_never_says_that_it_did_what_it_did_not() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let setup =
        async |more: &[&str]| millstream("setup", &server, folder.path(), &[&["setup"], more].concat()).await;
    let only_said = setup(&["--max-bytes", "EVENTS=20GiB"]).await;
    assert_eq!(only_said.code(), Some(78), "{only_said:?}");
    assert!(only_said.stderr.contains("with --apply it gets them"), "{only_said:?}");
    let too_much = setup(&["--apply", "--max-bytes", "EVENTS=1TiB"]).await;
    assert_ne!(too_much.code(), Some(0), "{too_much:?}");
    assert!(too_much.stderr.contains("cannot change max_bytes of stream EVENTS"), "{too_much:?}");
    let copies = setup(&["--apply", "--replicas", "3"]).await;
    assert_ne!(copies.code(), Some(0), "one server cannot hold three copies: {copies:?}");
    assert!(copies.stderr.contains("cannot change num_replicas of stream"), "{copies:?}");
    let timers = setup(&["--apply", "--max-bytes", "TIMERS=1MiB"]).await;
    assert_eq!(
        timers.code(),
        Some(64),
        "a stream with schedules drops its oldest when it is full: {timers:?}"
    );
    assert!(timers.stderr.contains("TIMERS has no limit, or timers would be lost"), "{timers:?}");
}

#[tokio::test]
async fn two_releases_do_not_share_streams() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let setup = async |more: &[&str]| {
        millstream("setup", &server, folder.path(), &[&["setup", "--apply"], more].concat()).await
    };
    let _first = setup(&["--owner", "shop/shop"]).await.expect_success("streams of nobody are taken");
    jetstream::new(server.client("administrator").await).delete_stream(AUDIT).await.unwrap();
    let second = setup(&["--owner", "test/shop", "--max-bytes", "EVENTS=20GiB"]).await;
    assert_eq!(second.code(), Some(78), "{second:?}");
    assert!(second.stdout.contains("is shop/shop, expected test/shop"), "{second:?}");
    let streams = jetstream::new(server.client("setup").await);
    let audit = streams.get_stream(AUDIT).await;
    assert!(audit.is_err(), "the second one's stream would lock the first one out: {audit:?}");
    let events = streams.get_stream(EVENTS).await.unwrap().cached_info().config.max_bytes;
    assert_ne!(events, 20 << 30, "nothing of another's stream is changed");
    let _again = setup(&["--owner", "shop/shop"]).await.expect_success("one's own streams");
    let _taken =
        setup(&["--owner", "test/shop", "--take-over"]).await.expect_success("the other one is gone");
    assert_eq!(setup(&["--owner", "shop/shop"]).await.code(), Some(78));
}

/// A shell with the nats CLI and `millstream`, as the administrator.
struct Desk {
    folder: TempDir,
    path: std::ffi::OsString,
}

impl Desk {
    async fn open(server: &ProductionServer) -> Option<Self> {
        let nats = NatsCli::for_server(&server.url()).await?;
        let programs = [nats.program().clone(), binary("millstream")].map(|mut path| {
            path.pop();
            path
        });
        let present = std::env::var_os("PATH").unwrap_or_default();
        let all: Vec<PathBuf> = programs.into_iter().chain(std::env::split_paths(&present)).collect();
        Some(Self { folder: TempDir::new().unwrap(), path: std::env::join_paths(all).unwrap() })
    }

    async fn type_in(&self, server: &ProductionServer, line: &str) -> Ended {
        let mut shell = program::command("bash");
        shell
            .args(["-c", line])
            .env("PATH", &self.path)
            .env("NATS_URL", server.url())
            .env("NATS_USER", "administrator")
            .env("NATS_PASSWORD", password("administrator"))
            .current_dir(self.folder.path());
        program::run(shell, b"").await
    }
}

#[tokio::test]
async fn the_administrator_backs_up_and_restores_as_the_runbook_says() {
    let server = ProductionServer::start_provisioned().await;
    let Some(desk) = Desk::open(&server).await else { return };
    let files = TempDir::new().unwrap();
    let mut handler = Process::start(stage("command-handler", &server, files.path()));
    let arguments = ["send", "retail", "product", "tea", "register", r#"{"name":"Tea","supplier":"acme"}"#];
    let _sent = millstream("operator", &server, files.path(), &arguments).await.expect_success("send");

    let sections = runbook("restore-a-backup.md");
    let [(_, backup), (_, restore)] = sections.as_slice() else { panic!("{sections:?}") };
    for step in backup {
        let done = desk.type_in(&server, &step.command).await.expect_success(&step.command);
        assert!(shows(step, &done.stdout), "{step:?}: {done:?}");
    }
    handler.terminate();
    assert_eq!(handler.exit_code(end_to_end_tests::waiting::PATIENCE).await, 0);

    let fresh = ProductionServer::start().await;
    let setup = restore.iter().position(|step| step.command == "millstream setup").unwrap();
    for step in &restore[..=setup] {
        let done = desk.type_in(&fresh, &step.command).await.expect_success(&step.command);
        assert!(shows(step, &done.stdout), "{step:?}: {done:?}");
    }
    let info = desk.type_in(&fresh, "nats stream info EVENTS --json").await.expect_success("info");
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    assert_eq!(info["state"]["messages"], 1, "{info}");
    let log = fresh.log() + &server.log();
    let violations: Vec<&str> = log.lines().filter(|line| line.contains("Violation")).collect();
    assert!(violations.is_empty(), "{violations:#?}");
    let deleted = desk.type_in(&fresh, "nats stream rm OUTCOMES --force").await;
    assert_eq!(deleted.code(), Some(0), "as the runbook for a lost COMMANDS says: {deleted:?}");
}
