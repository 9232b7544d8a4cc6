//! Streams that earlier releases wrote, read by the stages of this one: views and reports say what they said then, every
//! promise is still kept, and the aggregates go on where they were.
//!
//! `recorded/<version>/` has the streams as `nats stream backup` writes them, and `answers.json`: the rows of every view.
//! Each release adds one: `MILLSTREAM_RECORD_RELEASE=1 cargo test -p end-to-end-tests --test contexts last_release` writes
//! that of the present version, and refuses to write over one that is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use async_nats::{HeaderMap, jetstream};
use end_to_end_tests::{
    binaries::repository,
    dumps::{messages, settled, verified},
    nats_cli::NatsCli,
    system::{System, fresh_folder},
};
use millstream_contract::{commit::StoredCommit, stream_names::EVENTS};
use millstream_jetstream::{
    broker::Broker as _,
    nats_server::{NatsServer, NatsServerConfig, free_port, wait_for_jetstream},
    testing::test_server,
};
use serde_json::{Map, Value, json};

const RECORD: &str = "MILLSTREAM_RECORD_RELEASE";
const STREAMS: [&str; 3] = ["COMMANDS", "EVENTS", "OUTCOMES"];
/// Recorded commands are older than what a handler keeps, and the proof of every promise needs all of them.
const KEEP_ALL: [&str; 4] =
    ["--set", "command_handler.purge_commands_after=0", "--set", "command_handler.purge_outcomes_after=0"];
/// The view of outcomes grows when a process repeats what it asked for before its notes were lost.
const OUTCOMES_VIEW: &str = "command";

/// Rows by view (`<context>.<view>`) and key.
type Answers = BTreeMap<String, BTreeMap<String, Value>>;

fn recorded() -> PathBuf {
    repository().join("stages/end-to-end-tests/recorded")
}

/// Every view that can be asked for.
fn views() -> BTreeSet<String> {
    let projections = millstream_model::projections().into_iter().chain(millstream_model::reports());
    let mut views = BTreeSet::new();
    for projection in projections {
        views.insert(format!("{}.{OUTCOMES_VIEW}", projection.context()));
        // A dot would make another subject of it (docs/queries.md).
        let named = projection.views().iter().map(|view| view.replace('.', "-"));
        views.extend(named.map(|view| format!("{}.{view}", projection.context())));
    }
    views
}

async fn answers(system: &System) -> Answers {
    let mut answers = Answers::new();
    for view in views() {
        let body = json!({ "limit": 10_000 });
        let answer = system.query(&format!("query.{view}.list"), &body).await;
        let answer = answer.unwrap_or_else(|refusal| panic!("{view}: {refusal:?}"));
        assert_eq!(answer["cursor"], Value::Null, "{view} has more rows than a page");
        let rows = answer["rows"].as_array().unwrap().iter();
        let rows = rows.map(|row| (row["key"].as_str().unwrap().to_owned(), row["value"].clone()));
        answers.insert(view, rows.collect());
    }
    answers
}

/// Where a row lacks something of a recorded one. What later releases add to rows is no difference.
fn difference(place: &str, recorded: &Value, present: &Value, found: &mut Vec<String>) {
    match (recorded, present) {
        (Value::Object(recorded), Value::Object(present)) => {
            for (field, value) in recorded {
                let now = present.get(field).unwrap_or(&Value::Null);
                difference(&format!("{place}.{field}"), value, now, found);
            }
        }
        (Value::Array(recorded), Value::Array(present)) if recorded.len() == present.len() => {
            for (number, (value, now)) in recorded.iter().zip(present).enumerate() {
                difference(&format!("{place}[{number}]"), value, now, found);
            }
        }
        _ if recorded == present => {}
        _ => found.push(format!("{place} was {recorded} and is {present}")),
    }
}

fn differences(recorded: &Answers, present: &Answers) -> Vec<String> {
    let mut found = Vec::new();
    let nothing = BTreeMap::new();
    for (view, rows) in recorded {
        let now = present.get(view).unwrap_or(&nothing);
        for (key, row) in rows {
            match now.get(key) {
                Some(now) => difference(&format!("{view} {key}"), row, now, &mut found),
                None => found.push(format!("{view} {key} is gone")),
            }
        }
        if !view.ends_with(OUTCOMES_VIEW) {
            found.extend(
                now.keys().filter(|key| !rows.contains_key(*key)).map(|key| format!("{view} {key} is new")),
            );
        }
    }
    found
}

/// The event types in a system's EVENTS, `<context>.<aggregate> <type>`.
async fn event_types(system: &System) -> BTreeSet<String> {
    let mut types = BTreeSet::new();
    for message in messages(&system.broker().await, EVENTS).await {
        let commit = StoredCommit::from_stored(&message).unwrap();
        let stream = &commit.stream_id;
        let names = commit.commit.events.iter().map(|event| &event.event_type);
        types.extend(names.map(|name| format!("{}.{} {name}", stream.context(), stream.aggregate())));
    }
    types
}

/// Fills a server's folder with recorded streams.
async fn restore(folder: &Path, port: u16, streams: &Path) -> bool {
    let config = NatsServerConfig::new(port, folder.join("data").join("nats-server"));
    let url = config.url();
    let Some(nats) = NatsCli::for_server(url.clone()).await else { return false };
    fs::create_dir_all(folder).unwrap();
    let mut server = NatsServer::start(test_server::program().await, config, folder).await.unwrap();
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    wait_for_jetstream(&context).await.unwrap();
    for stream in STREAMS {
        nats.output(&["stream", "restore", &streams.join(stream).to_string_lossy(), "--no-progress"]).await;
    }
    server.stop().await;
    true
}

#[tokio::test]
async fn streams_of_earlier_releases_are_read_as_they_were() {
    let version = env!("CARGO_PKG_VERSION");
    if std::env::var_os(RECORD).is_some() {
        record(&recorded().join(version)).await;
    }
    let mut releases = 0;
    for release in fs::read_dir(recorded()).unwrap().map(|entry| entry.unwrap().path()) {
        releases += 1;
        let (folder, port) = (fresh_folder(), free_port().unwrap());
        if !restore(folder.path(), port, &release).await {
            return;
        }
        let system = System::start_on_port(folder.path(), port, &KEEP_ALL).await;
        let broker = system.broker().await;
        settled(&broker).await;
        let then: Answers = serde_json::from_slice(&fs::read(release.join("answers.json")).unwrap()).unwrap();
        assert!(then.values().map(BTreeMap::len).sum::<usize>() > 50, "{} has few rows", release.display());
        let now = current_answers(&system).await;
        let found = differences(&then, &now);
        assert!(found.is_empty(), "{}:\n{}", release.display(), found.join("\n"));
        if release.ends_with(version) {
            let types = event_types(&system).await;
            let all = all_event_types();
            let missing: Vec<&String> = all.difference(&types).collect();
            assert!(missing.is_empty(), "record {version} anew before its release, with {missing:?}");
        }
        goes_on(&system).await;
        verified(&broker).await;
        system.stop().await;
    }
    assert!(releases > 0, "no release is recorded");
}

fn all_event_types() -> BTreeSet<String> {
    let registry = millstream_model::aggregates();
    let types = registry.iter().flat_map(|aggregate| {
        let of = format!("{}.{}", aggregate.context(), aggregate.aggregate());
        aggregate.event_types().iter().map(move |(name, _)| format!("{of} {name}"))
    });
    types.collect()
}

/// The rows, once every view has reached the end of EVENTS.
async fn current_answers(system: &System) -> Answers {
    let broker = system.broker().await;
    let state = broker.state(EVENTS).await.unwrap();
    for report in ["store-daily", "supplier-daily", "stock-valuation"] {
        system.report(&[report]).await;
    }
    let position = format!("EVENTS:{}:{}", state.generation, state.last_sequence);
    let client = async_nats::connect(system.url()).await.unwrap();
    for view in views().iter().filter(|view| !view.ends_with(OUTCOMES_VIEW)) {
        let mut headers = HeaderMap::new();
        headers.insert("Millstream-Position", position.as_str());
        headers.insert("Millstream-Wait-Ms", "30000");
        let subject = format!("query.{view}.list");
        let answer = client.request_with_headers(subject, headers, "{}".into()).await.unwrap();
        assert!(
            answer.headers.is_none_or(|headers| headers.get("Nats-Service-Error-Code").is_none()),
            "{view}"
        );
    }
    answers(system).await
}

/// An old command again is a duplicate; an aggregate takes new ones where it was.
async fn goes_on(system: &System) {
    let Some(nats) = system.nats().await else { return };
    let receive = r#"{"quantity":1,"reference":"later"}"#;
    let answer = nats.output(&["req", "--raw", "submit.retail.stock.w:gin.receive", receive]).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["outcome"], "accepted", "{answer}");
    assert!(answer["version"].as_u64().unwrap() > 5, "{answer}");
    let again = [
        "req",
        "--raw",
        "-H",
        "Millstream-Command-Id:first",
        "submit.retail.product.gin.register",
        r#"{"name":"Gin","supplier":"luxco","supplier_name":"Luxco"}"#,
    ];
    let answer: Value = serde_json::from_str(&nats.output(&again).await).unwrap();
    assert_eq!((&answer["outcome"], &answer["of"]), (&json!("duplicate"), &json!(1)), "{answer}");
}

/// Writes the streams and the answers of the present programs.
async fn record(folder: &Path) {
    assert!(
        !folder.exists(),
        "{} is there already: what was recorded is never written again",
        folder.display()
    );
    let data = fresh_folder();
    let system = System::start(data.path(), &[]).await;
    let nats = system.nats().await.expect("recording needs the nats CLI");
    let client = jetstream::new(async_nats::connect(system.url()).await.unwrap());
    let broker = system.broker().await;
    for (actor, id, address, body) in script() {
        let mut headers = HeaderMap::new();
        headers.insert("Millstream-Actor", actor);
        if !id.is_empty() {
            headers.insert("Millstream-Command-Id", id);
        }
        let subject = format!("cmd.{address}");
        client.publish_with_headers(subject, headers, body.into()).await.unwrap().await.unwrap();
        // Each one after what follows from the one before: the processes have answered.
        settled(&broker).await;
    }
    let missing: Vec<String> = all_event_types().difference(&event_types(&system).await).cloned().collect();
    assert!(missing.is_empty(), "the script causes no {missing:?}");
    fs::create_dir_all(folder).unwrap();
    for stream in STREAMS {
        let target = folder.join(stream);
        nats.output(&[
            "stream",
            "backup",
            stream,
            &target.to_string_lossy(),
            "--no-progress",
            "--no-consumers",
        ])
        .await;
    }
    let answers = current_answers(&system).await;
    let answers: Map<String, Value> =
        answers.into_iter().map(|(view, rows)| (view, serde_json::to_value(rows).unwrap())).collect();
    fs::write(folder.join("answers.json"), serde_json::to_string_pretty(&answers).unwrap() + "\n").unwrap();
    system.stop().await;
}

/// Who, under which id, what.
type Typed = (&'static str, &'static str, &'static str, &'static str);

/// All event types, all kinds of outcomes, orders that end in each way.
fn script() -> Vec<Typed> {
    [goods(), orders_and_comments()].concat()
}

fn goods() -> Vec<Typed> {
    let sale = r#"{"sale":"S1","currency":"USD","lines":[{"sku":"gin","quantity":3,"unit_price":950}],"sold_at":"2012-01-31T16:05:00-06:00"}"#;
    let late = r#"{"sale":"S2","currency":"USD","lines":[{"sku":"gin","quantity":1,"unit_price":950}]}"#;
    vec![
        (
            "buyer",
            "first",
            "retail.product.gin.register",
            r#"{"name":"Gin","supplier":"luxco","supplier_name":"Luxco"}"#,
        ),
        (
            "buyer",
            "first",
            "retail.product.gin.register",
            r#"{"name":"Gin","supplier":"luxco","supplier_name":"Luxco"}"#,
        ),
        ("buyer", "", "retail.product.gin.reprice", r#"{"unit_price":950,"currency":"USD"}"#),
        (
            "buyer",
            "",
            "retail.product.rum.register",
            r#"{"name":"Rum","supplier":"luxco","effective_from":"2012-01-31"}"#,
        ),
        ("buyer", "", "retail.product.rum.discontinue", "{}"),
        ("buyer", "", "retail.product.rum.reprice", r#"{"unit_price":1,"currency":"USD"}"#),
        (
            "dock",
            "",
            "retail.delivery.D1.receive",
            r#"{"supplier":"luxco","location":"w","currency":"USD","lines":[{"sku":"gin","quantity":60,"unit_cost":475}],"received_on":"2012-01-31"}"#,
        ),
        ("till", "sale-1", "retail.till.w_2012-01-31.record-sale", sale),
        (
            "till",
            "",
            "retail.till.w_2012-01-31.record-return",
            r#"{"return":"R1","sale":"S1","currency":"USD","lines":[{"sku":"gin","quantity":1,"unit_price":950}]}"#,
        ),
        ("till", "", "retail.till.w_2012-01-31.close", "{}"),
        ("office", "", "retail.business-day.2012-01-31.close", "{}"),
        ("till", "", "retail.till.w_2012-01-31.record-sale", late),
        ("till", "", "retail.till.w_2012-01-31.close", "{}"),
        ("office", "", "retail.stock.w:gin.set-minimum", r#"{"minimum":12}"#),
        (
            "office",
            "",
            "retail.stock.w:gin.adjust",
            r#"{"counted":56,"reason":"one bottle broken","business_date":"2012-02-01"}"#,
        ),
        ("office", "", "retail.stock.w:gin.reserve", r#"{"reservation":"show","quantity":2}"#),
        ("office", "", "retail.stock.w:gin.release", r#"{"reservation":"show"}"#),
        ("office", "", "retail.stock.w:gin.reserve", r#"{"reservation":"fair","quantity":3}"#),
        ("office", "", "retail.stock.w:gin.transfer", r#"{"to":"fair","quantity":1}"#),
        ("office", "", "retail.stock.w:gin.receive", "no JSON"),
    ]
}

fn orders_and_comments() -> Vec<Typed> {
    let place = |quantity: &str| match quantity {
        "2" => {
            r#"{"customer":"anna","location":"w","currency":"USD","lines":[{"sku":"gin","quantity":2,"unit_price":900}]}"#
        }
        _ => {
            r#"{"customer":"berta","location":"w","currency":"USD","lines":[{"sku":"gin","quantity":900,"unit_price":900}]}"#
        }
    };
    let pay = r#"{"payment":"P","amount":1800,"currency":"USD"}"#;
    vec![
        ("anna", "", "orders.order.O1.place", place("2")),
        ("anna", "", "orders.order.O1.pay", pay),
        ("warehouse", "", "orders.order.O1.ship", r#"{"shipment":"S","carrier":"post"}"#),
        ("post", "", "orders.order.O1.deliver", "{}"),
        ("berta", "", "orders.order.O2.place", place("900")),
        ("anna", "", "orders.order.O3.place", place("2")),
        ("anna", "", "orders.order.O3.pay", pay),
        ("anna", "", "orders.order.O3.cancel", r#"{"reason":"found it cheaper"}"#),
        ("anna", "", "orders.order.O3.ship", r#"{"shipment":"S"}"#),
        ("anna", "", "comments.comment.C1.create", r#"{"picture":"P1","text":"Lovely!"}"#),
        ("anna", "", "comments.comment.C1.update", r#"{"text":"Very lovely!"}"#),
        ("berta", "", "comments.comment.C2.create", r#"{"picture":"P1","text":"First"}"#),
        ("berta", "", "comments.comment.C1.update", r#"{"text":"Awful!"}"#),
        ("berta", "", "comments.comment.C2.delete", "{}"),
    ]
}
