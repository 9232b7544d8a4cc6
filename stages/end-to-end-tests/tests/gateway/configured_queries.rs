//! Configured queries over HTTP, through a gateway with keys and the real stage `sql`.

use std::{cell::Cell, fs, path::Path};

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    stage_process::StageProcess,
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_jetstream::testing::test_server::TestServer;
use serde_json::{Value, json};

use crate::{
    gateway_with_keys,
    keys::{YEARS_AHEAD, key},
};

const SELLERS: &str = "-- title: Sellers\n-- description: What sells.\n-- parameter: from date; the first day\n\
     -- parameter: store text = null; one store alone\n-- money: amount in currency\n-- rows: 2\n\
     SELECT s.store, l.sku, SUM(l.quantity * l.unit_price) AS amount, s.currency FROM retail.sale AS s\n\
     JOIN retail.sale_lines AS l ON l.store = s.store AND l.business_date = s.business_date AND l.sale = s.sale\n\
     WHERE s.business_date >= :from AND (:store IS NULL OR s.store = :store)\n\
     GROUP BY s.store, l.sku, s.currency ORDER BY s.store, l.sku";
const ENDLESS: &str = "-- title: Endless\n-- parameter: store text = null\n\
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) AS n, :store AS store FROM n";
const STORES: &str = "-- title: Stores\nSELECT DISTINCT t.store FROM retail.till AS t ORDER BY t.store";
const PRIVATE: &str = "-- title: Private\n-- who: audit*\nSELECT 1 AS one";
const FROM_2026: &str = "/v1/queries/retail/sellers?from=2026-01-01";

const USERS: &str = "[[user]]\nname = \"auditor\"\nsql = [\"retail.*\"]\nad_hoc_sql = true\n\n\
     [[user]]\nname = \"shop\"\nsql = [\"retail.*?store=1\"]\n";

struct Clients {
    anybody: HttpClient,
    office: HttpClient,
    store: HttpClient,
    till: HttpClient,
}

/// A system with tables, and a gateway with keys beside its own.
async fn started(folder: &Path) -> (System, StageProcess, Clients) {
    let queries = folder.join("queries/retail");
    fs::create_dir_all(&queries).unwrap();
    for (name, text) in [("sellers", SELLERS), ("endless", ENDLESS), ("stores", STORES), ("private", PRIVATE)]
    {
        fs::write(queries.join(format!("{name}.sql")), text).unwrap();
    }
    let set = format!("sql.queries={}", folder.join("queries").display());
    let arguments = ["--set", set.as_str(), "--set", "sql.query_time=2s"];
    let system = System::start_with_tables(&folder.join("system"), &arguments).await;
    let (mut process, anybody, file) = gateway_with_keys(&system.url(), folder);
    let granted = [
        (1, "office", "sql = [\"retail.*\"]\nad_hoc_sql = true"),
        (2, "store-1", "sql = [\"retail.*?store=1\"]"),
        (3, "till", "queries = [\"*.*.*\"]"),
    ];
    let keys = granted.map(|(seed, name, grant)| {
        let (entry, client) = key(&anybody, seed, name, YEARS_AHEAD, &["*.*.*.*"]);
        (format!("{entry}{grant}\n\n"), client)
    });
    let [(first, office), (second, store), (third, till)] = keys;
    fs::write(file, [&first, &second, &third, USERS].concat()).unwrap();
    process.start_ready().await;
    (system, process, Clients { anybody, office, store, till })
}

/// Sells, and returns the position of the command.
async fn sold(client: &HttpClient, store: u32, sku: &str) -> String {
    let path = format!("/v1/commands/retail/till/{store}_2026-01-31/record-sale");
    let lines = json!([{ "sku": sku, "quantity": 2, "unit_price": 150 }]);
    let body = json!({ "sale": format!("S-{sku}"), "currency": "USD", "lines": lines });
    let stored = client.post(&path, &body.to_string()).await;
    assert_eq!(stored.status, 202, "{stored:?}");
    stored.header("millstream-position").unwrap().to_owned()
}

/// Asks until nobody is in the way.
async fn answered(client: &HttpClient, path: &str) -> HttpAnswer {
    until(format!("{path} is answered"), async || {
        let answer = client.get(path).await;
        (![429, 503].contains(&answer.status)).then_some(answer)
    })
    .await
}

async fn ones_own_write_is_seen(clients: &Clients) {
    sold(&clients.office, 1, "tea").await;
    sold(&clients.office, 2, "jam").await;
    let position = sold(&clients.office, 3, "egg").await;
    let behind = clients.office.with("Millstream-Position", &position).with("Prefer", "wait=30");
    let answer = answered(&behind, &format!("{FROM_2026}&store=3")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("millstream-position").unwrap().starts_with("EVENTS:"), "{answer:?}");
    let row = json!({ "store": "3", "sku": "egg", "amount": 300, "currency": "USD" });
    assert_eq!((&answer.json()["rows"], &answer.json()["cut"]), (&json!([row]), &json!(false)));
    // The position of that answer is one to ask behind, too.
    let position = answer.header("millstream-position").unwrap();
    assert_eq!(answered(&clients.office.with("Millstream-Position", position), FROM_2026).await.status, 200);
}

async fn forms_and_tags(clients: &Clients) {
    let answer = answered(&clients.office, FROM_2026).await;
    assert_eq!((answer.status, answer.header("millstream-cut")), (200, Some("true")), "{answer:?}");
    assert_eq!(answer.json()["columns"], json!(["store", "sku", "amount", "currency"]));
    assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
    let tag = answer.header("etag").unwrap();
    let same = answered(&clients.office.with("If-None-Match", tag), FROM_2026).await;
    assert_eq!((same.status, same.body.as_str()), (304, ""), "{same:?}");
    let csv = answered(&clients.office.with("Accept", "text/csv"), FROM_2026).await;
    assert_eq!(csv.body, "store,sku,amount,currency\r\n1,tea,3.00,USD\r\n2,jam,3.00,USD\r\n", "{csv:?}");
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!((csv.header("vary"), csv.header("millstream-cut")), (Some("accept"), Some("true")));
}

fn names(list: &HttpAnswer) -> Vec<String> {
    let queries = list.json()["queries"].as_array().unwrap().clone();
    queries.iter().map(|query| query["name"].as_str().unwrap().to_owned()).collect()
}

async fn everybody_asks_what_is_granted(clients: &Clients) {
    let list = answered(&clients.office, "/v1/queries").await;
    assert_eq!(names(&list), ["endless", "sellers", "stores"], "{list:?}");
    let sellers = &list.json()["queries"][1];
    assert_eq!(
        (&sellers["title"], &sellers["address"]),
        (&json!("Sellers"), &json!("/v1/queries/retail/sellers"))
    );
    let from = json!({ "name": "from", "type": "date", "required": true, "default": null, "description": "the first day" });
    assert_eq!(sellers["parameters"][0], from);
    let own = answered(&clients.store, "/v1/queries").await;
    assert_eq!(names(&own), ["endless", "sellers"], "without the parameter a query would tell of all stores");
    assert_eq!(own.json()["queries"][1]["parameters"][1]["granted"], json!(["1"]));
    assert_eq!(names(&answered(&clients.till, "/v1/queries").await), [""; 0]);
    let described = async |client: &HttpClient| {
        let document = answered(client, "/v1/openapi.json").await.json();
        document["paths"]["/v1/queries/retail/sellers"]["get"].clone()
    };
    let (of_office, of_store) = (described(&clients.office).await, described(&clients.store).await);
    let parameter = |operation: &Value, name: &str| {
        let parameters = operation["parameters"].as_array().unwrap().iter();
        parameters.clone().find(|each| each["name"] == name).unwrap_or_else(|| panic!("{operation}")).clone()
    };
    let from = json!({ "name": "from", "in": "query", "description": "the first day", "required": true,
        "schema": { "type": "string", "format": "date" } });
    assert_eq!((&of_office["summary"], parameter(&of_office, "from")), (&json!("Sellers"), from));
    assert_eq!(parameter(&of_office, "store")["schema"], json!({ "type": "string" }));
    assert_eq!(parameter(&of_store, "store")["schema"], json!({ "enum": ["1"] }));
    assert_eq!(described(&clients.till).await, Value::Null);
    for path in [FROM_2026.to_owned(), format!("{FROM_2026}&store=1")] {
        let answer = answered(&clients.store, &path).await.json();
        let stores: Vec<&Value> =
            answer["rows"].as_array().unwrap().iter().map(|row| &row["store"]).collect();
        assert_eq!(stores, ["1"], "{answer}");
    }
}

async fn statements_are_asked_with_their_own_right(clients: &Clients) {
    let Clients { anybody, office, store, till } = clients;
    let ask = async |client: &HttpClient, body: Value| {
        until("somebody answers", async || {
            let answer = client.post("/v1/sql", &body.to_string()).await;
            (![429, 503].contains(&answer.status)).then_some(answer)
        })
        .await
    };
    let statement =
        "SELECT t.store, t.net_amount FROM retail.till AS t WHERE t.store <> :other ORDER BY t.store";
    let body = json!({ "statement": statement, "parameters": { "other": "3" }, "rows": 1 });
    let position = sold(office, 1, "nut").await;
    let behind = office.with("Millstream-Position", &position).with("Prefer", "wait=30");
    let answer = ask(&behind, body.clone()).await;
    assert_eq!((answer.status, answer.header("millstream-cut")), (200, Some("true")), "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({ "columns": ["store", "net_amount"], "rows": [{ "store": "1", "net_amount": 600 }], "cut": true })
    );
    assert_eq!((answer.header("cache-control"), answer.header("etag")), (Some("no-store"), None));
    assert!(answer.header("millstream-position").unwrap().starts_with("EVENTS:"), "{answer:?}");
    let csv = ask(&office.with("Accept", "text/csv"), body.clone()).await;
    assert_eq!(csv.body, "store,net_amount\r\n1,600\r\n", "{csv:?}");
    for (client, body, expected) in [
        (anybody, body.clone(), (401, "key-missing")),
        (store, body.clone(), (403, "statements-not-granted")),
        (till, body.clone(), (403, "statements-not-granted")),
        (office, json!([statement]), (422, "body-malformed")),
        (office, json!({ "statement": statement, "limit": 1 }), (422, "body-malformed")),
        (office, json!({ "statement": statement }), (400, "parameter-missing")),
        (office, json!({ "statement": "DELETE FROM retail.till" }), (422, "query-refused")),
        (office, json!({ "statement": "SELECT 1", "rows": 0 }), (400, "query-malformed")),
        (&office.with("If-None-Match", "\"x\""), body.clone(), (400, "header-unknown")),
        (&office.with("Idempotency-Key", "x"), body.clone(), (400, "header-unknown")),
        (&office.with("Accept", "text/html"), body.clone(), (406, "not-acceptable")),
    ] {
        let refused = ask(client, body.clone()).await;
        let (status, code) = refused.problem();
        assert_eq!((status, code.as_str()), expected, "{body}: {refused:?}");
    }
    assert_eq!(office.get("/v1/sql").await.problem(), (405, "method-not-allowed".to_owned()));
}

/// The answer to a user of NATS: what it says, or the code of the refusal.
async fn asked_by_user(client: &async_nats::Client, subject: &str, body: Value) -> Result<Value, String> {
    until(format!("{subject} is answered"), async || {
        let answer = client.request(subject.to_owned(), body.to_string().into()).await.ok()?;
        let error = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error"));
        match error.map(|error| error.as_str().split(':').next().unwrap_or_default().to_owned()) {
            Some(code) if ["busy", "share-exceeded"].contains(&code.as_str()) => None,
            Some(code) => Some(Err(code)),
            None => Some(Ok(serde_json::from_slice(&answer.payload).unwrap())),
        }
    })
    .await
}

async fn users_of_nats_ask_what_is_granted(url: String) {
    let client = async_nats::connect(url).await.unwrap();
    let from = json!({ "from": "2026-01-01" });
    let all = asked_by_user(&client, "as.auditor.query.retail.sellers", from.clone()).await.unwrap();
    assert_eq!((&all["rows"][0]["store"], &all["cut"]), (&json!("1"), &json!(true)), "{all}");
    let own = asked_by_user(&client, "as.shop.query.retail.sellers", from.clone()).await.unwrap();
    assert!(own["rows"].as_array().unwrap().iter().all(|row| row["store"] == "1"), "{own}");
    let null = json!({ "from": "2026-01-01", "store": null });
    assert_eq!(asked_by_user(&client, "as.shop.query.retail.sellers", null).await.unwrap(), own);
    assert!(
        asked_by_user(&client, "as.auditor.query.retail.private", json!({})).await.is_ok(),
        "it is for audit*"
    );
    let one = json!({ "statement": "SELECT COUNT(*) AS tills FROM retail.till" });
    let counted = asked_by_user(&client, "as.auditor.sql.ask", one.clone()).await.unwrap();
    assert_eq!(counted["rows"], json!([{ "tills": 3 }]));
    for (subject, body, code) in [
        ("as.shop.sql.ask", one, "statements-not-granted"),
        ("as.shop.query.retail.private", json!({}), "query-not-granted"),
        ("as.shop.query.retail.stores", json!({}), "query-not-granted"),
        ("as.shop.query.orders.stuck-orders", json!({}), "query-not-granted"),
        (
            "as.shop.query.retail.sellers",
            json!({ "from": "2026-01-01", "store": "2" }),
            "parameter-not-granted",
        ),
        ("as.auditor.query.retail.sellers", json!({ "from": null }), "parameter-malformed"),
        ("as.auditor.query.retail.sellers", json!({ "from": ["2026-01-01"] }), "parameter-malformed"),
        (
            "as.auditor.query.retail.sellers",
            json!({ "from": "2026-01-01", "shop": null }),
            "parameter-unknown",
        ),
        ("as.auditor.query.retail.sellers", json!(["2026-01-01"]), "query-malformed"),
        ("as.auditor.query.retail.nothing", json!({}), "query-unknown"),
        ("as.auditor.sql.ask", json!({ "statement": "SELECT 1; SELECT 2" }), "query-refused"),
    ] {
        assert_eq!(
            asked_by_user(&client, subject, body.clone()).await,
            Err(code.to_owned()),
            "{subject} {body}"
        );
    }
}

async fn what_is_wrong_is_told(clients: &Clients) {
    let Clients { anybody, office, store, till } = clients;
    let sellers = |rest: &str| format!("/v1/queries/retail/sellers?{rest}");
    for (client, path, expected, parameter) in [
        (office, sellers(""), (400, "parameter-missing"), Some("from")),
        (office, sellers("from=soon"), (400, "parameter-malformed"), Some("from")),
        (office, sellers("from="), (400, "parameter-malformed"), Some("from")),
        (office, sellers("from=2026-01-01&sql=SELECT+1"), (400, "parameter-unknown"), Some("sql")),
        (office, sellers("from=2026-01-01&from=2026-01-02"), (400, "parameter-twice"), Some("from")),
        (store, sellers("from=2026-01-01&store=2"), (403, "parameter-not-granted"), Some("store")),
        (store, "/v1/queries/retail/stores".to_owned(), (403, "query-not-granted"), None),
        (store, "/v1/queries/orders/stuck-orders".to_owned(), (403, "query-not-granted"), None),
        (till, FROM_2026.to_owned(), (403, "query-not-granted"), None),
        (office, "/v1/queries/retail/private".to_owned(), (403, "query-not-granted"), None),
        (office, "/v1/queries/retail/nothing".to_owned(), (404, "query-unknown"), None),
        (office, "/v1/queries?limit=1".to_owned(), (400, "query-malformed"), None),
        (anybody, FROM_2026.to_owned(), (401, "key-missing"), None),
        (&office.with("Accept", "text/html"), FROM_2026.to_owned(), (406, "not-acceptable"), None),
        (&office.with("Millstream-Position", "17"), FROM_2026.to_owned(), (400, "position-malformed"), None),
        (
            &office.with("Millstream-Position", "OUTCOMES:01JD:1"),
            FROM_2026.to_owned(),
            (400, "position-malformed"),
            None,
        ),
        (
            &office.with("Millstream-Position", "EVENTS:01JD:1"),
            FROM_2026.to_owned(),
            (409, "position-of-another-generation"),
            None,
        ),
    ] {
        let answer = answered(client, &path).await;
        let (status, code) = answer.problem();
        assert_eq!((status, code.as_str()), expected, "{path}: {answer:?}");
        assert_eq!(answer.json()["parameter"].as_str(), parameter, "{path}: {answer:?}");
    }
    let position = answered(office, FROM_2026).await.header("millstream-position").unwrap().to_owned();
    let never = format!("{}:1000000", position.rsplit_once(':').unwrap().0);
    let late = office.with("Millstream-Position", &never).with("Prefer", "wait=1").get(FROM_2026).await;
    assert_eq!(late.problem(), (504, "position-not-reached".to_owned()));
    let posted = office.post("/v1/queries/retail/sellers", "SELECT 1").await;
    assert_eq!(posted.problem(), (405, "method-not-allowed".to_owned()));
    let long = answered(office, &sellers(&format!("from={}", "x".repeat(10_000)))).await;
    assert_eq!(
        long.problem(),
        (400, "parameter-malformed".to_owned()),
        "what is long is a value that is no date, as any other"
    );
    let sent = office.get(&sellers("from=2026-01-01&store=%27+OR+1%3D1+--")).await;
    assert_eq!(sent.json()["rows"], json!([]), "{sent:?}");
}

/// A key has one of four places: what would run for ever takes none of those of others.
async fn a_slow_query_costs_nobody_else(clients: &Clients) {
    let mut is_refused = false;
    while !is_refused {
        let is_over = Cell::new(false);
        let endless = async {
            let ended = clients.office.get("/v1/queries/retail/endless").await;
            is_over.set(true);
            ended
        };
        // All answers are waited for: the place of a question whose client has gone is free a moment later.
        let beside = async {
            while !is_over.get() {
                let (same, other) = tokio::join!(clients.office.get(FROM_2026), clients.store.get(FROM_2026));
                assert_eq!(other.status, 200, "another key is answered meanwhile: {other:?}");
                if same.status == 429 {
                    assert_eq!(same.problem(), (429, "share-exceeded".to_owned()));
                    is_refused = true;
                }
            }
        };
        let (ended, ()) = tokio::join!(endless, beside);
        // A question of the same key may have been there first.
        if ended.status != 429 {
            assert_eq!(ended.problem(), (504, "query-too-long".to_owned()));
        }
    }
}

#[tokio::test]
async fn configured_queries_are_asked_over_http() {
    let folder = fresh_folder();
    let (system, mut process, clients) = started(folder.path()).await;
    ones_own_write_is_seen(&clients).await;
    forms_and_tags(&clients).await;
    everybody_asks_what_is_granted(&clients).await;
    statements_are_asked_with_their_own_right(&clients).await;
    users_of_nats_ask_what_is_granted(system.url()).await;
    what_is_wrong_is_told(&clients).await;
    a_slow_query_costs_nobody_else(&clients).await;
    process.stop().await;
    let _said = system.stop().await;
}

#[tokio::test]
async fn a_stage_that_is_away_is_not_a_query_that_is_not_there() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client, file) = gateway_with_keys(&server.url(), folder.path());
    let (entry, office) = key(&client, 1, "office", YEARS_AHEAD, &[]);
    fs::write(file, format!("{entry}sql = [\"*.*\"]\n")).unwrap();
    process.start_ready().await;
    for path in ["/v1/queries", "/v1/queries/retail/sellers"] {
        let away = office.get(path).await;
        assert_eq!(away.problem(), (503, "queries-unavailable".to_owned()));
        assert_eq!(away.header("retry-after"), Some("1"), "{away:?}");
    }
    let unknown = office.get("/v1/queries/nothing/sellers").await;
    assert_eq!(unknown.problem(), (404, "query-unknown".to_owned()));
    process.stop().await;
}
