//! Ids that gateways make of clients' keys for requests: one at all gateways, and nobody else's to use first.

use std::{fs, path::Path};

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    stage_process::StageProcess,
    system::fresh_folder,
};
use millstream_contract::{header, stored_message::Headers, stream_names::COMMANDS};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    testing::test_server::TestServer,
};

use crate::gateway;

const REGISTER: &str = "/v1/commands/retail/product/tea/register";
const TEA: &str = r#"{"name":"Tea","supplier":"acme"}"#;
const SECRET: &str = "6f1c0d8e2b7a4953c8e1f0a7d2b64935";
const OTHER: &str = "6f1c0d8e2b7a4953c8e1f0a7d2b64936";

/// A running gateway with a folder of its own below `folder`, and its secret, if it has one.
async fn with_secret(
    server: &TestServer,
    folder: &Path,
    name: &str,
    secret: Option<&str>,
) -> (StageProcess, HttpClient) {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    let (mut process, client) = gateway(&server.url(), &folder);
    if let Some(secret) = secret {
        let file = folder.join("id.secret");
        fs::write(&file, secret).unwrap();
        process = process.set(&format!("gateway.id_secret_file={}", file.display()));
    }
    process.start_ready().await;
    (process, client)
}

fn id(answer: &HttpAnswer) -> String {
    answer.json()["command_id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

#[tokio::test]
async fn gateways_with_one_secret_make_one_id_of_a_key_and_without_one_they_say_what_that_means() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let mut made = Vec::new();
    for (name, secret) in
        [("one", Some(SECRET)), ("same", Some(SECRET)), ("other", Some(OTHER)), ("none", None)]
    {
        let (mut process, client) = with_secret(&server, folder.path(), name, secret).await;
        let stored = client.with("Idempotency-Key", "sale 1").post(REGISTER, TEA).await;
        assert_eq!(stored.status, 202, "{name}: {stored:?}");
        process.stop().await;
        let said = process.log().contains("gateway.id_secret_file is not set");
        assert_eq!(said, secret.is_none(), "{name}: {}", process.log());
        made.push(id(&stored));
    }
    let [one, same, other, none] = made.try_into().unwrap();
    assert_eq!(one, same);
    assert!(one != other && one != none && other != none, "{one}, {other}, {none}");
}

/// An application worked the id out and used it: the owner of the key was told that it was used for something else.
#[tokio::test]
async fn whoever_publishes_on_nats_cannot_use_the_id_of_a_clients_key_first() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    // Anybody may run a gateway of their own, and see what it makes of a name and a key.
    let elsewhere = TestServer::start_provisioned().await;
    let (mut process, client) = with_secret(&elsewhere, folder.path(), "elsewhere", None).await;
    let guessed = id(&client.with("Idempotency-Key", "sale 1").post(REGISTER, TEA).await);
    process.stop().await;
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    let stolen = NewMessage {
        subject: "cmd.retail.product.stolen.register".to_owned(),
        expected_last: None,
        headers: Headers::from_iter([(header::COMMAND_ID, guessed.as_str())]),
        payload: TEA.into(),
    };
    server.broker().await.append(COMMANDS, stolen).await.unwrap();
    for (name, secret, status) in [("open", None, 422), ("closed", Some(SECRET), 200)] {
        let (mut process, client) = with_secret(&server, folder.path(), name, secret).await;
        let keyed = client.with("Idempotency-Key", "sale 1").with("Prefer", "wait=30");
        let answer = keyed.post(REGISTER, TEA).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        process.stop().await;
    }
    handler.stop().await;
}

#[tokio::test]
async fn a_secret_that_could_be_guessed_is_refused_at_the_start() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let file = folder.path().join("id.secret");
    fs::write(&file, "secret\n").unwrap();
    let (process, _client) = gateway(&server.url(), folder.path());
    let mut process = process.set(&format!("gateway.id_secret_file={}", file.display()));
    process.start();
    assert_eq!(process.exit_code().await, 78, "{}", process.log());
    assert!(process.log().contains("holds 6 bytes; a secret has at least 32"), "{}", process.log());
}
