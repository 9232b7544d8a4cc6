//! Who may send what.

use std::{fs, os::unix::fs::PermissionsExt as _};

use end_to_end_tests::{
    http_client::HttpClient,
    program,
    system::{fresh_folder, millstream},
    waiting::until,
};
use futures::StreamExt as _;
use millstream_contract::api_key::{KeyHash, Token};
use millstream_jetstream::{broker::Broker as _, testing::test_server::TestServer};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::gateway_with_keys;

pub(crate) const YEARS_AHEAD: &str = "2099-01-01T00:00:00Z";
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// An entry of the file, and a client that has the key.
pub(crate) fn key(
    client: &HttpClient,
    seed: u8,
    name: &str,
    expires: &str,
    commands: &[&str],
) -> (String, HttpClient) {
    let token = Token::new([seed; 32]);
    let hash = json!(KeyHash::of(token.as_str()));
    let entry = format!(
        "[[key]]\nname = \"{name}\"\nhash = {hash}\nexpires = \"{expires}\"\ncommands = {}\n",
        json!(commands)
    );
    (entry, client.with("Authorization", &format!("Bearer {}", token.as_str())))
}

#[tokio::test]
async fn a_key_grants_what_it_names_and_is_revoked_at_once() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (till_entry, till) = key(
        &client,
        1,
        "till-2506",
        YEARS_AHEAD,
        &["retail.till.2506_*.record-sale", "retail.till.2506_*.close"],
    );
    let (office_entry, office) = key(&client, 2, "office", YEARS_AHEAD, &["*.*.*.*"]);
    let (old_entry, old) = key(&client, 3, "old", LONG_AGO, &["*.*.*.*"]);
    let (_, stranger) = key(&client, 4, "nobody", YEARS_AHEAD, &[]);
    fs::write(&file, [till_entry.as_str(), &office_entry, &old_entry].concat()).unwrap();
    process.start_ready().await;

    let close = |till: &str| format!("/v1/commands/retail/till/{till}/close");
    let own = till.post(&close("2506_2026-01-02"), "{}").await;
    assert_eq!(own.status, 202, "{own:?}");
    assert!(own.json()["command_id"].as_str().unwrap().starts_with("till-2506:"), "{own:?}");
    for (client, path, expected) in [
        (&till, close("2507_2026-01-02"), (403, "command-not-granted")),
        (&till, "/v1/commands/retail/product/tea/discontinue".to_owned(), (403, "command-not-granted")),
        (&office, "/v1/commands/millstream/set-aside/1/set-aside".to_owned(), (403, "command-not-granted")),
        (&old, close("2506_2026-01-02"), (401, "key-expired")),
        (&stranger, close("2506_2026-01-02"), (401, "key-unknown")),
        (&client, close("2506_2026-01-02"), (401, "key-missing")),
        (
            &client.with("Authorization", "Basic dGlsbA=="),
            close("2506_2026-01-02"),
            (401, "authorization-malformed"),
        ),
    ] {
        let answer = client.post(&path, "{}").await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{path}: {answer:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
    }
    // A refusal that nobody may provoke to learn what there is comes before everything that the model knows.
    let unknown = till.post("/v1/commands/retail/nothing/1/explode", "{").await;
    assert_eq!(unknown.problem(), (403, "command-not-granted".to_owned()));
    // The key is the actor, and one's own command is nobody else's to ask for.
    let broker = server.broker().await;
    let command = broker.get("COMMANDS", 1).await.unwrap().unwrap();
    assert_eq!(command.headers.get("Millstream-Actor"), Some("till-2506"));
    assert_eq!(broker.state("COMMANDS").await.unwrap().last_sequence, 1, "nothing else is stored");
    let location = own.header("location").unwrap();
    assert_eq!(office.get(location).await.problem(), (404, "command-id-unknown".to_owned()));

    // A file that cannot be read changes nothing, and is told. Files that are just being written are the unit tests'.
    fs::write(&file, "[[key]]\nname = \"half").unwrap();
    until("the mistake is told", async || {
        process.readiness().await.contains("no file of keys").then_some(())
    })
    .await;
    assert_eq!(till.post(&close("2506_2026-01-02"), "{}").await.status, 202);
    fs::write(&file, office_entry).unwrap();
    until("the key is revoked", async || {
        let answer = till.post(&close("2506_2026-01-02"), "{}").await;
        (answer.status == 401).then_some(())
    })
    .await;
    assert_eq!(office.post(&close("2506_2026-01-02"), "{}").await.status, 202);
    process.ready().await;
    process.stop().await;
    let log = process.log();
    assert!(!log.contains("millstream_0"), "no key is told in the log: {log}");
}

/// The key was looked at before the body, which may take long to come.
#[tokio::test]
async fn a_body_that_ends_after_its_key_was_revoked_is_not_taken() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, till) = key(&client, 1, "till", YEARS_AHEAD, &["*.*.*.*"]);
    fs::write(&file, entry).unwrap();
    process.start_ready().await;
    let line = r#"{"context":"retail","aggregate":"till","id":"1_2026-01-02","command":"close","body":{}}"#;
    let mut begun = Vec::new();
    for (path, media_type, body) in [
        ("/v1/commands/retail/till/1_2026-01-02/close", "application/json", "{}"),
        ("/v1/commands", "application/jsonl", line),
    ] {
        let mut connection = TcpStream::connect(till.address()).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nContent-Type: {media_type}\r\n\
             Content-Length: {}\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n",
            till.address(),
            till.header("Authorization").unwrap(),
            body.len(),
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        // The gateway asks for the body when it has looked at the key.
        let mut goes_on = [0; 25];
        connection.read_exact(&mut goes_on).await.unwrap();
        assert_eq!(str::from_utf8(&goes_on), Ok("HTTP/1.1 100 Continue\r\n\r\n"));
        begun.push((connection, body));
    }
    fs::write(&file, "").unwrap();
    until("the key is revoked", async || (till.get("/v1/commands/till:1").await.status == 401).then_some(()))
        .await;
    for (mut connection, body) in begun {
        connection.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("key-unknown"), "{answer}");
    }
    let stored = server.broker().await.state("COMMANDS").await.unwrap().last_sequence;
    assert_eq!(stored, 0);
    process.stop().await;
}

/// It waited until its time was over, and would have been answered.
#[tokio::test]
async fn a_question_that_waits_ends_with_its_key() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, reader) = key(&client, 1, "reader", YEARS_AHEAD, &[]);
    fs::write(&file, format!("{entry}queries = [\"retail.product.*\"]\n")).unwrap();
    let view = server.client().await;
    let mut questions = view.subscribe("query.retail.product.get").await.unwrap();
    view.flush().await.unwrap();
    process.start_ready().await;
    let asking = tokio::spawn(async move { reader.get("/v1/retail/product/tea").await });
    // The key was looked at. Nobody answers the question.
    let _question = questions.next().await.unwrap();
    fs::write(&file, "").unwrap();
    assert_eq!(asking.await.unwrap().problem(), (401, "key-unknown".to_owned()));
    process.stop().await;
}

#[tokio::test]
async fn a_key_reads_the_rows_and_lists_that_it_names() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, till) = key(&client, 1, "till-2506", YEARS_AHEAD, &["*.*.*.*"]);
    fs::write(&file, format!("{entry}queries = [\"retail.till.2506_*\", \"retail.stock.*\"]\n")).unwrap();
    process.start_ready().await;
    // No projector runs: what is granted is asked for in vain, and what is not is not asked for.
    let granted = (503, "view-unavailable".to_owned());
    let refused = (403, "query-not-granted".to_owned());
    for (path, expected) in [
        ("/v1/retail/till/2506_2026-01-02", &granted),
        ("/v1/retail/till?prefix=2506_", &granted),
        ("/v1/retail/till?prefix=2506_2026&limit=3", &granted),
        ("/v1/retail/stock", &granted),
        ("/v1/retail/till/2507_2026-01-02", &refused),
        ("/v1/retail/till", &refused),
        ("/v1/retail/till?prefix=250", &refused),
        ("/v1/retail/till?prefix=2507_", &refused),
        ("/v1/retail/command/till-2506:1", &refused),
        ("/v1/orders/nothing/2506_1", &refused),
    ] {
        assert_eq!(till.get(path).await.problem(), *expected, "{path}");
    }
    process.stop().await;
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_by_the_command() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let keys = async |arguments: &[&str]| {
        let mut command = millstream();
        command.arg("keys").args(arguments).arg("--file").arg(&file);
        program::run(command, b"").await
    };
    let made = keys(&["new", "shop", "--command", "retail.product.*.*"]).await.expect_success("keys new");
    let token = made.stdout.trim().to_owned();
    // It may stand elsewhere: a link stays one.
    let elsewhere = folder.path().join("elsewhere.toml");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    let made = keys(&["new", "shop", "--command", "*.*.*.*", "--expires-after", "1d"]).await;
    let second = made.expect_success("keys new").stdout.trim().to_owned();
    assert_ne!(token, second);
    let kept = fs::read_to_string(&file).unwrap();
    assert!(!kept.contains(&token) && !kept.contains(&second), "{kept}");
    for (arguments, code) in [
        (["new", "Not-A-Name", "--command", "*.*.*.*"], 64),
        (["new", "shop", "--command", "retail.till"], 64),
        (["new", "shop", "--expires-after", "soon"], 64),
        (["revoke", "nobody", "--hash", ""], 64),
    ] {
        let ended = keys(&arguments).await;
        assert_eq!(ended.code(), Some(code), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), kept, "what was refused has changed nothing");

    process.start_ready().await;
    let with = |token: &str| client.with("Authorization", &format!("Bearer {token}"));
    let register = async |token: &str| {
        let path = "/v1/commands/retail/product/tea/register";
        with(token).post(path, r#"{"name":"Tea","supplier":"acme"}"#).await.status
    };
    assert_eq!((register(&token).await, register(&second).await), (202, 202));
    let listed = keys(&["list", "--json"]).await.expect_success("keys list").stdout;
    let hash = KeyHash::of(&token).to_string();
    assert!(listed.lines().count() == 2 && listed.contains(&hash), "{listed}");
    let table = keys(&["list"]).await.expect_success("keys list").stdout;
    assert!(table.contains("valid") && table.contains("retail.product.*.*"), "{table}");
    // A pipe in the place of the file is told, and holds up neither the command nor the looks at the file that comes back.
    let aside = folder.path().join("aside.toml");
    fs::rename(&elsewhere, &aside).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&elsewhere).status().unwrap().success());
    until("the pipe is told", async || {
        process.readiness().await.contains("it is no regular file").then_some(())
    })
    .await;
    let refused = keys(&["new", "shop", "--command", "*.*.*.*"]).await;
    assert!(refused.stderr.contains("it is no regular file"), "{}", refused.stderr);
    fs::rename(&aside, &elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o640)).unwrap();
    let _said = keys(&["revoke", "shop", "--hash", &hash[..12]]).await.expect_success("keys revoke");
    let mode = fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "whoever could not read the file cannot read the new one");
    until("the first is refused", async || (register(&token).await == 401).then_some(())).await;
    assert_eq!(register(&second).await, 202, "and the second is not");
    assert!(fs::symlink_metadata(&file).unwrap().is_symlink(), "the link was replaced by a file");
    process.stop().await;
}
