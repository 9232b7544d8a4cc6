//! Passwords that are rotated while stages run, on a server with the production configuration that is reloaded.

use std::{fs, path::Path, time::Duration};

use end_to_end_tests::waiting::{PATIENCE, until};
use millstream_jetstream::nats_server::free_port;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    process::{Process, get},
    production_server::{ProductionServer, password, passwords_file},
    stages_with_least_privilege::{millstream, stage},
};

const NEW: &str = "rotated-secret-of-the-tests";

/// A stage of which everybody may ask how it is.
fn observed(name: &str, server: &ProductionServer, folder: &Path) -> (Command, String) {
    let health = format!("127.0.0.1:{}", free_port().unwrap());
    let mut command = stage(name, server, folder);
    command.env("MILLSTREAM_TELEMETRY__ADDRESS", &health);
    (command, health)
}

fn rotated(user: &str) -> String {
    passwords_file().replace(&password(user), NEW)
}

async fn not_ready(health: &str) {
    until("the stage is cut off", async || {
        let answer = get(health, "/readyz").await.unwrap();
        (answer.starts_with("HTTP/1.1 503") && answer.contains("nats: ")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stage_goes_on_with_a_new_password_without_a_restart() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let (command, health) = observed("command-handler", &server, folder.path());
    let mut handler = Process::start(command);
    handler.healthy(&health, "/readyz").await;

    server.reload_with(&rotated("command-handler"));
    not_ready(&health).await;
    // As a secret is replaced in a pod: the file is another one.
    let (file, new) = (folder.path().join("command-handler.password"), folder.path().join("new"));
    fs::write(&new, NEW).unwrap();
    fs::rename(new, &file).unwrap();
    handler.healthy(&health, "/readyz").await;
    let arguments = ["send", "retail", "product", "tea", "register", r#"{"name":"Tea","supplier":"acme"}"#];
    let _decided = millstream("operator", &server, folder.path(), &arguments).await.expect_success("send");
    handler.terminate();
    assert_eq!(handler.exit_code(PATIENCE).await, 0, "{}", handler.log());
}

#[tokio::test]
async fn a_stage_that_is_refused_for_good_ends_with_77() {
    let server = ProductionServer::start_provisioned().await;
    let folder = TempDir::new().unwrap();
    let (mut command, health) = observed("projector", &server, folder.path());
    command.args(["--set", "nats.refused_limit=2s"]);
    let mut projector = Process::start(command);
    projector.healthy(&health, "/readyz").await;
    server.reload_with(&rotated("projector"));
    assert_eq!(projector.exit_code(Duration::from_secs(90)).await, 77, "{}", projector.log());
    assert!(projector.log().contains("refuses the credentials (user projector"), "{}", projector.log());
}
