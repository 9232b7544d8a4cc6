//! What is too large, too long or too much, against a real nats-server: it costs its sender an answer, and nobody else anything.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{collections::VecDeque, num::NonZeroUsize, time::Duration};

use async_nats::{HeaderMap, jetstream};
use millstream_contract::{
    dead_letter::{DeadLetter, further_parts},
    error_text::TEXT_MAX,
    header,
    header_check::KEPT_BYTES_MAX,
    outcome::{Outcome, OutcomeRecord},
    stored_message::Headers,
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES},
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::{Broker, NewMessage},
    dead_letter_store::{DeadLetterStore, whole_letter},
    group_append::AppendStrategy,
    id_source::IdSource,
    nats_broker::NatsBroker,
    testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker, test_server::TestServer},
};
use millstream_proof::{
    testing::{account::Account, stream_dump::dump},
    verification::verify,
};
use millstream_runtime::{health::Readiness, metrics::Metrics, shutdown::Shutdown};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    id_index::IdIndex,
    round::InternalCommands,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};
use tokio::{task::JoinHandle, time::Instant};

const DEPOSIT: &str = "cmd.bank.account.hot.deposit";
const BODY: &str = r#"{"amount":1}"#;

struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), HandlerError>>,
}

impl Running {
    async fn start(server: &TestServer) -> Self {
        let shutdown = Shutdown::new();
        let settings = HandlerSettings {
            name: "command-handler-1".to_owned(),
            internal_commands: InternalCommands::EffectsOnly,
            round_max: NonZeroUsize::new(20_000).unwrap(),
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
            CommandHandler::new(server.broker().await, registry, settings, "run", index, snapshots, observed);
        let stop = shutdown.clone();
        Self { shutdown, task: tokio::spawn(async move { handler.run(stop).await }) }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until each of so many commands has its outcome.
    async fn outcomes(&self, broker: &NatsBroker, count: usize) -> Vec<Outcome> {
        let mut found = Vec::new();
        let mut read = 0;
        let all = async {
            while found.len() < count {
                assert!(!self.task.is_finished(), "the handler has ended");
                let last = broker.state(OUTCOMES).await.unwrap().last_sequence;
                for sequence in read + 1..=last {
                    let stored = broker.get(OUTCOMES, sequence).await.unwrap().unwrap();
                    let record = OutcomeRecord::from_stored(&stored).unwrap();
                    found.extend(record.outcomes.into_iter().map(|outcome| outcome.outcome));
                }
                read = last;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
        found
    }
}

/// Puts commands on COMMANDS, with these headers and an id of 40 characters each.
async fn put(server: &TestServer, count: usize, headers: &[(&str, &str)], body: &str) {
    let context = jetstream::new(server.client().await);
    let mut acknowledgements = VecDeque::new();
    for number in 0..count {
        let mut map = HeaderMap::new();
        map.insert(header::COMMAND_ID, format!("{number:040}"));
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let acknowledgement =
            context.publish_with_headers(DEPOSIT, map, body.to_owned().into()).await.unwrap();
        acknowledgements.push_back(acknowledgement);
        // The client takes no more than some thousands at a time.
        if acknowledgements.len() > 1_000 {
            acknowledgements.pop_front().unwrap().await.unwrap();
        }
    }
    for acknowledgement in acknowledgements {
        acknowledgement.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_on_one_aggregate_is_accepted_whole() {
    const COUNT: usize = 20_000;
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers =
        [(header::CORRELATION_ID, "a correlation id of some length"), (header::TRACE_PARENT, trace)];
    put(&server, COUNT, &headers, BODY).await;
    let handler = Running::start(&server).await;
    let outcomes = handler.outcomes(&broker, COUNT).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Accepted { .. })));
    handler.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_records_that_a_stream_refuses_are_halved_until_they_fit() {
    const COUNT: usize = 3_000;
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    // The streams take much less than the server says.
    let context = jetstream::new(server.client().await);
    for stream in [EVENTS, OUTCOMES] {
        let mut config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
        config.max_message_size = i32::try_from(KEPT_BYTES_MAX).unwrap();
        context.update_stream(config).await.unwrap();
    }
    put(&server, COUNT, &[], BODY).await;
    // One that fits nowhere, in the midst of them.
    let actor = "x".repeat(KEPT_BYTES_MAX);
    put_one(&broker, "large", &[(header::ACTOR, &actor)], BODY).await;
    put_one(&broker, "behind", &[], BODY).await;
    let handler = Running::start(&server).await;
    let outcomes = handler.outcomes(&broker, COUNT + 2).await;
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Accepted { .. })).count();
    assert_eq!(accepted, COUNT + 1);
    let Outcome::DeadLettered { code, .. } = outcomes.get(COUNT).unwrap() else { panic!("{outcomes:?}") };
    assert_eq!(&**code, "commit-refused");
    handler.stop().await;
    assert_eq!(verify(&dump(&broker).await, true).violations, []);
}

async fn put_one(broker: &NatsBroker, id: &str, headers: &[(&str, &str)], body: &str) {
    let mut all: Headers = headers.iter().copied().collect();
    all.push(header::COMMAND_ID, id);
    let payload = body.to_owned().into();
    let command = NewMessage { subject: DEPOSIT.to_owned(), expected_last: None, headers: all, payload };
    broker.append(COMMANDS, command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_a_client_typed_are_cut_where_they_come_back() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let long = "\u{7f}".repeat(200_000);
    let value = |text: &str| serde_json::json!({ "amount": text }).to_string();
    let field = serde_json::json!({ "amount": 1, long.as_str(): 1 }).to_string();
    put_one(&broker, "value", &[], &value(&long)).await;
    put_one(&broker, "field", &[], &field).await;
    put_one(&broker, "header", &[(header::EXPECTED_VERSION, &"7".repeat(60_000))], BODY).await;
    put_one(&broker, "fine", &[], BODY).await;
    let handler = Running::start(&server).await;
    for outcome in handler.outcomes(&broker, 4).await {
        match outcome {
            Outcome::DeadLettered { message, .. } => assert!(message.len() <= TEXT_MAX, "{}", message.len()),
            outcome => assert!(matches!(outcome, Outcome::Accepted { version: 1, .. }), "{outcome:?}"),
        }
    }
    handler.stop().await;
    for sequence in 1..=3 {
        let stored = broker.get(DEAD_LETTERS, sequence).await.unwrap().unwrap();
        let letter = DeadLetter::from_stored(&stored, &[]).unwrap();
        assert!(letter.cause.len() <= TEXT_MAX);
        let command = broker.get(COMMANDS, letter.sequence).await.unwrap().unwrap();
        assert_eq!(letter.payload, command.payload);
    }
}

#[tokio::test]
async fn a_dead_letter_of_the_largest_message_is_kept_whole() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let max = broker.message_bytes_max();
    let name = "x".repeat(30_000);
    for (headers, bytes) in [(vec![], max), (vec![("A", &*name), ("B", &*name)], max - 60_100)] {
        broker.purge_subject(COMMANDS, ">", None).await.unwrap();
        let command = NewMessage {
            subject: DEPOSIT.to_owned(),
            expected_last: None,
            headers: headers.into_iter().collect(),
            payload: vec![7; bytes - 200].into(),
        };
        let position = broker.append(COMMANDS, command).await.unwrap().sequence;
        let stored = broker.get(COMMANDS, position).await.unwrap().unwrap();
        let letter = DeadLetter::new(COMMANDS, &stored, "code", "cause");
        let store = DeadLetterStore::new(broker.clone());
        let ids = IdSource::new("run");
        for _ in 0..2 {
            let kept = store.keep(std::slice::from_ref(&letter), &ids).await;
            assert!(kept.iter().all(Result::is_ok), "{kept:?}");
        }
        let first = broker.last(DEAD_LETTERS, &letter.dead_letter_subject()).await.unwrap().unwrap();
        assert_eq!(further_parts(&first).len(), 1);
        assert_eq!(whole_letter(&broker, &first).await.unwrap().unwrap().payload, letter.payload);
    }
    assert_eq!(broker.state(DEAD_LETTERS).await.unwrap().last_sequence, 4, "each is kept once");
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_by_the_thousand_is_set_aside_together() {
    const COUNT: usize = 10_000;
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    put(&server, COUNT, &[], "junk").await;
    put_one(&broker, "fine", &[], BODY).await;
    let handler = Running::start(&server).await;
    let outcomes = handler.outcomes(&broker, COUNT + 1).await;
    assert!(matches!(outcomes.last(), Some(Outcome::Accepted { .. })), "{:?}", outcomes.last());
    handler.stop().await;
}

/// In the time of the in-memory twin, in which every question and answer travels for up to 3 ms.
#[tokio::test(start_paused = true)]
async fn letters_kept_together_take_a_part_of_the_time_that_they_take_one_by_one() {
    const LETTERS: u64 = 400;
    let broker = MemoryBroker::new(1, FaultPlan::none());
    let letter = |sequence| DeadLetter {
        stream: "OTHER".to_owned(),
        sequence,
        effect: None,
        subject: DEPOSIT.to_owned(),
        code: "code".to_owned(),
        cause: "cause".to_owned(),
        headers: Headers::new(),
        payload: "junk".into(),
    };
    let letters: Vec<_> = (1..=2 * LETTERS).map(letter).collect();
    let (one_by_one, together) = letters.split_at(usize::try_from(LETTERS).unwrap());
    let (store, ids) = (DeadLetterStore::new(broker), IdSource::new("run"));
    let began = Instant::now();
    for letter in one_by_one {
        assert!(store.keep(std::slice::from_ref(letter), &ids).await.iter().all(Result::is_ok));
    }
    let (slow, began) = (began.elapsed(), Instant::now());
    assert!(store.keep(together, &ids).await.iter().all(Result::is_ok));
    let fast = began.elapsed();
    assert!(fast * 10 < slow, "{fast:?} and {slow:?}");
}

/// Headers of nearly as much as the server stores were accepted, and every effect that carried them on was refused for good.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_effects_could_not_carry_on_are_set_aside_before_anything_is_decided() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let long = "c".repeat(60_000);
    put(&server, 1, &[(header::CORRELATION_ID, &long)], BODY).await;
    let context = jetstream::new(server.client().await);
    context.publish(DEPOSIT, BODY.into()).await.unwrap().await.unwrap();
    let handler = Running::start(&server).await;
    let outcomes = handler.outcomes(&broker, 2).await;
    let Outcome::DeadLettered { code, message } = &outcomes[0] else { panic!("{}", outcomes[0]) };
    assert_eq!(&**code, "headers-too-long");
    assert!(message.contains("60000 bytes together; at most 8192"), "{message}");
    assert!(matches!(outcomes[1], Outcome::Accepted { version: 1, .. }), "{}", outcomes[1]);
    let parts = broker.get(DEAD_LETTERS, 1).await.unwrap().unwrap();
    let letter = DeadLetter::from_stored(&parts, &[]).unwrap();
    assert_eq!(letter.headers.get(header::CORRELATION_ID), Some(&*long), "the letter has all of it");
    handler.stop().await;
}
