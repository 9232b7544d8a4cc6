//! Reports as documents: revisions, differences, JSON and CSV, page by page, no more than the key grants.

use std::fs;

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_jetstream::testing::test_server::TestServer;
use serde_json::{Value, json};

use crate::{
    commands::clients,
    gateway_with_keys,
    keys::{YEARS_AHEAD, key},
    queries::answered,
};

const STORE: &str = "/v1/reports/store-daily/2026-01-02/7";

/// Stores a command, and answers its position.
async fn send(client: &HttpClient, path: &str, body: &Value) -> String {
    let stored = client.post(&format!("/v1/commands/retail/{path}"), &body.to_string()).await;
    assert_eq!(stored.status, 202, "{stored:?}");
    stored.header("millstream-position").unwrap().to_owned()
}

fn sale(sale: &str, currency: &str, unit_price: i64) -> Value {
    let lines = [json!({ "sku": "tea", "quantity": 2, "unit_price": unit_price })];
    json!({ "sale": sale, "currency": currency, "lines": lines })
}

/// The lines of CSV, each of which ends as RFC 4180 says.
fn lines(csv: &HttpAnswer) -> Vec<String> {
    assert_eq!(csv.status, 200, "{csv:?}");
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"), "{csv:?}");
    let lines: Vec<String> = csv.body.split_inclusive('\n').map(str::to_owned).collect();
    assert!(lines.iter().all(|line| line.ends_with("\r\n")), "{csv:?}");
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

#[tokio::test]
async fn reports_are_read_as_documents() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let named = json!({ "name": "Tea", "supplier": "acme", "supplier_name": "=Acme, \"Söhne\"" });
    send(&client, "product/tea/register", &named).await;
    send(&client, "till/7_2026-01-02/record-sale", &sale("S-1", "KWD", 750)).await;
    send(&client, "till/7_2026-01-02/close", &json!({})).await;
    send(&client, "till/7_2026-01-02/record-sale", &sale("S-2", "KWD", 250)).await;
    send(&client, "till/8_2026-01-02/record-sale", &sale("S-3", "JPY", 600)).await;
    let last = send(&client, "till/9_2026-01-02/record-sale", &sale("S-4", "USD", 5)).await;
    // Nobody has waited for an outcome: the position of the last command is enough to see all of it.
    let client = client.with("Millstream-Position", &last).with("Prefer", "wait=20");
    revisions_stay_and_tell_how_they_differ(&client).await;
    csv_is_what_the_command_writes(&client, &system).await;
    lists_lead_from_page_to_page(&client).await;
    what_is_known_already_is_not_sent_again(&client).await;
    what_cannot_be_meant_is_refused(&client).await;
    let _said = system.stop().await;
}

async fn revisions_stay_and_tell_how_they_differ(client: &HttpClient) {
    let current = answered(client, STORE).await;
    assert_eq!(current.status, 200, "{current:?}");
    let row = current.json();
    assert_eq!((&row["key"], &row["value"]["revision"]), (&json!("2026-01-02/7"), &json!(2)), "{row}");
    assert!(current.header("millstream-position").unwrap().starts_with("EVENTS:"), "{current:?}");
    let view = answered(client, "/v1/retail/store-daily/2026-01-02%2F7").await;
    assert_eq!(view.body, current.body, "the same row as that of the view");
    for same in ["/v1/reports/retail.store-daily/2026-01-02/7", "/v1/reports/store-daily/2026-01-02%2F7"] {
        assert_eq!(answered(client, same).await.body, current.body, "{same}");
    }
    let sealed = answered(client, &format!("{STORE}?revision=1")).await.json();
    assert_eq!(
        (&sealed["value"]["status"], &sealed["value"]["net_amount"]),
        (&json!("sealed"), &json!(1500))
    );
    let all = answered(client, &format!("{STORE}?revision=all&reverse=true")).await.json();
    let numbers: Vec<&Value> =
        all["rows"].as_array().unwrap().iter().map(|row| &row["value"]["revision"]).collect();
    assert_eq!(numbers, [2, 1], "{all}");
    let differences = answered(client, &format!("{STORE}?differences=2")).await.json();
    let rows = differences["rows"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &rows[0]["value"]["reference"]),
        (1, &json!("7_2026-01-02/S-2")),
        "{differences}"
    );
    let first = answered(client, &format!("{STORE}?differences=1")).await.json();
    assert_eq!(first, json!({ "rows": [], "cursor": null }), "the first differs from none");
}

async fn csv_is_what_the_command_writes(client: &HttpClient, system: &System) {
    let csv = client.with("Accept", "text/csv");
    for (report, more, asked) in [
        ("store-daily", &[][..], "?prefix=2026-01-02/"),
        ("store-daily", &["--revision", "1"], "?prefix=2026-01-02/&revision=1"),
        ("store-daily", &["--key", "8"], "/2026-01-02/8"),
        ("store-daily", &["--key", "7", "--revision", "1"], "/2026-01-02/7?revision=1"),
        ("store-daily", &["--key", "none"], "?prefix=2026-01-02/none"),
        ("supplier-daily", &[], "?prefix=2026-01-02/"),
    ] {
        let arguments = [&[report, "--date", "2026-01-02", "--format", "csv"], more].concat();
        let written = system.report(&arguments).await.stdout;
        let read = answered(&csv, &format!("/v1/reports/{report}{asked}")).await;
        assert_eq!(lines(&read), written.lines().collect::<Vec<_>>(), "{report}{asked}");
    }
    let stores = answered(&csv, "/v1/reports/store-daily?prefix=2026-01-02/").await;
    for amount in [",2.000,0.000,2.000,KWD", ",1200,0,1200,JPY", ",0.10,0.00,0.10,USD"] {
        assert!(lines(&stores).iter().any(|line| line.ends_with(amount)), "{amount}: {stores:?}");
    }
    let suppliers = answered(&csv, "/v1/reports/supplier-daily?prefix=2026-01-02/").await;
    assert!(suppliers.body.contains(r#","=Acme, ""Söhne""","#), "{suppliers:?}");
    let differences = answered(&csv, &format!("{STORE}?differences=2")).await;
    let line = &lines(&differences)[1];
    assert!(
        line.starts_with("7_2026-01-02/S-2,sale-recorded,") && line.ends_with(",0.500,KWD"),
        "{differences:?}"
    );
}

async fn lists_lead_from_page_to_page(client: &HttpClient) {
    let csv = client.with("Accept", "text/csv");
    for (asked, keys) in [
        ("prefix=2026-01-02/&limit=1", &["7", "8", "9"][..]),
        ("from=2026-01-02/8&to=2026-01-02/9&limit=1", &["8"]),
        ("revision=2&limit=1", &["7"]),
        ("revision=all&limit=3&prefix=2026-01-02/", &["7", "7", "8", "9"]),
    ] {
        let (mut stores, mut told) = (Vec::new(), Vec::new());
        let mut next = Some(format!("/v1/reports/store-daily?{asked}"));
        while let Some(path) = next {
            let page = answered(client, &path).await;
            assert_eq!(page.status, 200, "{page:?}");
            let rows = page.json()["rows"].as_array().unwrap().clone();
            stores.extend(rows.iter().map(|row| row["value"]["store"].as_str().unwrap().to_owned()));
            let same = answered(&csv, &path).await;
            told.extend(lines(&same).iter().skip(1).map(|line| line.split_once(',').unwrap().0.to_owned()));
            assert_eq!(same.header("link"), page.header("link"));
            next = page.header("link").map(|link| {
                assert!(link.ends_with("; rel=\"next\""), "{link}");
                link.split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned()
            });
        }
        assert_eq!(stores, keys, "{asked}");
        assert_eq!(told, keys, "{asked}");
    }
    let page = answered(client, "/v1/reports/store-daily/2026-01-02%2f7?revision=all&limit=1").await;
    let link = page.header("link").unwrap();
    assert!(link.starts_with("</v1/reports/store-daily/2026-01-02%2f7?limit=1&cursor="), "{link}");
}

async fn what_is_known_already_is_not_sent_again(client: &HttpClient) {
    let json = answered(client, STORE).await;
    let csv = client.with("Accept", "text/csv");
    let table = answered(&csv, STORE).await;
    let tags = [&json, &table].map(|answer| {
        assert_eq!(answer.header("vary"), Some("accept"), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"), "{answer:?}");
        answer.header("etag").unwrap()
    });
    assert_ne!(tags[0], tags[1], "two forms are two things to keep");
    for (client, tag, status) in
        [(client, tags[0], 304), (&csv, tags[1], 304), (client, tags[1], 200), (&csv, tags[0], 200)]
    {
        let again = answered(&client.with("If-None-Match", tag), STORE).await;
        assert_eq!((again.status, again.header("vary")), (status, Some("accept")), "{again:?}");
    }
    let head = client.request("HEAD", STORE, "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""), "{head:?}");
}

async fn what_cannot_be_meant_is_refused(client: &HttpClient) {
    let malformed = (400, "query-malformed");
    for (path, expected) in [
        (format!("{STORE}?revision=3"), (404, "row-unknown")),
        (format!("{STORE}%23000001"), (404, "row-unknown")),
        (format!("{STORE}?differences=3"), (404, "row-unknown")),
        (format!("{STORE}%23000001?revision=all"), (404, "row-unknown")),
        ("/v1/reports/store-daily/2026-01-02/none?revision=all".to_owned(), (404, "row-unknown")),
        ("/v1/reports/store-daily/2026-01-02/none?differences=1".to_owned(), (404, "row-unknown")),
        ("/v1/reports/store-daily/2026-01-02?revision=all".to_owned(), (404, "row-unknown")),
        ("/v1/reports/store-daily/2026-01-02/none".to_owned(), (404, "row-unknown")),
        ("/v1/reports/store-daily/%00".to_owned(), (404, "row-unknown")),
        ("/v1/reports/nothing/2026-01-02/7".to_owned(), (404, "report-unknown")),
        ("/v1/reports/till/7_2026-01-02".to_owned(), (404, "report-unknown")),
        ("/v1/reports/store-daily-revisions".to_owned(), (404, "report-unknown")),
        ("/v1/reports/store-daily/".to_owned(), (404, "address-unknown")),
        ("/v1/reports/store-daily/%ff".to_owned(), (400, "address-malformed")),
        (format!("{STORE}?revision=0"), malformed),
        (format!("{STORE}?revision=1&differences=2"), malformed),
        (format!("{STORE}?differences=all"), malformed),
        (format!("{STORE}?revision=1&revision=2"), malformed),
        (format!("{STORE}?limit=2"), malformed),
        (format!("{STORE}?revision=all&prefix=x"), malformed),
        (format!("{STORE}?revision=all&limit=0"), malformed),
        (format!("{STORE}?as_of=2026-01-02"), malformed),
        ("/v1/reports/store-daily?differences=2".to_owned(), malformed),
        ("/v1/reports/store-daily?limit=10001".to_owned(), malformed),
    ] {
        let answer = answered(client, &path).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{path}: {answer:?}");
    }
    let csv = client.with("Accept", "text/csv");
    for asked in ["revision=all&limit=5", "differences=2"] {
        let answer = answered(&csv, &format!("/v1/reports/store-daily/2026-01-02/none?{asked}")).await;
        assert_eq!(answer.problem(), (404, "row-unknown".to_owned()), "{answer:?}");
    }
    let neither = client.with("Accept", "text/html").get(STORE).await;
    assert_eq!(neither.problem(), (406, "not-acceptable".to_owned()));
    assert_eq!(neither.header("vary"), Some("accept"), "{neither:?}");
    let misspelt = client.with("Millstream-Wait-Ms", "1").get(STORE).await;
    assert_eq!(misspelt.problem(), (400, "header-unknown".to_owned()));
}

#[tokio::test]
async fn a_key_reads_of_reports_what_it_reads_of_their_views() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (store, of_store) = key(&client, 1, "store-7", YEARS_AHEAD, &[]);
    let (office, of_office) = key(&client, 2, "office", YEARS_AHEAD, &[]);
    let (all, of_all) = key(&client, 3, "all", YEARS_AHEAD, &[]);
    let queries = [
        (store, r#"["retail.store-daily.*/7", "retail.store-daily-revisions.*/7#*"]"#),
        (office, r#"["retail.store-daily*.*"]"#),
        (all, r#"["*.*.*"]"#),
    ];
    let entries: Vec<String> =
        queries.iter().map(|(entry, granted)| format!("{entry}queries = {granted}\n\n")).collect();
    fs::write(&file, entries.concat()).unwrap();
    process.start_ready().await;
    // No reporter runs: what is granted is asked for in vain, and what is not is not asked for.
    let granted = (503, "view-unavailable");
    let refused = (403, "query-not-granted");
    for (client, path, expected) in [
        (&of_store, STORE, granted),
        (&of_store, "/v1/reports/store-daily/2026-01-02/7?revision=1", granted),
        (&of_store, "/v1/reports/store-daily/2026-01-02/7?revision=all", refused),
        (&of_store, "/v1/reports/store-daily/2026-01-02/7?differences=2", refused),
        (&of_store, "/v1/reports/store-daily/2026-01-02/17", refused),
        (&of_store, "/v1/reports/store-daily/2026-01-02/8?revision=1", refused),
        (&of_store, "/v1/reports/store-daily?prefix=2026-01-02/7", refused),
        (&of_store, "/v1/reports/supplier-daily/2026-01-02/7", refused),
        (&of_store, "/v1/reports/nothing/2026-01-02/7", refused),
        (&of_office, "/v1/reports/store-daily/2026-01-02/7?differences=2", granted),
        (&of_office, "/v1/reports/store-daily/2026-01-02/7?revision=all", granted),
        (&of_office, "/v1/reports/store-daily?revision=2", granted),
        (&of_office, "/v1/reports/retail.store-daily", granted),
        (&of_office, "/v1/reports/supplier-daily", refused),
        (&of_all, "/v1/reports/supplier-daily", granted),
        (&of_all, "/v1/reports/nothing", (404, "report-unknown")),
        (&client, STORE, (401, "key-missing")),
    ] {
        let answer = client.get(path).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{path}: {answer:?}");
    }
    process.stop().await;
}
