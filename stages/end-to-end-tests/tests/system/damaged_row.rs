//! A row that has changed on the disk, met by a query while everything runs.

use std::path::Path;

use end_to_end_tests::{
    program::Ended,
    system::{System, fresh_folder},
    waiting::until,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const NAME: &str = "Juarez Gold 7777";

/// The name of the product, or the code of the refusal; none while nobody answers.
async fn product(system: &System) -> Option<Result<Value, String>> {
    let client = async_nats::connect(system.url()).await.unwrap();
    let answer = client.request("query.retail.product.get", r#"{"key":"1"}"#.into()).await.ok()?;
    let code = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
    Some(match code {
        Some(code) => Err(code.to_string()),
        None => Ok(serde_json::from_slice::<Value>(&answer.payload).unwrap()["value"]["name"].clone()),
    })
}

/// Changes a digit of the name wherever the file of rows has it.
fn damage(folder: &Path) {
    let path = folder.join("data/projector/rows.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let found = bytes.windows(NAME.len()).enumerate().filter(|(_, it)| *it == NAME.as_bytes());
    let places: Vec<usize> = found.map(|(place, _)| place + NAME.len() - 1).collect();
    assert!(!places.is_empty(), "the row is not in the file");
    for place in places {
        bytes[place] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
}

/// How many damaged files the projector has counted.
async fn damaged_files(system: &System) -> Option<String> {
    let config = std::fs::read_to_string(system.folder().join("config/projector.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let mut connection = TcpStream::connect(config["telemetry"]["address"].as_str().unwrap()).await.ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
    connection.write_all(request).await.ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.ok()?;
    let line = answer.lines().find(|line| line.starts_with("millstream_damaged_files_total"))?;
    Some(line.to_owned())
}

/// A system with one product, whose row was changed while the system was down.
async fn with_damaged_row(folder: &Path, setting: &str) -> System {
    let arguments = ["--set", setting];
    let system = System::start(folder, &arguments).await;
    let body = json!({ "name": NAME, "supplier": "luxco" }).to_string();
    for id in ["1", "2"] {
        let sent: Ended = system.millstream(&["send", "retail", "product", id, "register", &body]).await;
        let _sent = sent.expect_success("register");
    }
    until("the row is there", async || product(&system).await?.ok()).await;
    system.stop().await;
    damage(folder);
    System::start(folder, &arguments).await
}

fn log(system: &System) -> String {
    std::fs::read_to_string(system.folder().join("logs/projector.log")).unwrap()
}

/// Every query of the row was answered with 500, one log line each, while the stage was ready and its metric 0.
#[tokio::test]
async fn a_damaged_row_is_refused_counted_told_once_and_makes_the_stage_unready() {
    let folder = fresh_folder();
    let system = with_damaged_row(folder.path(), "projector.damaged_file=refuse").await;
    for _ in 0..5 {
        assert_eq!(product(&system).await, Some(Err("500".to_owned())));
    }
    until("doctor says so", async || {
        let doctor = system.millstream(&["doctor"]).await;
        let said = doctor.stdout.lines().find(|line| line.starts_with("trouble stage projector:"))?;
        let words = ["rows.redb is damaged", "not what was written", "damaged_file = \"rebuild\""];
        words.iter().all(|word| said.contains(word)).then_some(())
    })
    .await;
    let counted = damaged_files(&system).await.unwrap();
    assert!(counted.ends_with("{store=\"rows\"} 1"), "{counted}");
    let log = log(&system);
    assert_eq!(log.matches("the file of rows is damaged").count(), 1, "{log}");
    assert_eq!(log.matches("query failed").count(), 0, "{log}");
    // Whoever asks for anything else is served.
    let other = system.query("query.retail.till.list", &json!({})).await.unwrap();
    assert_eq!(other["rows"], json!([]));
    system.stop().await;
}

#[tokio::test]
async fn a_damaged_row_is_built_anew_where_the_configuration_says_so() {
    let folder = fresh_folder();
    let system = with_damaged_row(folder.path(), "projector.damaged_file=rebuild").await;
    assert_eq!(product(&system).await, Some(Err("500".to_owned())));
    let name = until("the row is built anew", async || product(&system).await?.ok()).await;
    assert_eq!(name, NAME);
    let counted = until("the new process has counted it", async || damaged_files(&system).await).await;
    assert!(counted.ends_with("{store=\"rows\"} 1"), "{counted}");
    let files = std::fs::read_dir(folder.path().join("data/projector")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("rows.redb.set-aside-")), "{names:?}");
    assert!(log(&system).contains("the next start builds them anew"), "{}", log(&system));
    system.stop().await;
}
