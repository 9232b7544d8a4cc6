//! What every stage answers on /metrics after some work, read by Prometheus' own parser and linter: the ones that
//! `promtool check metrics` runs.

use async_nats::jetstream;
use end_to_end_tests::{
    go_tool::GoTool,
    program,
    waiting::{PATIENCE, until},
};
use millstream_jetstream::{nats_server::free_port, testing::test_server::TestServer};
use tempfile::TempDir;

use crate::{
    process::{Process, get},
    stages_with_least_privilege::STAGES,
    start_failures::{plain, set},
};

#[tokio::test]
async fn every_stage_answers_in_prometheus_format() {
    let lint = GoTool {
        name: "metrics-lint",
        built: "metrics-lint",
        folder: "deploy/tools",
        module: "github.com/prometheus/client_golang",
        package: "./metrics-lint",
        linked_with: "",
    };
    let Some(lint) = lint.find_or_build() else { return };
    let server = TestServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let mut stages = Vec::new();
    for name in STAGES {
        let health = format!("127.0.0.1:{}", free_port().unwrap());
        let address = format!("telemetry.address={health}");
        let mut process = Process::start(set(plain(name, &server, folder.path()), &[&address]));
        process.healthy(&health, "/readyz").await;
        stages.push((name, health, process));
    }
    let body = r#"{"name":"Tea","supplier":"acme"}"#;
    let people = jetstream::new(server.client().await);
    people.publish("cmd.retail.product.tea.register", body.into()).await.unwrap().await.unwrap();
    for (name, health, process) in &mut stages {
        // The handler's reader is of COMMANDS, all others' are of EVENTS.
        let stream = if *name == "command-handler" { "COMMANDS" } else { "EVENTS" };
        let read = format!("millstream_reader_position{{stream=\"{stream}\"");
        let metrics = until(format!("{name} has read a message"), async || {
            process.expect_running();
            let answer = get(health, "/metrics").await.ok()?;
            let (_, metrics) = answer.split_once("\r\n\r\n")?;
            let position = metrics.lines().find_map(|line| line.strip_prefix(&read)?.rsplit_once(' '))?.1;
            (position != "0").then(|| metrics.to_owned())
        })
        .await;
        let ended = program::run(program::command(&lint), metrics.as_bytes()).await;
        assert_eq!(ended.code(), Some(0), "{name}: {}\n{metrics}", ended.stderr);
    }
    for (name, _, process) in &mut stages {
        process.terminate();
        assert_eq!(process.exit_code(PATIENCE).await, 0, "{name}");
    }
}
