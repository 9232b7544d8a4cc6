//! Messages with bytes that the client library cannot read, against a real nats-server: the server stores them, the library ends
//! the connection on which they are delivered, or its own task. Whoever reads the streams has to go on all the same.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{num::NonZeroUsize, time::Duration};

use async_nats::{Client, HeaderMap, Message};
use futures::StreamExt;
use millstream_contract::{
    dead_letter::DeadLetter,
    header,
    outcome::{Outcome, OutcomeRecord, OutcomeReply},
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES},
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::{Broker, ReaderConfig, StreamReader},
    dead_letter_store::whole_letter,
    group_append::AppendStrategy,
    id_source::IdSource,
    nats_broker::NatsBroker,
    testing::{operation::load_all, raw_client::RawClient, test_server::TestServer},
};
use millstream_proof::{
    testing::{account::Account, stream_dump::dump},
    verification::verify,
};
use millstream_runtime::{
    health::Readiness,
    metrics::Metrics,
    shutdown::Shutdown,
    status_service::{ObservedProcess, StatusService},
};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    id_index::IdIndex,
    round::InternalCommands,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
    submit_service::SubmitService,
};
use tokio::task::JoinHandle;

const DEPOSIT: &str = "cmd.bank.account.ada.deposit";
const BODY: &str = r#"{"amount":1}"#;
/// What comes at all has come by then, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);
/// What has not come by then does not come; before a question is asked again.
const A_MOMENT: Duration = Duration::from_secs(1);

/// Subject, header block and code of the dead letter.
type Foreign = (&'static [u8], &'static [u8], &'static str);

const FINE: &[u8] = b"NATS/1.0\r\nX-Note: n1\r\n\r\n";

/// What the client library cannot read, each in its own way.
const FOREIGN: [Foreign; 11] = [
    // A no-break space: the line of a message with headers is split there.
    ("cmd.bank.account.a\u{a0}b.deposit".as_bytes(), FINE, "subject-not-allowed"),
    ("cmd.bank.account.a\u{2003}b.deposit".as_bytes(), b"", "subject-not-allowed"),
    (b"cmd.bank.account.a\x0bb.deposit", b"NATS/1.0\r\nX: y\r\n\r\n", "subject-not-allowed"),
    (b"cmd.bank.account.jos\xe9.deposit", b"", "subject-not-allowed"),
    (DEPOSIT.as_bytes(), b"NATS/1.0\r\nMillstream-Actor: Jos\xe9\r\n\r\n", "headers-unreadable"),
    (DEPOSIT.as_bytes(), b"NATS/1.0\r\nMy Header: x\r\n\r\n", "headers-unreadable"),
    (DEPOSIT.as_bytes(), "NATS/1.0\r\nZähler: 1\r\n\r\n".as_bytes(), "headers-unreadable"),
    // This one ends the library's task.
    (DEPOSIT.as_bytes(), b"NATS/1.0\r\nX: a\rb\r\n\r\n", "headers-unreadable"),
    (DEPOSIT.as_bytes(), b"NATS/1.0\r\nno colon\r\n\r\n", "headers-unreadable"),
    (DEPOSIT.as_bytes(), b"HTTP/1.1\r\nX: y\r\n\r\n", "headers-unreadable"),
    (DEPOSIT.as_bytes(), b"NATS/1.0\r\nX: a\r\n: b\r\n\xff\r\n\r\n", "headers-unreadable"),
];

struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), HandlerError>>,
}

impl Running {
    async fn start(server: &TestServer, run: &str) -> Self {
        let shutdown = Shutdown::new();
        let settings = HandlerSettings {
            name: format!("command-handler-{run}"),
            internal_commands: InternalCommands::EffectsOnly,
            round_max: NonZeroUsize::new(1000).unwrap(),
            cache: CacheLimits {
                states: NonZeroUsize::new(1000).unwrap(),
                bytes: u64::MAX,
                unsaved_commits: NonZeroUsize::MAX,
            },
            append_strategy: AppendStrategy::default(),
            lease_time_to_live: Duration::from_secs(3),
            purge: None,
        };
        let observed = Observed::new(&Metrics::new(), &Readiness::new());
        let registry = AggregateRegistry::new().with::<Account>();
        let (index, snapshots) = (IdIndex::in_memory().unwrap(), StateSnapshots::in_memory().unwrap());
        let mut handler =
            CommandHandler::new(server.broker().await, registry, settings, run, index, snapshots, observed);
        let stop = shutdown.clone();
        Self { shutdown, task: tokio::spawn(async move { handler.run(stop).await }) }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

/// Publishes a command and waits for its outcome.
async fn ask(broker: &NatsBroker, subject: &str, body: &str, headers: &[(&str, &str)]) -> Outcome {
    let client = broker.client();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let mut map = HeaderMap::new();
    map.insert(header::REPLY, inbox.as_str());
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    client.publish_with_headers(subject.to_owned(), map, body.to_owned().into()).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    let reply = OutcomeReply::from_json(&serde_json::from_slice(&answer.payload).unwrap()).unwrap();
    reply.outcome
}

async fn outcomes(broker: &NatsBroker) -> Vec<(u64, Outcome)> {
    let mut found = Vec::new();
    for sequence in 1..=broker.state(OUTCOMES).await.unwrap().last_sequence {
        let record =
            OutcomeRecord::from_stored(&broker.get(OUTCOMES, sequence).await.unwrap().unwrap()).unwrap();
        found.extend(record.outcomes.into_iter().map(|outcome| (outcome.position, outcome.outcome)));
    }
    found
}

async fn letters(broker: &NatsBroker) -> Vec<DeadLetter> {
    let mut found = Vec::new();
    for sequence in 1..=broker.state(DEAD_LETTERS).await.unwrap().last_sequence {
        let stored = broker.get(DEAD_LETTERS, sequence).await.unwrap().unwrap();
        found.extend(whole_letter(broker, &stored).await.unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_with_foreign_bytes_are_set_aside_and_others_are_decided_meanwhile() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let mut raw = RawClient::connect(&server.url()).await;
    // A backlog: each between two that are fine, and all of them in a row.
    for (subject, headers, _) in FOREIGN {
        raw.publish(DEPOSIT, "", BODY).await;
        raw.publish(subject, headers, "left").await;
    }
    for (subject, headers, _) in FOREIGN {
        raw.publish(subject, headers, "left").await;
    }
    let first = Running::start(&server, "a").await;
    let behind = ask(&broker, DEPOSIT, BODY, &[]).await;
    let decided = FOREIGN.len() as u64 + 1;
    assert!(matches!(behind, Outcome::Accepted { version, .. } if version == decided), "{behind:?}");
    // Live, and with a second handler that stands by.
    let second = Running::start(&server, "b").await;
    for (number, (subject, headers, _)) in (decided + 1..).zip(FOREIGN) {
        raw.publish(subject, headers, "left").await;
        let behind = ask(&broker, DEPOSIT, BODY, &[]).await;
        assert!(matches!(behind, Outcome::Accepted { version, .. } if version == number), "{behind:?}");
    }
    first.stop().await;
    let after = ask(&broker, DEPOSIT, BODY, &[]).await;
    assert!(matches!(after, Outcome::Accepted { .. }), "{after:?}");
    second.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
    let letters = letters(&broker).await;
    let outcomes = outcomes(&broker).await;
    assert_eq!(letters.len(), 3 * FOREIGN.len());
    for letter in letters {
        let stored = broker.get(COMMANDS, letter.sequence).await.unwrap().unwrap();
        assert_eq!(&*letter.payload, b"left");
        let expected = FOREIGN.iter().find(|(_, block, _)| stored.headers.block() == *block);
        if let Some((_, block, code)) = expected.filter(|(_, _, code)| *code == "headers-unreadable") {
            assert_eq!((letter.code.as_str(), &letter.headers.block()[..]), (*code, *block));
        } else {
            assert_eq!(letter.code, "subject-not-allowed", "{letter:?}");
        }
        let (_, outcome) = outcomes.iter().find(|(position, _)| *position == letter.sequence).unwrap();
        assert!(
            matches!(outcome, Outcome::DeadLettered { code, .. } if **code == *letter.code),
            "{outcome:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_and_every_load_goes_on_behind_foreign_bytes() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let mut raw = RawClient::connect(&server.url()).await;
    let blocks = FOREIGN.iter().map(|(_, block, _)| *block).filter(|block| !block.is_empty());
    let blocks: Vec<_> =
        blocks.chain([&b"NATS/1.0 204 EOB\r\n\r\n"[..], b"NATS/1.0 100 Idle\r\n\r\n"]).collect();
    for block in &blocks {
        raw.publish("evt.bank.account.ada", "", "before").await;
        raw.publish("evt.bank.account.ada", block, "x").await;
    }
    raw.publish("evt.bank.account.ada", "", "last").await;
    let mut count = blocks.len() as u64 * 2 + 1;
    let history = load_all(&broker, EVENTS, "evt.bank.account.ada", 1).await.unwrap();
    assert!(history.iter().map(|message| message.sequence).eq(1..=count));
    assert_eq!(&*history.last().unwrap().payload, b"last");
    for filters in [vec![], vec!["evt.bank.*.*".to_owned(), "evt.other.>".to_owned()]] {
        let config = ReaderConfig {
            stream: EVENTS.to_owned(),
            name: "reader".to_owned(),
            description: String::new(),
            after: 0,
            filters,
            replace_live: true,
        };
        let mut reader = broker.read(config).await.unwrap();
        let mut sequences = Vec::new();
        while sequences.last() != Some(&count) {
            let batch = tokio::time::timeout(Duration::from_secs(20), reader.next_batch(1000)).await;
            sequences.extend(batch.unwrap().unwrap().into_iter().map(|message| message.sequence));
        }
        assert!(sequences.into_iter().eq(1..=count));
        raw.publish("evt.bank.account.ada", FOREIGN[7].1, "live").await;
        let batch = tokio::time::timeout(PATIENCE, reader.next_batch(1000)).await;
        let live = batch.unwrap().unwrap().pop().unwrap();
        assert!(&*live.payload == b"live" && live.headers.unreadable().is_some(), "{live:?}");
        reader.close().await;
        count += 1;
    }
}

/// Asks once.
async fn ask_service(client: &Client, subject: &str, body: &'static str) -> Message {
    let asked = tokio::time::timeout(PATIENCE, client.request(subject.to_owned(), body.into())).await;
    asked.expect("an answer").expect("somebody answers")
}

/// A request with one of these kept everybody else out for 15 ms, and had no answer itself.
#[tokio::test(flavor = "multi_thread")]
async fn services_answer_requests_with_foreign_bytes_and_all_others() {
    const ROUNDS: usize = 20;
    let server = TestServer::start_provisioned().await;
    let (broker, people) = (server.broker().await, server.client().await);
    let handler = Running::start(&server, "a").await;
    let submit = SubmitService::start(&broker, IdSource::new("submit"), "1.0.0").await.unwrap();
    let process = ObservedProcess {
        stage: "command-handler".to_owned(),
        instance: String::new(),
        version: "1.0.0".to_owned(),
        readiness: Readiness::new(),
        metrics: Metrics::new(),
    };
    let status = StatusService::start(&broker, process).await.unwrap();
    let mut raw = RawClient::connect(&server.url()).await;
    let inbox = people.new_inbox();
    let mut refusals = people.subscribe(format!("{inbox}.*")).await.unwrap();
    people.flush().await.unwrap();
    let foreign: Vec<_> = FOREIGN.iter().filter(|(_, _, code)| *code == "headers-unreadable").collect();
    for round in 0..ROUNDS {
        for (_, block, _) in &foreign {
            for (subject, body) in [
                ("submit.bank.account.ada.deposit", BODY),
                ("stage.command-handler.status", ""),
                ("$SRV.PING", ""),
            ] {
                raw.publish(format!("{subject} {inbox}.{round}"), block, body).await;
                let answer = ask_service(&people, subject, body).await;
                assert!(!answer.payload.is_empty(), "{answer:?}");
            }
            raw.publish("reply.submit.submit.0", block, "").await;
        }
    }
    // `$SRV.PING` asks for nothing that its headers could change: both services answer.
    let (mut refused, mut pings) = (0, 0);
    for _ in 0..ROUNDS * foreign.len() * 4 {
        let answer = tokio::time::timeout(PATIENCE, refusals.next()).await.unwrap().unwrap();
        match answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) {
            None => pings += 1,
            Some(error) => {
                assert!(error.as_str().starts_with("the request cannot be read: "), "{error:?}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, pings), (ROUNDS * foreign.len() * 2, ROUNDS * foreign.len() * 2));
    // One of each is there.
    let inbox = people.new_inbox();
    let mut answers = people.subscribe(inbox.clone()).await.unwrap();
    people.publish_with_reply("$SRV.PING.submit", inbox, "".into()).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, answers.next()).await.is_ok());
    assert!(tokio::time::timeout(A_MOMENT, answers.next()).await.is_err());
    status.stop().await;
    submit.stop().await;
    handler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_are_read_in_any_case_and_refused_by_name_when_they_are_misspelt() {
    let server = TestServer::start_provisioned().await;
    let (broker, people) = (server.broker().await, server.client().await);
    let handler = Running::start(&server, "a").await;
    let code = async |name: &str, value: &str| {
        let outcome = ask(&broker, DEPOSIT, BODY, &[(name, value)]).await;
        match outcome {
            Outcome::Rejected { code, .. } => code.to_string(),
            Outcome::DeadLettered { code, message } => format!("{code}: {message}"),
            outcome => outcome.kind().to_owned(),
        }
    };
    assert_eq!(code("millstream-expected-version", "7").await, "version-conflict");
    assert_eq!(code("MILLSTREAM-EXPECTED-VERSION", "0").await, "accepted");
    assert_eq!(code("Millstream-Expected-Version", "").await, "accepted");
    let misspelt = code("Millstream-Expected-Versoin", "7").await;
    assert!(misspelt.starts_with("header-unknown"), "{misspelt}");
    assert!(misspelt.contains("did you mean Millstream-Expected-Version?"), "{misspelt}");
    let hidden = code("Millstream-Actor", "Ada\0").await;
    assert!(hidden.starts_with("header-control-character: header Millstream-Actor holds"), "{hidden}");
    // An empty command id beside a message id: the message id counts.
    let ids = [(header::COMMAND_ID, ""), (header::NATS_MESSAGE_ID, "once")];
    let first = ask(&broker, DEPOSIT, BODY, &ids).await;
    assert!(matches!(first, Outcome::Accepted { .. }), "{first:?}");
    let again = ask(&broker, DEPOSIT, BODY, &[("millstream-command-id", "once")]).await;
    assert!(matches!(again, Outcome::Duplicate { .. }), "{again:?}");
    // The same through `submit`.
    let submit = SubmitService::start(&broker, IdSource::new("submit"), "1.0.0").await.unwrap();
    for (name, value, expected) in [
        ("millstream-expected-version", "77", "version-conflict"),
        ("Millstream-Expected-Versoin", "77", "did you mean Millstream-Expected-Version?"),
        ("Millstream-Actor", "Ada\0", "holds the control character"),
        ("Millstream-Actor", &*"a".repeat(10_000), "take 10000 bytes together; at most 8192"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        let subject = "submit.bank.account.ada.deposit";
        let answer = people.request_with_headers(subject, headers, BODY.into()).await.unwrap();
        let said = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.payload));
        assert!(said.contains(expected), "{said}");
    }
    submit.stop().await;
    handler.stop().await;
}
