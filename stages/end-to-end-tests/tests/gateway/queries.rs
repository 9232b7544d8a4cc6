//! Rows and lists over HTTP: read one's own writes, page by page, no more than the key grants.

use end_to_end_tests::{
    http_client::HttpClient,
    system::{System, fresh_folder},
    waiting::until,
};
use serde_json::{Value, json};

use crate::commands::clients;

/// Asks until the machine, which may be loaded, has an answer in time.
pub(crate) async fn answered(client: &HttpClient, path: &str) -> end_to_end_tests::http_client::HttpAnswer {
    until(format!("{path} is answered"), async || {
        let answer = client.get(path).await;
        (![503, 504].contains(&answer.status)).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn rows_are_read_no_older_than_ones_own_write() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    for name in ["tea", "tee", "toast"] {
        let path = format!("/v1/commands/retail/product/{name}/register");
        let stored = client.post(&path, &json!({ "name": name, "supplier": "acme" }).to_string()).await;
        assert_eq!(stored.status, 202, "{stored:?}");
        // The client knows the command's position alone, and sees its effect all the same.
        let position = stored.header("millstream-position").unwrap();
        let behind = client.with("Millstream-Position", position).with("Prefer", "wait=20");
        let row = answered(&behind, &format!("/v1/retail/product/{name}")).await;
        assert_eq!(row.status, 200, "{row:?}");
        assert_eq!((&row.json()["key"], &row.json()["value"]["name"]), (&json!(name), &json!(name)));
        assert!(row.header("millstream-position").unwrap().starts_with("EVENTS:"), "{row:?}");
        let path = format!("/v1/retail/command/{}", stored.json()["command_id"].as_str().unwrap());
        let outcome = answered(&behind, &path).await;
        assert_eq!(outcome.json()["value"]["outcome"], "accepted");
    }
    what_is_known_already_is_not_sent_again(&client).await;
    lists_lead_from_page_to_page(&client).await;
    what_is_not_there_is_told(&client).await;
    let _said = system.stop().await;
}

async fn what_is_known_already_is_not_sent_again(client: &HttpClient) {
    let first = answered(client, "/v1/retail/product/tea").await;
    let tag = first.header("etag").unwrap();
    assert_eq!(first.header("cache-control"), Some("private, no-cache"), "{first:?}");
    let again = answered(&client.with("If-None-Match", tag), "/v1/retail/product/tea").await;
    assert_eq!((again.status, again.body.as_str()), (304, ""), "{again:?}");
    assert_eq!(again.header("etag"), Some(tag));
    // Something in between may have made a strong tag of it.
    let strong = format!("\"other\", {}", tag.strip_prefix("W/").unwrap());
    let again = answered(&client.with("If-None-Match", &strong), "/v1/retail/product/tea").await;
    assert_eq!(again.status, 304, "{again:?}");
}

async fn lists_lead_from_page_to_page(client: &HttpClient) {
    let mut path = "/v1/retail/product?prefix=te&limit=1".to_owned();
    let mut found = Vec::new();
    loop {
        let page = answered(client, &path).await;
        assert_eq!(page.status, 200, "{page:?}");
        found.extend(page.json()["rows"].as_array().unwrap().iter().map(|row| row["key"].clone()));
        let Some(link) = page.header("link") else { break };
        assert!(link.ends_with("; rel=\"next\""), "{link}");
        path = link.split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned();
    }
    assert_eq!(found, ["tea", "tee"].map(Value::from));
    let reversed = answered(client, "/v1/retail/product?reverse=true&from=tee&to=zzz").await;
    assert_eq!(reversed.json()["rows"][0]["key"], "toast", "{reversed:?}");
}

async fn what_is_not_there_is_told(client: &HttpClient) {
    let generation = answered(client, "/v1/retail/product/tea").await;
    let generation = generation.header("millstream-position").unwrap().split(':').nth(1).unwrap().to_owned();
    let future = format!("EVENTS:{generation}:1000000");
    for (client, path, expected) in [
        (client.clone(), "/v1/retail/product/none", (404, "row-unknown")),
        (client.clone(), "/v1/retail/nothing/x", (404, "view-unknown")),
        (client.clone(), "/v1/nothing/product", (404, "view-unknown")),
        (client.clone(), "/v1/retail/product?limit=0", (400, "query-malformed")),
        (client.clone(), "/v1/retail/product?limit=x", (400, "query-malformed")),
        (client.clone(), "/v1/retail/product?order=up", (400, "query-malformed")),
        (client.clone(), "/v1/retail/product?cursor=x", (400, "query-malformed")),
        (client.with("Millstream-Wait-Ms", "17"), "/v1/retail/product/tea", (400, "header-unknown")),
        (client.with("Millstream-Position", "17"), "/v1/retail/product/tea", (400, "position-malformed")),
        (
            client.with("Millstream-Position", "EVENTS:01JD:1"),
            "/v1/retail/product/tea",
            (409, "position-of-another-generation"),
        ),
        (
            client.with("Millstream-Position", "COMMANDS:01JD:1"),
            "/v1/retail/product/tea",
            (409, "position-of-another-generation"),
        ),
    ] {
        let answer =
            until("an answer", async || Some(client.get(path).await).filter(|answer| answer.status != 503))
                .await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{path}: {answer:?}");
    }
    let late = client
        .with("Millstream-Position", &future)
        .with("Prefer", "wait=1")
        .get("/v1/retail/product/tea")
        .await;
    assert_eq!(late.problem(), (504, "position-not-reached".to_owned()));
    assert_eq!(late.header("retry-after"), Some("1"), "{late:?}");
}
