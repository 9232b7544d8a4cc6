//! Bad input: each kind gets its clear answer, and everybody else goes on.

use async_nats::{HeaderMap, jetstream};
use end_to_end_tests::{
    dumps::messages,
    program,
    system::{System, fresh_folder},
    waiting::until,
};
use millstream_contract::{
    commit::{Commit, CommittedCommand, RecordedEvent},
    dead_letter::DeadLetter,
    header,
    stream_names::DEAD_LETTERS,
};
use serde_json::{Value, json};

const GOOD_SALE: &str =
    r#"{"sale":"S1","currency":"USD","lines":[{"sku":"1","quantity":3,"unit_price":250}]}"#;

/// A command that cannot be carried out, and what its sender is told.
struct Bad {
    id: &'static str,
    subject: &'static str,
    body: &'static str,
    outcome: &'static str,
    code: &'static str,
    /// What the sentence must name.
    named: &'static str,
}

const fn bad(
    id: &'static str,
    subject: &'static str,
    body: &'static str,
    outcome: &'static str,
    code: &'static str,
    named: &'static str,
) -> Bad {
    Bad { id, subject, body, outcome, code, named }
}

const SALE: &str = "cmd.retail.till.1_2026-01-31.record-sale";
const DEAD: &str = "dead-lettered";

const BAD: [Bad; 9] = [
    bad("not-json", SALE, r#"{"sale":"S1","#, DEAD, "body-malformed", "EOF"),
    bad(
        "unknown-field",
        SALE,
        r#"{"sale":"S1","currency":"USD","lines":[],"colour":"red"}"#,
        DEAD,
        "body-malformed",
        "colour",
    ),
    bad(
        "wrong-type",
        SALE,
        r#"{"sale":"S1","currency":"USD","lines":[{"sku":"1","quantity":"two","unit_price":5}]}"#,
        DEAD,
        "body-malformed",
        "lines[0].quantity",
    ),
    bad("unknown-command", "cmd.retail.till.1_2026-01-31.sell", "{}", DEAD, "command-unknown", "record-sale"),
    bad("unknown-aggregate", "cmd.retail.tilt.1.close", "{}", DEAD, "aggregate-unknown", "retail.till"),
    bad("id-not-allowed", "cmd.retail.till.1+2.close", "{}", DEAD, "subject-not-allowed", "1+2"),
    bad("id-malformed", "cmd.retail.till.1.close", "{}", "rejected", "till-id-malformed", "<store>_<date>"),
    bad(
        "no-lines",
        SALE,
        r#"{"sale":"S1","currency":"USD","lines":[]}"#,
        "rejected",
        "lines-empty",
        "no lines",
    ),
    bad(
        "no-currency",
        SALE,
        r#"{"sale":"S1","currency":"dollars","lines":[{"sku":"1","quantity":1,"unit_price":5}]}"#,
        "rejected",
        "currency-malformed",
        "dollars",
    ),
];

async fn publish(system: &System, subject: &str, id: &str, body: &str) {
    let client = async_nats::connect(system.url()).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, id);
    let context = jetstream::new(client);
    let stored = context.publish_with_headers(subject.to_owned(), headers, body.to_owned().into()).await;
    stored.unwrap().await.unwrap_or_else(|error| panic!("{subject} is not stored: {error}"));
}

async fn outcome_of(system: &System, id: &str) -> Value {
    until(format!("the outcome of {id}"), async || {
        system.query("query.retail.command.get", &json!({ "key": id })).await.ok()
    })
    .await["value"]
        .clone()
}

#[tokio::test]
async fn every_bad_command_is_answered_by_what_is_wrong_with_it_and_the_next_good_one_is_accepted() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    for bad in &BAD {
        publish(&system, bad.subject, bad.id, bad.body).await;
    }
    publish(&system, SALE, "good", GOOD_SALE).await;
    assert_eq!(outcome_of(&system, "good").await["outcome"], "accepted");
    for bad in &BAD {
        let outcome = outcome_of(&system, bad.id).await;
        assert_eq!(
            (&outcome["outcome"], &outcome["code"]),
            (&json!(bad.outcome), &json!(bad.code)),
            "{}",
            bad.id
        );
        let message = outcome["message"].as_str().unwrap();
        assert!(message.contains(bad.named), "{}: {message}", bad.id);
    }

    // The dead letters hold what was sent.
    let letters: Vec<DeadLetter> = messages(&system.broker().await, DEAD_LETTERS)
        .await
        .iter()
        .map(|message| DeadLetter::from_stored(message, &[]).unwrap())
        .collect();
    let kept: Vec<(&str, &str, &str, &[u8])> = letters
        .iter()
        .map(|letter| {
            let id = letter.headers.get(header::COMMAND_ID).unwrap();
            (id, &*letter.subject, &*letter.code, letter.payload.as_ref())
        })
        .collect();
    let sent: Vec<(&str, &str, &str, &[u8])> = BAD
        .iter()
        .filter(|bad| bad.outcome == DEAD)
        .map(|bad| (bad.id, bad.subject, bad.code, bad.body.as_bytes()))
        .collect();
    assert_eq!(kept, sent);
    let sequences: Vec<u64> = letters.iter().map(|letter| letter.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
    system.stop().await;
}

#[tokio::test]
async fn a_body_larger_than_the_server_takes_is_refused_before_anything_is_stored() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let body = format!(r#"{{"sale":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    let arguments = ["send", "retail", "till", "1_2026-01-31", "record-sale", "-"];
    let sent = system.millstream_with_input(&arguments, body.as_bytes()).await;
    assert_ne!(sent.code(), Some(0));
    assert!(sent.stderr.contains("takes messages of up to 1048576 bytes"), "{}", sent.stderr);
    if let Some(nats) = system.nats().await {
        let command = nats.command(&["pub", "-J", "--force-stdin", SALE]);
        let ended = program::run(command, body.as_bytes()).await;
        assert_ne!(ended.code(), Some(0), "{ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr).to_lowercase();
        assert!(said.contains("maximum payload"), "{said}");
        let elsewhere = nats.run(&["pub", "-J", "cmd.retail.till.record-sale", "{}"]).await;
        assert_ne!(elsewhere.code(), Some(0), "a subject of another depth is stored: {elsewhere:?}");
    }
    publish(&system, SALE, "good", GOOD_SALE).await;
    assert_eq!(outcome_of(&system, "good").await["command_position"], 1, "something else was stored");
    system.stop().await;
}

/// An event of a release that does not exist.
async fn store_unknown_event(system: &System) {
    let commit = Commit {
        commit_id: "from-the-future".into(),
        first_version: 1,
        recorded_at: 0,
        commands: vec![CommittedCommand {
            id: "future".into(),
            position: 1,
            actor: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            partner_of: None,
        }],
        events: vec![RecordedEvent {
            event_type: "sale-teleported".into(),
            schema: 1,
            data: vec![0x80],
            command: 0,
        }],
        previous: None,
    };
    let context = jetstream::new(system.broker().await.client().clone());
    let stored = context.publish("evt.retail.till.9_2026-01-31", commit.encode().into()).await.unwrap();
    stored.await.unwrap();
}

#[tokio::test]
async fn an_unknown_event_halts_exactly_the_projections_that_read_it_and_they_say_why() {
    let folder = fresh_folder();
    let system = System::start(folder.path(), &[]).await;
    let product = r#"{"name":"Tea","supplier":"leaf"}"#;
    publish(&system, "cmd.retail.product.1.register", "before", product).await;
    assert_eq!(outcome_of(&system, "before").await["outcome"], "accepted");
    let doctor = system.millstream(&["doctor"]).await.expect_success("millstream doctor");
    assert!(doctor.stdout.lines().all(|line| line.starts_with("ok ")), "{}", doctor.stdout);
    store_unknown_event(&system).await;

    for view in ["till", "sale", "store-daily", "supplier-daily"] {
        let subject = format!("query.retail.{view}.list");
        let (code, text) =
            until(format!("{view} halts"), async || system.query(&subject, &json!({})).await.err()).await;
        assert_eq!(code, "503", "{text}");
        for named in ["halted", "sale-teleported", "EVENTS 2"] {
            assert!(text.contains(named), "{view}: {text}");
        }
    }
    for stage in ["projector", "reporter"] {
        let trouble = format!("trouble stage {stage}:");
        let line = until(format!("doctor says {trouble}"), async || {
            let doctor = system.millstream(&["doctor"]).await;
            let line = doctor.stdout.lines().find(|line| line.starts_with(&trouble))?;
            assert_eq!(doctor.code(), Some(69), "{doctor:?}");
            Some(line.to_owned())
        })
        .await;
        assert!(line.contains("halted at EVENTS 2") && line.contains("sale-teleported"), "{line}");
    }
    // Everybody else goes on: other views, other tills, other commands.
    publish(&system, "cmd.retail.product.2.register", "after", product).await;
    assert_eq!(outcome_of(&system, "after").await["outcome"], "accepted");
    until("the view of products goes on", async || {
        system.query("query.retail.product.get", &json!({"key": "2"})).await.ok()
    })
    .await;
    publish(&system, SALE, "other-till", GOOD_SALE).await;
    assert_eq!(outcome_of(&system, "other-till").await["outcome"], "accepted");
    system.stop().await;
}
