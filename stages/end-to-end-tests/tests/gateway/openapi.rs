//! What a gateway tells of itself, compared with what it does.

use std::{fs, path::Path};

use end_to_end_tests::{
    http_client::HttpClient,
    program,
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_jetstream::testing::test_server::TestServer;
use serde_json::Value;

use crate::{
    commands::clients,
    gateway_with_keys,
    keys::{YEARS_AHEAD, key},
};

#[tokio::test]
async fn every_example_of_the_document_is_taken() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let answer = client.get("/v1/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    let tag = answer.header("etag").unwrap();
    assert_eq!(client.with("If-None-Match", tag).get("/v1/openapi.json").await.status, 304);
    let mut taken = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        // Several commands have no schema as a whole, and a statement is no command.
        if path.starts_with("/v1/commands/")
            && item["post"]["requestBody"]["content"]["application/json"].is_object()
        {
            take(&client, path, &document, &item["post"]).await;
            taken += 1;
        }
    }
    assert!(taken > 20, "these are all commands of the reference application: {taken}");
    for view in ["/v1/retail/command", "/v1/retail/store-daily", "/v1/reports/store-daily/{date}/{key}"] {
        assert!(document["paths"][view]["get"].is_object(), "{view}");
    }
    type_the_page(&client, folder.path()).await;
    let _said = system.stop().await;
}

/// Types the lines of the page as they stand there.
async fn type_the_page(client: &HttpClient, folder: &Path) {
    let page = client.get("/v1/docs").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8")),
        "{page:?}"
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let mut lines = 0;
    for line in page.body.split("<pre><code>curl ").skip(1).map(|rest| rest.split("</code>").next().unwrap())
    {
        let line = [("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&#38;", "&")]
            .iter()
            .fold(line.to_owned(), |line, (written, meant)| line.replace(written, meant));
        let mut shell = program::command("sh");
        let line = format!("curl --silent --show-error --write-out '\n%{{http_code}}' {line}");
        shell.args(["-c", &line]).current_dir(folder).env("GATEWAY", format!("http://{}", client.address()));
        let answer = program::run(shell, b"").await.expect_success(&line).stdout;
        let status = answer.lines().last().unwrap();
        assert!(["200", "202"].contains(&status), "{line}: {answer}");
        lines += 1;
    }
    assert!(lines > 20, "{lines} lines");
    // As a browser asks when somebody types the address.
    assert_eq!(client.with("Sec-Fetch-Site", "none").get("/v1/docs").await.status, 200);
    let from_elsewhere = client.with("Sec-Fetch-Site", "cross-site").get("/v1/docs").await;
    assert_eq!(from_elsewhere.problem(), (403, "browser-refused".to_owned()));
}

/// Sends the example of a command to the example of an id.
async fn take(client: &HttpClient, path: &str, document: &Value, operation: &Value) {
    let reference =
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
    let schema = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
    let example = schema["examples"][0].to_string();
    let id = operation["parameters"][0]["example"].as_str().unwrap();
    let answer = client.post(&path.replace("{id}", id), &example).await;
    assert_eq!(answer.status, 202, "{path} {id} {example}: {answer:?}");
}

#[tokio::test]
async fn the_document_asks_for_a_key_where_the_gateway_does() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, office) = key(&client, 1, "office", YEARS_AHEAD, &[]);
    fs::write(file, entry).unwrap();
    process.start_ready().await;
    assert_eq!(client.get("/v1/openapi.json").await.problem(), (401, "key-missing".to_owned()));
    // A key without any grant is enough: the document tells of no data.
    let document = office.get("/v1/openapi.json").await.json();
    assert_eq!(document["components"]["securitySchemes"]["key"]["scheme"], "bearer");
    process.stop().await;
}
