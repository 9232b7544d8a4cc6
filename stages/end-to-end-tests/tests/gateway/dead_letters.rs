//! Dead letters over HTTP: listed, shown, retried and dropped, no more than the key grants, and all of it in the audit log.

use std::{collections::BTreeSet, fs};

use end_to_end_tests::{
    http_client::{HttpAnswer, HttpClient},
    system::{System, fresh_folder},
    waiting::until,
};
use futures::StreamExt as _;
use jiff::Timestamp;
use millstream_contract::{
    audit::{AuditDecision, AuditRecord, records},
    dead_letter::DeadLetter,
    header,
    letter_service::RETRY_SUBJECT,
    stored_message::{Headers, StoredMessage},
    stream_names::{AUDIT, COMMANDS, DEAD_LETTERS, TIMERS},
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    dead_letter_store::DeadLetterStore,
    nats_broker::NatsBroker,
    testing::test_server::TestServer,
};
use serde_json::{Value, json};

use crate::{
    commands::clients,
    gateway,
    keys::{YEARS_AHEAD, key},
    queries::answered,
};

const REGISTER: &[u8] = br#"{"name":"Tea","supplier":"acme"}"#;

/// A message of a stream as a letter.
pub(crate) fn letter(
    stream: &str,
    sequence: u64,
    subject: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> DeadLetter {
    let message = StoredMessage {
        subject: subject.to_owned(),
        sequence,
        stored_at: Timestamp::UNIX_EPOCH,
        headers: headers.iter().copied().collect(),
        payload: body.to_vec().into(),
    };
    DeadLetter::new(stream, &message, "history-unreadable", "an event <b>cannot</b> be read")
}

/// Lets letters stand in DEADLETTERS, in this order.
pub(crate) async fn keep(broker: &NatsBroker, letters: &[DeadLetter]) {
    let store = DeadLetterStore::new(broker.clone());
    for letter in letters {
        let kept = store.try_keep(std::slice::from_ref(letter)).await;
        assert!(kept.iter().all(Result::is_ok), "{kept:?}");
    }
}

fn names(answer: &HttpAnswer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let letters = answer.json()["letters"].as_array().unwrap().clone();
    letters.iter().map(|letter| letter["letter"].as_str().unwrap().to_owned()).collect()
}

/// Retries until it is told; a loaded machine may not decide in time.
async fn retried(client: &HttpClient, name: &str) -> Value {
    let answer =
        client.with("Prefer", "wait=30").request("POST", &format!("/v1/deadletters/{name}/retry"), "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn all_records(broker: &NatsBroker) -> Vec<AuditRecord> {
    let last = broker.state(AUDIT).await.unwrap().last_sequence;
    let mut all = Vec::new();
    for sequence in 1..=last {
        let message = broker.get(AUDIT, sequence).await.unwrap().unwrap();
        all.extend(records(&message).unwrap().into_iter().map(|(record, _)| record));
    }
    all
}

#[tokio::test]
async fn letters_are_listed_shown_retried_and_dropped() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let broker = system.broker().await;
    assert_eq!(names(&client.get("/v1/deadletters").await), [""; 0]);
    keep(
        &broker,
        &[
            letter(
                COMMANDS,
                900,
                "cmdq.1.retail.product.tea.register",
                &[(header::ACTOR, "till"), ("X-Own", "yes")],
                REGISTER,
            ),
            letter(TIMERS, 5, "due.cmd.retail.product.gin.register", &[], REGISTER),
            letter(COMMANDS, 901, "cmdq.1.orders.order.O-1.place", &[], b"\xff\x00"),
        ],
    )
    .await;
    let bad = NewMessage {
        subject: "cmd.retail.product.rum.register".to_owned(),
        expected_last: None,
        headers: Headers::new(),
        payload: "{".into(),
    };
    let bad = broker.append(COMMANDS, bad).await.unwrap().sequence;
    let bad = format!("{COMMANDS}.{bad}");
    let newest = until("the handler sets it aside", async || {
        Some(names(&client.get("/v1/deadletters").await)).filter(|names| names.len() == 4)
    })
    .await;
    assert_eq!(newest, [&bad, "COMMANDS.901", "TIMERS.5", "COMMANDS.900"], "the newest first");
    lists_are_paged_and_filtered(&client, &newest).await;

    let shown = client.get("/v1/deadletters/COMMANDS.900").await.json();
    assert_eq!(
        (&shown["headers"]["X-Own"], &shown["body"], &shown["subject"]),
        (&json!("yes"), &json!(String::from_utf8_lossy(REGISTER)), &json!("cmd.retail.product.tea.register"))
    );
    let binary = client.get("/v1/deadletters/COMMANDS.901").await.json();
    assert_eq!((&binary["body_base64"], binary.get("body")), (&json!("/wA="), None));

    // As the command of its sender, and as that of a process, which the gateway itself may not send.
    for (name, product) in [("COMMANDS.900", "tea"), ("TIMERS.5", "gin")] {
        let told = retried(&client, name).await;
        assert_eq!((&told["outcome"], &told["letter"]), (&json!("accepted"), &json!(name)), "{told}");
        let position = told["query_position"].as_str().unwrap();
        let behind = client.with("Millstream-Position", position).with("Prefer", "wait=20");
        assert_eq!(answered(&behind, &format!("/v1/retail/product/{product}")).await.status, 200);
        let gone = client.get(&format!("/v1/deadletters/{name}")).await;
        assert_eq!(gone.problem(), (404, "letter-unknown".to_owned()));
    }
    let history = answered(&client, "/v1/history/retail/product/tea").await.json();
    assert_eq!(history["events"][0]["actor"], "till", "whoever retries does not become its sender");

    let again = retried(&client, &bad).await;
    assert_eq!((&again["outcome"], &again["code"]), (&json!("dead-lettered"), &json!("body-malformed")));
    let again = format!("{COMMANDS}.{}", again["command_position"]);
    assert_eq!(names(&client.get("/v1/deadletters").await), [again.as_str(), "COMMANDS.901"]);
    let drop_it = format!("/v1/deadletters/{again}/drop");
    let dropped = client.request("POST", &drop_it, "").await;
    assert_eq!((dropped.status, dropped.json()), (200, json!({ "letter": again, "dropped": true })));
    assert_eq!(client.request("POST", &drop_it, "").await.problem(), (404, "letter-unknown".to_owned()));
    assert_eq!(names(&client.get("/v1/deadletters").await), ["COMMANDS.901"]);
    what_is_not_there_is_told(&client).await;
    let _said = system.stop().await;
}

async fn lists_are_paged_and_filtered(client: &HttpClient, newest: &[String]) {
    let (mut path, mut seen) = ("/v1/deadletters?limit=1".to_owned(), Vec::new());
    loop {
        let page = client.get(&path).await;
        seen.extend(names(&page));
        let Some(link) = page.header("link") else { break };
        path = link.split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned();
        assert!(seen.len() <= newest.len(), "{path}");
    }
    assert_eq!(seen, newest);
    for (query, expected) in [
        ("context=orders", vec!["COMMANDS.901"]),
        ("code=history-unreadable&context=retail", vec!["TIMERS.5", "COMMANDS.900"]),
        ("aggregate=retail.product.gin", vec!["TIMERS.5"]),
        ("code=nothing", Vec::new()),
    ] {
        assert_eq!(names(&client.get(&format!("/v1/deadletters?{query}")).await), expected, "{query}");
    }
    let page = client.get("/v1/deadletters").await;
    let known = client.with("If-None-Match", page.header("etag").unwrap());
    assert_eq!(known.get("/v1/deadletters").await.status, 304);
}

async fn what_is_not_there_is_told(client: &HttpClient) {
    for (path, status, code) in [
        ("/v1/deadletters?limit=0", 400, "query-malformed"),
        ("/v1/deadletters?limit=201", 400, "query-malformed"),
        ("/v1/deadletters?reverse=true", 400, "query-malformed"),
        ("/v1/deadletters/nothing", 400, "address-malformed"),
        ("/v1/deadletters/COMMANDS.%2A", 400, "address-malformed"),
        ("/v1/deadletters/COMMANDS.9999", 404, "letter-unknown"),
        // One letter has one address.
        ("/v1/deadletters/901", 404, "letter-unknown"),
        ("/v1/deadletters/COMMANDS.901?before=1", 400, "query-malformed"),
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{path}: {answer:?}");
    }
    let keyed = client.with("Idempotency-Key", "x");
    let refused = keyed.request("POST", "/v1/deadletters/COMMANDS.901/retry", "").await;
    assert_eq!(refused.problem(), (400, "header-unknown".to_owned()));
}

/// Letters that were retried or dropped leave gaps; a gap of any length is crossed.
#[tokio::test]
async fn a_list_goes_on_behind_letters_that_are_gone() {
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;
    let broker = server.broker().await;
    let letters: Vec<DeadLetter> = (1..=70)
        .map(|sequence| letter(COMMANDS, sequence, "cmdq.1.retail.product.tea.register", &[], REGISTER))
        .collect();
    keep(&broker, &letters).await;
    let left = [1, 2, 20, 21, 37, 64];
    for (sequence, letter) in (1..).zip(&letters) {
        if !left.contains(&sequence) {
            assert_eq!(
                broker.purge_subject(DEAD_LETTERS, &letter.dead_letter_subject(), None).await.unwrap(),
                1
            );
        }
    }
    let expected: Vec<String> = left.iter().rev().map(|sequence| format!("{COMMANDS}.{sequence}")).collect();
    assert_eq!(names(&client.get("/v1/deadletters").await), expected);
    let page = client.get("/v1/deadletters?limit=4").await;
    assert_eq!((names(&page), &page.json()["before"]), (expected[..4].to_vec(), &json!(20)));
    let rest = client.get("/v1/deadletters?limit=4&before=20").await;
    assert_eq!((names(&rest), &rest.json()["before"]), (expected[4..].to_vec(), &Value::Null));
    // Nobody is there who could retry one.
    let retry = client.request("POST", "/v1/deadletters/COMMANDS.64/retry", "").await;
    assert_eq!(retry.problem(), (503, "letters-unavailable".to_owned()), "{retry:?}");
    assert_eq!(names(&client.get("/v1/deadletters?limit=1").await), ["COMMANDS.64"]);
    process.stop().await;
    let decisions: Vec<AuditDecision> =
        all_records(&broker).await.iter().map(|record| record.decision).collect();
    assert_eq!(decisions, [AuditDecision::Began, AuditDecision::NotStored, AuditDecision::Ended]);
}

/// Nobody answers as a command handler does here: retries are in progress until this test answers them, with what nobody understands.
#[tokio::test]
async fn retries_without_an_answer_keep_their_places_and_what_became_of_them_is_recorded_as_unclear() {
    const PLACES: usize = 16;
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let broker = server.broker().await;
    let letters: Vec<DeadLetter> = (1..=17)
        .map(|sequence| letter(COMMANDS, sequence, "cmdq.1.retail.product.tea.register", &[], REGISTER))
        .collect();
    keep(&broker, &letters).await;
    let handler = server.client().await;
    let mut asked = handler.subscribe(RETRY_SUBJECT).await.unwrap();
    handler.flush().await.unwrap();
    let (mut process, client) = gateway(&server.url(), folder.path());
    process.start_ready().await;

    let retry = |sequence: usize| {
        let client = client.clone();
        async move { client.request("POST", &format!("/v1/deadletters/COMMANDS.{sequence}/retry"), "").await }
    };
    let waiting: Vec<_> = (1..=PLACES).map(|sequence| tokio::spawn(retry(sequence))).collect();
    let mut questions = Vec::new();
    for _ in 1..=PLACES {
        questions.push(asked.next().await.unwrap());
    }
    let one_more = retry(PLACES + 1).await;
    assert_eq!(one_more.problem(), (503, "busy".to_owned()), "{one_more:?}");
    for question in questions {
        handler.publish(question.reply.unwrap(), "what?".into()).await.unwrap();
    }
    for answer in waiting {
        assert_eq!(answer.await.unwrap().problem(), (503, "letters-unavailable".to_owned()));
    }
    drop(asked);
    handler.flush().await.unwrap();
    assert_eq!(
        retry(PLACES + 1).await.problem(),
        (503, "letters-unavailable".to_owned()),
        "there is a place again"
    );
    process.stop().await;

    let records = all_records(&broker).await;
    let of = |decision| records.iter().filter(move |record| record.decision == decision);
    let unclear: BTreeSet<_> = of(AuditDecision::Unclear).filter_map(|record| record.what.clone()).collect();
    let expected = (1..=PLACES)
        .map(|sequence| format!("retry COMMANDS.{sequence} cmd.retail.product.tea.register"))
        .collect();
    assert_eq!(unclear, expected);
    assert_eq!(of(AuditDecision::NotStored).count(), 1, "of the last, which nobody was asked for");
}

#[tokio::test]
async fn a_key_does_with_letters_what_it_grants_and_the_rest_is_refused_and_recorded() {
    let folder = fresh_folder();
    let mut entries = String::new();
    let nobody = HttpClient::new("");
    let mut with = |seed: u8, name: &str, letters: &[&str]| {
        let (entry, client) = key(&nobody, seed, name, YEARS_AHEAD, &["*.*.*.*"]);
        entries.push_str(&format!("{entry}queries = [\"*.*.*\"]\nletters = {}\n", json!(letters)));
        client.header("Authorization").unwrap().to_owned()
    };
    let keys = [
        with(1, "reader", &["retail.product.*.read"]),
        with(2, "mover", &["retail.product.t*.*"]),
        with(3, "stranger", &[]),
        with(4, "dropper", &["*.*.*.drop"]),
    ];
    let file = folder.path().join("keys.toml");
    fs::write(&file, &entries).unwrap();
    let set = format!("gateway.keys_file={}", file.display());
    let system = System::start(&folder.path().join("system"), &["--set", &set]).await;
    let client = until("the gateway is told", async || clients(&system).into_iter().next()).await;
    let [reader, mover, stranger, dropper] = keys.map(|key| client.with("Authorization", &key));
    let broker = system.broker().await;
    let product = |sequence, id: &str| {
        letter(COMMANDS, sequence, &format!("cmdq.1.retail.product.{id}.register"), &[], REGISTER)
    };
    let other = letter(COMMANDS, 903, "cmdq.1.orders.order.O-1.place", &[], b"{}");
    keep(&broker, &[product(901, "tea"), product(902, "gin"), other]).await;

    assert_eq!(names(&reader.get("/v1/deadletters").await), ["COMMANDS.902", "COMMANDS.901"]);
    assert_eq!(names(&mover.get("/v1/deadletters").await), ["COMMANDS.901"]);
    let mut refused = 0;
    for (client, method, path) in [
        (&reader, "GET", "/COMMANDS.903"),
        (&reader, "POST", "/COMMANDS.901/retry"),
        (&reader, "POST", "/COMMANDS.901/drop"),
        (&mover, "POST", "/COMMANDS.902/retry"),
        (&mover, "GET", "/COMMANDS.902"),
        (&dropper, "GET", "/COMMANDS.901"),
        (&dropper, "GET", ""),
        (&dropper, "POST", "/COMMANDS.901/retry"),
        // Whoever may send all commands and read all rows may do nothing with what was set aside.
        (&stranger, "GET", ""),
        (&stranger, "GET", "/COMMANDS.1000"),
        (&stranger, "POST", "/COMMANDS.901/retry"),
        (&stranger, "POST", "/COMMANDS.901/drop"),
    ] {
        let answer = client.request(method, &format!("/v1/deadletters{path}"), "").await;
        assert_eq!(answer.problem(), (403, "letter-not-granted".to_owned()), "{method} {path}: {answer:?}");
        refused += 1;
    }
    let told = retried(&mover, "COMMANDS.901").await;
    assert_eq!(told["outcome"], "accepted");
    assert_eq!(dropper.request("POST", "/v1/deadletters/COMMANDS.903/drop", "").await.status, 200);

    let found = until("all of it is in the audit log", async || {
        let found = all_records(&broker).await;
        found.iter().any(|record| record.decision == AuditDecision::Dropped).then_some(found)
    })
    .await;
    let of = |decision| found.iter().filter(move |record| record.decision == decision);
    assert_eq!(of(AuditDecision::Denied).count(), refused);
    assert!(of(AuditDecision::Denied).all(|record| record.code.as_deref() == Some("letter-not-granted")));
    let texts = |record: &AuditRecord| (record.who.clone().unwrap(), record.what.clone().unwrap());
    let moved: Vec<_> = of(AuditDecision::Retried).map(|record| (texts(record), record.position)).collect();
    let what = "retry COMMANDS.901 cmd.retail.product.tea.register".to_owned();
    assert_eq!(moved, [(("mover".to_owned(), what), told["command_position"].as_u64())]);
    let dropped: Vec<_> = of(AuditDecision::Dropped).map(texts).collect();
    assert_eq!(dropped, [("dropper".to_owned(), "drop COMMANDS.903 cmd.orders.order.O-1.place".to_owned())]);
    let _said = system.stop().await;
}
