//! The service on a real server of NATS, over either database: answers, refusals, positions, files that change, and a query that runs for ever.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, client::RequestErrorKind};
use futures::{StreamExt as _, stream::FuturesUnordered};
use millstream_contract::{configured_query::STATEMENT_SUBJECT, header, stream_names::EVENTS};
use millstream_jetstream::testing::test_server::TestServer;
use millstream_read_side::projection_runner::{Hurry, ProjectionStatus};
use millstream_sql::queries::{
    library::Library,
    reader::Reader,
    service::{QuerySettings, SqlQueries},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::desk::{CONTEXTS, Desk};

/// Longer than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a query may run here: longer than any takes that ends, on a busy machine too.
const QUERY_TIME: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(20);

const SELLERS: &str = "-- title: Sellers\n-- description: What sells.\n-- parameter: store text = null; one store alone\n\
     -- parameter: on date; the day\n-- money: amount in currency\n-- who: office\n\
     SELECT l.sku, SUM(l.quantity) AS units, SUM(l.quantity * l.unit_price) AS amount, s.currency FROM retail.sale AS s\n\
     JOIN retail.sale_lines AS l ON l.store = s.store AND l.business_date = s.business_date AND l.sale = s.sale\n\
     WHERE s.business_date = :on AND (:store IS NULL OR s.store = :store) GROUP BY l.sku, s.currency ORDER BY l.sku";
const ENDLESS: &str = "-- title: Endless\n\
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) AS n FROM n";
const LARGE: &str = "-- title: Large\n-- rows: 100000\nWITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12)\n\
     SELECT 'a text that is long enough to make the answer larger than a message of the server may be by default, and some more' AS t FROM n a, n b, n c, n d";
const WRITING: &str = "-- title: Writing\nDELETE FROM retail.sale";

/// An answer: its code (200 for a good one), what it says, and its headers.
#[derive(Debug)]
struct Reply {
    code: u16,
    text: String,
    headers: HeaderMap,
}

impl Reply {
    fn json(&self) -> Value {
        assert_eq!(self.code, 200, "{self:?}");
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }

    fn problem(&self) -> (u16, &str) {
        (self.code, self.header(header::PROBLEM).unwrap_or_default())
    }
}

/// A service over a database, and a client of it.
struct Running {
    server: TestServer,
    client: Client,
    queries: SqlQueries,
    folder: TempDir,
    status: watch::Sender<ProjectionStatus>,
    hurry: Hurry,
}

impl Running {
    async fn new(reader: Arc<dyn Reader>) -> Self {
        let server = TestServer::start_provisioned().await;
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("retail")).unwrap();
        let running = |name: &str| folder.path().join("retail").join(format!("{name}.sql"));
        for (name, text) in [("sellers", SELLERS), ("endless", ENDLESS), ("large", LARGE)] {
            fs::write(running(name), text).unwrap();
        }
        let mut library = Library::new(folder.path(), CONTEXTS.map(str::to_owned).to_vec());
        assert_eq!(library.read(|_| Ok(())).unwrap(), [], "the service shows them to the database");
        let (status, watched) = watch::channel(at(7));
        let settings =
            QuerySettings { folder: folder.path().to_owned(), time: QUERY_TIME, at_once: 1, ad_hoc: true };
        let (broker, hurry) = (server.broker().await, Hurry::default());
        let queries =
            SqlQueries::start(&broker, "0.1.0", library, reader, settings, vec![watched], hurry.clone())
                .await;
        let client = server.client().await;
        Self { server, client, queries: queries.unwrap(), folder, status, hurry }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("retail").join(format!("{name}.sql"))
    }

    /// None where nobody listens.
    async fn ask(&self, name: &str, body: &Value, headers: &[(&str, &str)]) -> Option<Reply> {
        send(&self.client, name, body.to_string(), headers).await
    }

    async fn asked(&self, name: &str, body: Value) -> Reply {
        self.ask(name, &body, &[]).await.expect("it is answered")
    }

    async fn asked_with(&self, body: &str) -> Reply {
        send(&self.client, "sellers", body.to_owned(), &[]).await.expect("it is answered")
    }

    /// Asks until an answer is as wanted.
    async fn until(&self, name: &str, body: Value, wanted: impl Fn(Option<&Reply>) -> bool) {
        let found = async {
            loop {
                let reply = self.ask(name, &body, &[]).await;
                if wanted(reply.as_ref()) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("it comes to that");
    }
}

/// Asks a query through a connection. None where nobody listens.
async fn send(client: &Client, name: &str, body: String, headers: &[(&str, &str)]) -> Option<Reply> {
    send_to(client, format!("query.retail.{name}"), body, headers).await
}

async fn send_to(client: &Client, subject: String, body: String, headers: &[(&str, &str)]) -> Option<Reply> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let request = async_nats::Request::new().payload(body.into()).headers(map).timeout(Some(PATIENCE));
    let answer = match client.send_request(subject.clone(), request).await {
        Ok(answer) => answer,
        Err(error) if error.kind() == RequestErrorKind::NoResponders => return None,
        Err(error) => panic!("{subject}: {error}"),
    };
    let headers = answer.headers.unwrap_or_default();
    let text = |name: &str| headers.get(name).map(|value| value.to_string());
    let code = text("Nats-Service-Error-Code").map_or(200, |code| code.parse().unwrap());
    let payload = String::from_utf8(answer.payload.to_vec()).unwrap();
    Some(Reply { code, text: text("Nats-Service-Error").unwrap_or(payload), headers })
}

fn at(sequence: u64) -> ProjectionStatus {
    let (generation, stream_end) = ("g".into(), sequence);
    ProjectionStatus { stream: EVENTS, generation, sequence, complete_from: 0, stream_end, halted: None }
}

async fn answers_and_refusals(running: &Running) {
    let answer = running.asked("sellers", json!({ "on": "2012-01-31", "store": "2506" })).await;
    assert_eq!(answer.header(header::POSITION), Some("EVENTS:g:7"), "{answer:?}");
    let answer = answer.json();
    assert_eq!(
        (&answer["query"], &answer["title"], &answer["cut"]),
        (&json!("retail.sellers"), &json!("Sellers"), &json!(false))
    );
    assert_eq!(answer["columns"], json!(["sku", "units", "amount", "currency"]));
    assert_eq!(answer["money"], json!({ "amount": "currency" }));
    let rows = json!([
        { "sku": "a", "units": 2, "amount": 200, "currency": "USD" },
        { "sku": "b", "units": 5, "amount": 500, "currency": "USD" },
    ]);
    assert_eq!(answer["rows"], rows);
    let refused = [
        (json!({}), "parameter-missing", "on"),
        (json!({ "on": "soon" }), "parameter-malformed", "on"),
        (json!({ "on": "2012-01-31", "store": 7 }), "parameter-malformed", "store"),
        (json!({ "on": "2012-01-31", "sql": "SELECT 1" }), "parameter-unknown", "sql"),
    ];
    for (body, code, parameter) in refused {
        let refused = running.asked("sellers", body.clone()).await;
        assert_eq!(refused.problem(), (400, code), "{body}: {refused:?}");
        assert_eq!(refused.header(header::PARAMETER), Some(parameter), "{body}");
    }
    for body in [json!([1]), json!({ "on": "x".repeat(65 * 1024) })] {
        assert_eq!(running.asked("sellers", body).await.problem(), (400, "query-malformed"));
    }
    // Which of the two counts would be the decoder's choice.
    let twice = running.asked_with(r#"{"on":"2012-01-31","store":"1","store":"2"}"#).await;
    assert_eq!(twice.problem(), (400, "query-malformed"), "{twice:?}");
    let harm = running.asked("sellers", json!({ "on": "2012-01-31", "store": "' OR 1=1 --" })).await;
    assert_eq!(harm.json()["rows"], json!([]));
    assert_eq!(running.asked("large", json!({})).await.problem(), (413, "answer-too-large"));
    assert!(running.ask("nothing", &json!({}), &[]).await.is_none());
}

async fn statements_are_answered(running: &Running) {
    let with = async |body: Value, headers: &[(&str, &str)]| {
        let answer = send_to(&running.client, STATEMENT_SUBJECT.to_owned(), body.to_string(), headers).await;
        answer.expect("somebody listens")
    };
    let ask = async |body: Value| with(body, &[]).await;
    let counted = "SELECT s.store, COUNT(*) AS sales FROM retail.sale AS s WHERE s.store <> :other GROUP BY s.store ORDER BY s.store";
    let answer = ask(json!({ "statement": counted, "parameters": { "other": "none" } })).await;
    assert_eq!(answer.header(header::POSITION), Some("EVENTS:g:7"), "{answer:?}");
    let rows = json!([{ "store": "2506", "sales": 2 }, { "store": "7", "sales": 1 }]);
    assert_eq!(answer.json(), json!({ "columns": ["store", "sales"], "rows": rows, "cut": false }));
    let cut = ask(json!({ "statement": counted, "parameters": { "other": "7" }, "rows": 1 })).await.json();
    assert_eq!(cut["cut"], false, "there is one row: {cut}");
    let cut = ask(json!({ "statement": counted, "parameters": { "other": "" }, "rows": 1 })).await.json();
    assert_eq!((cut["rows"].as_array().map(Vec::len), &cut["cut"]), (Some(1), &json!(true)), "{cut}");
    let typed = ask(json!({
        "statement": "SELECT :a + 1 AS a, :b + 1 AS b, :c AS c, :d AS d", "parameters": { "a": 1, "b": 1.5, "c": "x", "d": null },
    }));
    assert_eq!(typed.await.json()["rows"], json!([{ "a": 2, "b": 2.5, "c": "x", "d": null }]));

    for (statement, parameters, problem) in [
        (counted, json!({}), (400, "parameter-missing")),
        (counted, json!({ "other": ["x"] }), (400, "parameter-malformed")),
        (counted, json!({ "other": "x", "one": 1 }), (400, "parameter-unknown")),
        ("DELETE FROM retail.sale", json!({}), (400, "query-refused")),
        ("SELECT 1 AS one; SELECT 2", json!({}), (400, "query-refused")),
        ("SELECT 1 AS one, 2 AS one", json!({}), (400, "query-refused")),
        ("SELECT * FROM retail.nothing", json!({}), (400, "query-refused")),
        ("SELECT $1 AS one", json!({}), (400, "query-refused")),
        ("PRAGMA database_list", json!({}), (400, "query-refused")),
        ("ATTACH 'x' AS y", json!({}), (400, "query-refused")),
        ("", json!({}), (400, "query-refused")),
    ] {
        let refused = ask(json!({ "statement": statement, "parameters": parameters })).await;
        assert_eq!(refused.problem(), problem, "{statement}: {refused:?}");
    }
    for body in [
        json!(["SELECT 1"]),
        json!({}),
        json!({ "statement": "SELECT 1", "limit": 1 }),
        json!({ "statement": "SELECT 1", "rows": 0 }),
    ] {
        assert_eq!(ask(body.clone()).await.problem(), (400, "query-malformed"), "{body}");
    }
    let statement = json!({ "statement": "SELECT 1 AS one" });
    let behind = [(header::POSITION, "EVENTS:g:8"), (header::WAIT_MS, "10")];
    assert_eq!(with(statement, &behind).await.problem(), (504, "position-not-reached"));
}

/// Each name stands for two of the one before, so that there are 2^60 of the first. SQLite refuses so many levels, and PostgreSQL makes each name
/// once.
async fn names_that_stand_for_many_leave_the_others_their_places(running: &Running) {
    let names: Vec<String> =
        (1..60).map(|n| format!("c{n} AS (SELECT a.x FROM c{0} AS a, c{0} AS b)", n - 1)).collect();
    let statement = format!("WITH c0 AS (SELECT 1 AS x), {} SELECT COUNT(*) AS n FROM c59", names.join(", "));
    let body = json!({ "statement": statement }).to_string();
    let ended = send_to(&running.client, STATEMENT_SUBJECT.to_owned(), body, &[]).await.unwrap();
    assert!([(200, ""), (400, "query-refused")].contains(&ended.problem()), "{ended:?}");
    let free = |reply: Option<&Reply>| reply.is_some_and(|reply| reply.code == 200);
    running.until("sellers", json!({ "on": "2012-01-31" }), free).await;
}

async fn it_tells_what_there_is(running: &Running) {
    let all = running.asked("_queries", json!({})).await.json();
    let names: Vec<&str> =
        all["queries"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["endless", "large", "sellers"]);
    let one = running.asked("_queries", json!({ "name": "sellers" })).await.json();
    let parameters = json!([
        { "name": "store", "type": "text", "required": false, "default": null, "description": "one store alone" },
        { "name": "on", "type": "date", "required": true, "default": null, "description": "the day" },
    ]);
    let expected = json!([{
        "context": "retail", "name": "sellers", "title": "Sellers", "description": "What sells.", "parameters": parameters,
        "money": { "amount": "currency" }, "who": ["office"], "rows": 1000, "time_ms": 8000,
    }]);
    assert_eq!(one["queries"], expected);
    assert_eq!(
        running.asked("_queries", json!({ "name": "nothing" })).await.problem(),
        (404, "query-unknown")
    );
    // A carriage return would end the header with the reason, and whoever asked would wait in vain.
    let with_controls = running.asked("_queries", json!({ "name": ".\u{93}\u{1}\r\n\0x" })).await;
    assert_eq!(with_controls.problem(), (404, "query-unknown"));
    assert_eq!(with_controls.header("Nats-Service-Error"), Some("there is no query retail.. x"));
    assert_eq!(running.asked("_queries", json!({ "names": 1 })).await.problem(), (400, "query-malformed"));
}

async fn positions_are_waited_for(running: &Running) {
    let body = json!({ "on": "2012-01-31" });
    let behind = async |position: &str, wait: &str| {
        let headers = [(header::POSITION, position), (header::WAIT_MS, wait)];
        running.ask("sellers", &body, &headers).await.unwrap()
    };
    assert_eq!(behind("EVENTS:g:7", "0").await.code, 200);
    assert_eq!(behind("EVENTS:g:8", "10").await.problem(), (504, "position-not-reached"));
    assert_eq!(behind("EVENTS:h:1", "30000").await.problem(), (409, "position-of-another-generation"));
    assert_eq!(behind("OUTCOMES:g:1", "10").await.problem(), (400, "query-malformed"));
    assert_eq!(behind("7", "10").await.problem(), (400, "query-malformed"));
    running.status.send_replace(at(6));
    assert!(!running.hurry.is_asked_for(), "nobody waits");
    let filling = async {
        let asked = async {
            while !running.hurry.is_asked_for() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("who waits is in a hurry");
        running.status.send_replace(at(7));
    };
    let (waited, ()) = tokio::join!(behind("EVENTS:g:7", "30000"), filling);
    assert_eq!(waited.code, 200, "{waited:?}");
    // The stage was at 8, and the tables are not any more: they are filled anew.
    running.status.send_replace(at(8));
    let lost = behind("EVENTS:g:8", "0").await;
    assert_eq!(lost.problem(), (504, "position-not-reached"), "{lost:?}");
}

/// The places of those who wait are never all one connection's, and whoever need not wait takes none.
async fn a_connection_has_a_share_of_those_who_wait(running: &Running) {
    const SHARE: usize = 128;
    let (body, ahead) = (json!({}), [(header::POSITION, "EVENTS:g:9"), (header::WAIT_MS, "30000")]);
    let mut crowd: FuturesUnordered<_> =
        (0..2 * SHARE).map(|_| running.ask("_queries", &body, &ahead)).collect();
    for _ in 0..SHARE {
        let refused = tokio::time::timeout(PATIENCE, crowd.next()).await.expect("one in two is refused");
        assert_eq!(refused.flatten().unwrap().problem(), (429, "busy"));
    }
    let other = running.server.client().await;
    for (client, position, expected) in [
        (&running.client, "EVENTS:g:9", (429, "busy")),
        (&running.client, "EVENTS:g:8", (200, "")),
        (&other, "EVENTS:g:9", (504, "position-not-reached")),
    ] {
        let headers = [(header::POSITION, position), (header::WAIT_MS, "10")];
        let answer = send(client, "_queries", body.to_string(), &headers).await.unwrap();
        assert_eq!(answer.problem(), expected, "{position}: {answer:?}");
    }
    running.status.send_replace(at(9));
    let answered: Vec<Reply> = crowd.map(Option::unwrap).collect().await;
    assert!(answered.len() == SHARE && answered.iter().all(|reply| reply.code == 200), "{answered:?}");
}

/// One place is there, and a query that would run for ever holds it: others wait a second, are told, and have it when the time is over.
async fn a_query_without_end_is_ended_and_others_are_told(running: &Running) {
    loop {
        let endless = running.asked("endless", json!({}));
        tokio::pin!(endless);
        let mut refused = 0;
        let ended = loop {
            tokio::select! {
                ended = &mut endless => break ended,
                beside = running.asked("sellers", json!({ "on": "2012-01-31" })) => match beside.problem() {
                    (429, "busy") => refused += 1,
                    other => assert_eq!(other, (200, ""), "{beside:?}"),
                }
            }
        };
        // A question beside it may have come first.
        if ended.problem() == (429, "busy") {
            continue;
        }
        assert_eq!(ended.problem(), (504, "query-too-long"), "{ended:?}");
        assert!(refused > 0, "it has run alone");
        break;
    }
    // The last question beside it may still run.
    let free = |reply: Option<&Reply>| reply.is_some_and(|reply| reply.code == 200);
    running.until("sellers", json!({ "on": "2012-01-31" }), free).await;
}

async fn files_are_read_again(running: &Running) {
    fs::write(running.file("fresh"), "-- title: Fresh\nSELECT 1 AS one").unwrap();
    running.until("fresh", json!({}), |reply| reply.is_some()).await;
    // What is broken, or writes, leaves the query as it was; that it was looked at shows the file beside it.
    fs::write(running.file("fresh"), WRITING).unwrap();
    fs::write(running.file("later"), "-- title: Later\n-- money: one in two\nSELECT 1 AS one").unwrap();
    fs::write(running.file("last"), "-- title: Last\nSELECT 3 AS three").unwrap();
    running.until("last", json!({}), |reply| reply.is_some()).await;
    assert_eq!(running.asked("fresh", json!({})).await.json()["rows"], json!([{ "one": 1 }]));
    assert!(running.ask("later", &json!({}), &[]).await.is_none(), "it names a column that is not there");
    fs::remove_file(running.file("fresh")).unwrap();
    running.until("fresh", json!({}), |reply| reply.is_none()).await;
}

async fn serve(reader: Arc<dyn Reader>) {
    let running = Running::new(reader).await;
    running
        .until("sellers", json!({ "on": "2012-01-31" }), |reply| reply.is_some_and(|reply| reply.code == 200))
        .await;
    it_tells_what_there_is(&running).await;
    answers_and_refusals(&running).await;
    statements_are_answered(&running).await;
    names_that_stand_for_many_leave_the_others_their_places(&running).await;
    positions_are_waited_for(&running).await;
    a_connection_has_a_share_of_those_who_wait(&running).await;
    running.status.send_replace(at(7));
    a_query_without_end_is_ended_and_others_are_told(&running).await;
    files_are_read_again(&running).await;
    let Running { server: _server, client, queries, .. } = running;
    queries.stop().await;
    let gone = client.request("query.retail.sellers", "".into()).await.unwrap_err();
    assert_eq!(gone.kind(), RequestErrorKind::NoResponders);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_answered_over_nats_from_sqlite() {
    let desk = tokio::task::spawn_blocking(Desk::new).await.unwrap();
    serve(Arc::clone(&desk.readers[0])).await;
    end(desk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_answered_over_nats_from_postgres() {
    let desk = tokio::task::spawn_blocking(Desk::new).await.unwrap();
    if let Some(reader) = desk.readers.get(1) {
        serve(Arc::clone(reader)).await;
    }
    end(desk).await;
}

/// Connections to a database are closed away from the async threads.
async fn end(desk: Desk) {
    tokio::task::spawn_blocking(move || drop(desk)).await.unwrap();
}
