//! The stages and the command line on a server with the production configuration, each as its own user: what they are
//! allowed is enough for what they do.

use std::{fs, path::Path};

use async_nats::{Client, jetstream};
use end_to_end_tests::{
    binaries::binary,
    http_client::HttpClient,
    program::{self, Ended},
    waiting::{PATIENCE, until},
};
use jiff::Timestamp;
use millstream_contract::{
    dead_letter::DeadLetter,
    stored_message::{Headers, StoredMessage},
    stream_names::{REPORTS, TIMERS},
};
use millstream_jetstream::{
    dead_letter_store::DeadLetterStore, nats_server::free_port, testing::test_server,
};
use millstream_runtime::status_service::{SERVICE_NAME, status_subject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    process::Process,
    production_server::{ProductionServer, copy_configuration, password},
};

/// The stage that is there where somebody wants HTTP.
pub(crate) const GATEWAY: &str = "gateway";
/// All others.
pub(crate) const STAGES: [&str; 4] = ["command-handler", "projector", "reporter", "process-manager"];

/// A program of ours that connects as one user; its password stands in a file in `folder`.
pub(crate) fn command_as(user: &str, program: &str, server: &ProductionServer, folder: &Path) -> Command {
    let file = folder.join(format!("{user}.password"));
    fs::write(&file, password(user)).unwrap();
    let mut command = program::command(binary(program));
    command
        .env("MILLSTREAM_NATS__URL", server.url())
        .env("MILLSTREAM_NATS__USER", user)
        .env("MILLSTREAM_NATS__PASSWORD_FILE", file);
    command
}

/// A stage as its own user, its files in `folder`.
pub(crate) fn stage(name: &str, server: &ProductionServer, folder: &Path) -> Command {
    let mut command = command_as(name, name, server, folder);
    if name == GATEWAY {
        command.env("MILLSTREAM_GATEWAY__LISTEN", format!("127.0.0.1:{}", free_port().unwrap()));
    } else {
        let key = format!("MILLSTREAM_{}__DATA_DIRECTORY", name.to_uppercase().replace('-', "_"));
        command.env(key, folder.join(name));
    }
    command
}

/// `millstream` as a user of the server, to its end.
pub(crate) async fn millstream(
    user: &str,
    server: &ProductionServer,
    folder: &Path,
    arguments: &[&str],
) -> Ended {
    let mut command = command_as(user, "millstream", server, folder);
    command.args(arguments);
    program::run(command, b"").await
}

#[tokio::test]
async fn the_server_accepts_its_configuration() {
    let folder = TempDir::new().unwrap();
    let mut check = program::command(test_server::program().await.path);
    check.arg("--config").arg(copy_configuration(folder.path())).arg("-t");
    let ended = program::run(check, b"").await.expect_success("nats-server -t");
    assert!(ended.stderr.contains("is valid"), "{}", ended.stderr);
}

#[tokio::test]
async fn every_stage_finds_all_that_it_needs() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    for name in STAGES.into_iter().chain([GATEWAY]) {
        for instance in ["", "2"] {
            let mut command = stage(name, &server, folder.path());
            command.args(["--check-config", "--connect", "--instance", instance]);
            let ended = program::run(command, b"").await;
            assert_eq!(ended.code(), Some(0), "{name} {instance}\n{}{}", ended.stdout, ended.stderr);
        }
    }
}

/// One configuration file a stage, which connects as `user(stage)`.
fn write_configuration(server: &ProductionServer, folder: &Path, user: impl Fn(&str) -> String) {
    for stage in STAGES.into_iter().chain([GATEWAY]) {
        let user = user(stage);
        let file = folder.join(format!("{user}.password"));
        fs::write(&file, password(&user)).unwrap();
        let (url, file) = (server.url(), file.display());
        let text = format!("[nats]\nurl = \"{url}\"\nuser = \"{user}\"\npassword_file = \"{file}\"\n");
        fs::write(folder.join(format!("{stage}.toml")), text).unwrap();
    }
}

#[tokio::test]
async fn check_asks_every_stage_as_its_own_user() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let check = async || {
        let mut command = program::command(binary("millstream"));
        command.args(["check", "--connect", "--config"]).arg(folder.path());
        program::run(command, b"").await
    };
    write_configuration(&server, folder.path(), str::to_owned);
    let found = check().await.expect_success("check").stdout;
    for stage in STAGES {
        assert!(found.contains(&format!("{stage}: ok      stream EVENTS: as defined")), "{found}");
    }
    assert!(found.contains("gateway: ok      stream COMMANDS: as defined"), "{found}");
    assert!(!found.contains("trouble"), "{found}");

    let reporters = |stage: &str| if stage == "projector" { "reporter" } else { stage }.to_owned();
    write_configuration(&server, folder.path(), reporters);
    let ended = check().await;
    assert_eq!(ended.code(), Some(77), "{}{}", ended.stdout, ended.stderr);
    let forbidden = "let this user publish to $JS.API.CONSUMER.CREATE.OUTCOMES.projector-outcomes";
    assert!(ended.stdout.contains(forbidden), "{}", ended.stdout);
    let troubled: Vec<&str> = ended.stdout.lines().filter(|line| line.contains(": trouble ")).collect();
    assert!(troubled.iter().all(|line| line.starts_with("projector: ")), "{troubled:#?}");
}

#[tokio::test]
async fn setup_makes_the_streams_and_a_command_becomes_rows_and_a_report() {
    let server = ProductionServer::start().await;
    let folder = TempDir::new().unwrap();
    let made = millstream("setup", &server, folder.path(), &["setup"]).await.expect_success("setup").stdout;
    assert_eq!(made.matches(": created").count(), 8, "{made}");

    let mut stages = Vec::new();
    for name in STAGES {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let mut command = stage(name, &server, folder.path());
        command.env("MILLSTREAM_TELEMETRY__ADDRESS", &health);
        let mut process = Process::start(command);
        process.healthy(&health, "/readyz").await;
        stages.push(process);
    }
    let send = |address: [&'static str; 4], body: &'static str| {
        let arguments = ["send"].into_iter().chain(address).chain([body]).collect::<Vec<_>>();
        let (server, folder) = (&server, folder.path());
        async move { millstream("operator", server, folder, &arguments).await.expect_success("send") }
    };
    send(["retail", "product", "tea", "register"], r#"{"name":"Tea","supplier":"acme"}"#).await;
    until("the product has its row", async || {
        let row =
            millstream("operator", &server, folder.path(), &["query", "retail", "product", "tea"]).await;
        row.stdout.contains("acme").then_some(())
    })
    .await;
    let sale = r#"{"sale":"1","currency":"USD","lines":[{"sku":"tea","quantity":2,"unit_price":300}]}"#;
    send(["retail", "till", "7_2026-01-02", "record-sale"], sale).await;
    send(["retail", "till", "7_2026-01-02", "close"], "{}").await;
    let reports = server.client("operator").await;
    let reports = jetstream::new(reports).get_stream(REPORTS).await.unwrap();
    until("a report is published", async || {
        (reports.get_info().await.unwrap().state.messages > 0).then_some(())
    })
    .await;
    every_process_shows_itself(&server.client("operator").await).await;
    for stage in &stages {
        stage.terminate();
    }
    for stage in &mut stages {
        assert_eq!(stage.exit_code(PATIENCE).await, 0, "{}", stage.log());
    }
    no_violations(&server);
}

#[tokio::test]
async fn the_gateway_is_allowed_all_that_a_command_over_http_needs() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let http = format!("127.0.0.1:{}", free_port().unwrap());
    let mut stages = Vec::new();
    for name in ["command-handler", "projector", GATEWAY] {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let mut command = stage(name, &server, folder.path());
        command.env("MILLSTREAM_TELEMETRY__ADDRESS", &health).env("MILLSTREAM_GATEWAY__LISTEN", &http);
        let mut process = Process::start(command);
        process.healthy(&health, "/readyz").await;
        stages.push(process);
    }
    let client = HttpClient::new(&http);
    let keyed = client.with("Idempotency-Key", "tea");
    let path = "/v1/commands/retail/product/tea/register";
    let body = r#"{"name":"Tea","supplier":"acme"}"#;
    let stored = keyed.post(path, body).await;
    assert_eq!(stored.status, 202, "{stored:?}");
    let location = stored.header("location").unwrap();
    until("its outcome is told", async || {
        let answer = client.get(location).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.json()["outcome"] == "accepted").then_some(())
    })
    .await;
    let again = keyed.with("Prefer", "wait=20").post(path, body).await;
    assert_eq!(again.status, 200, "{again:?}");
    let next = client.with("Prefer", "wait=20").post(path, body).await;
    assert_eq!(next.status, 200, "the outcome comes back: {next:?}");
    for path in ["/v1/history/retail/product/tea", "/v1/history/retail/product/tea?at=2999-12-31"] {
        let history = client.get(path).await;
        assert_eq!(history.status, 200, "{path}: {history:?}");
    }
    letters_are_moved_by_those_who_may(&server, &client).await;
    for mut process in stages {
        process.terminate();
        assert_eq!(process.exit_code(PATIENCE).await, 0, "{}", process.log());
    }
    no_violations(&server);
}

/// A command that fell due, which the gateway itself may not send, and another one. The gateway may not purge DEADLETTERS either.
async fn letters_are_moved_by_those_who_may(server: &ProductionServer, client: &HttpClient) {
    let message = |sequence| StoredMessage {
        subject: "due.cmd.retail.product.gin.register".to_owned(),
        sequence,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: Headers::new(),
        payload: r#"{"name":"Gin","supplier":"acme"}"#.into(),
    };
    let letters =
        [5, 6].map(|sequence| DeadLetter::new(TIMERS, &message(sequence), "command-refused", "why"));
    let kept = DeadLetterStore::new(server.broker("process-manager").await).try_keep(&letters).await;
    assert!(kept.iter().all(Result::is_ok), "{kept:?}");
    let listed = client.get("/v1/deadletters").await;
    assert_eq!(listed.json()["letters"].as_array().map(Vec::len), Some(2), "{listed:?}");
    let waiting = client.with("Prefer", "wait=20");
    let retried = waiting.request("POST", "/v1/deadletters/TIMERS.5/retry", "").await;
    assert_eq!((retried.status, &retried.json()["outcome"]), (200, &json!("accepted")), "{retried:?}");
    let dropped = client.request("POST", "/v1/deadletters/TIMERS.6/drop", "").await;
    assert_eq!(dropped.status, 200, "{dropped:?}");
    let listed = client.get("/v1/deadletters").await;
    assert_eq!(listed.json()["letters"], json!([]), "{listed:?}");
}

/// Every process says on its own subject and in its statistics how it is.
async fn every_process_shows_itself(operator: &Client) {
    let statistics = operator.request(format!("$SRV.STATS.{SERVICE_NAME}"), "".into()).await.unwrap();
    let statistics: Value = serde_json::from_slice(&statistics.payload).unwrap();
    let data = &statistics["endpoints"][0]["data"];
    assert_eq!(data["ready"], true, "{statistics}");
    assert_eq!(data["figures"]["millstream_nats_connected"], 1, "{statistics}");
    for name in STAGES {
        let status = operator.request(status_subject(name), "".into()).await.unwrap();
        let status: Value = serde_json::from_slice(&status.payload).unwrap();
        assert_eq!((&status["stage"], &status["ready"]), (&json!(name), &json!(true)), "{status}");
    }
}

fn no_violations(server: &ProductionServer) {
    let log = server.log();
    let violations: Vec<&str> = log.lines().filter(|line| line.contains("Violation")).collect();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// The run that decides, as `millstream doctor` says to an operator.
async fn maker(server: &ProductionServer, folder: &Path) -> Option<String> {
    let doctor = millstream("operator", server, folder, &["doctor"]).await;
    let line = doctor.stdout.lines().find(|line| line.starts_with("ok      decisions on COMMANDS: "))?;
    let (_, told) = line.split_once("made by ")?;
    Some(told.split_once(',')?.0.to_owned())
}

#[tokio::test]
async fn handlers_that_take_turns_are_allowed_all_that_they_need() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let handler = async |instance: &str| {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let mut command = stage("command-handler", &server, folder.path());
        command
            .args(["--instance", instance])
            .env("MILLSTREAM_TELEMETRY__ADDRESS", &health)
            .env("MILLSTREAM_COMMAND_HANDLER__DATA_DIRECTORY", folder.path().join(instance));
        let mut process = Process::start(command);
        process.healthy(&health, "/readyz").await;
        process
    };
    let mut stopped = handler("0").await;
    let first = until("the only one decides", async || maker(&server, folder.path()).await).await;
    let mut left = handler("1").await;
    stopped.terminate();
    assert_eq!(stopped.exit_code(PATIENCE).await, 0, "{}", stopped.log());
    until("the other one decides", async || maker(&server, folder.path()).await.filter(|run| *run != first))
        .await;
    for sku in 0..8 {
        let sku = format!("sku-{sku}");
        let arguments =
            ["send", "retail", "product", &sku, "register", r#"{"name":"Tea","supplier":"acme"}"#];
        let sent = millstream("operator", &server, folder.path(), &arguments).await;
        let _answer = sent.expect_success("send");
    }
    left.terminate();
    assert_eq!(left.exit_code(PATIENCE).await, 0, "{}", left.log());
    for log in [stopped.log(), left.log()] {
        assert!(!log.to_lowercase().contains("permission"), "{log}");
    }
}
