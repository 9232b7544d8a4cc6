//! `millstream verify outcomes` and `millstream deadletters` against a real nats-server and the real command handler, also
//! on streams that somebody has tampered with.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{
    num::NonZeroUsize,
    process::{Command, Stdio},
    time::Duration,
};

use async_nats::jetstream;
use millstream_contract::{
    command::letter_of_command_id,
    dead_letter::{DeadLetter, LetterPart},
    header,
    outcome::{Outcome, OutcomeRecord},
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES, TIMERS},
    subject::published_subject,
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    group_append::AppendStrategy,
    nats_broker::NatsBroker,
    testing::{raw_client::RawClient, test_server::TestServer},
};
use millstream_runtime::{health::Readiness, metrics::Metrics, shutdown::Shutdown};
use millstream_write_side::{
    command_handler::{CommandHandler, HandlerError, HandlerSettings, Observed},
    id_index::IdIndex,
    round::InternalCommands,
    state_cache::CacheLimits,
    state_snapshots::StateSnapshots,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), HandlerError>>,
}

impl Running {
    async fn start(server: &TestServer, run: &str, registry: AggregateRegistry) -> Self {
        let settings = HandlerSettings {
            name: "command-handler".to_owned(),
            round_max: NonZeroUsize::new(1000).unwrap(),
            cache: CacheLimits {
                states: NonZeroUsize::new(1000).unwrap(),
                bytes: u64::MAX,
                unsaved_commits: NonZeroUsize::MAX,
            },
            append_strategy: AppendStrategy::default(),
            internal_commands: InternalCommands::EffectsOnly,
            lease_time_to_live: Duration::from_secs(3),
            purge: None,
        };
        let observed = Observed::new(&Metrics::new(), &Readiness::new());
        let index = IdIndex::in_memory().unwrap();
        let broker = server.broker().await;
        let snapshots = StateSnapshots::in_memory().unwrap();
        let mut handler = CommandHandler::new(broker, registry, settings, run, index, snapshots, observed);
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        Self { shutdown, task: tokio::spawn(async move { handler.run(stop).await }) }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

async fn millstream(server: &TestServer, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["--server", &server.url()]).args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn publish(broker: &NatsBroker, sku: usize, command: &str, body: &str, id: Option<&str>) -> u64 {
    let headers: Headers = id.map(|id| ("Nats-Msg-Id", id)).into_iter().collect();
    let message = NewMessage {
        subject: format!("cmd.retail.product.{sku}.{command}"),
        expected_last: None,
        headers,
        payload: body.to_owned().into(),
    };
    broker.append(COMMANDS, message).await.unwrap().sequence
}

/// Waits until all of COMMANDS up to `position` has its outcomes.
async fn decided(broker: &NatsBroker, position: u64) {
    let covered = async {
        loop {
            let last = broker.last(OUTCOMES, "out.0of1").await.unwrap();
            if last.is_some_and(|last| OutcomeRecord::from_stored(&last).unwrap().through >= position) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), covered).await.expect("the handler decides");
}

const REGISTER: &str = r#"{"name":"Widget","supplier":"acme"}"#;

/// Some hundred commands in several records: accepted, refused, repeated, set aside. Returns the last position.
async fn some_commands(broker: &NatsBroker) -> u64 {
    let mut last = 0;
    for wave in 0..4 {
        for sku in 0..20 {
            let id = format!("{wave}-{sku}");
            publish(broker, sku, "register", REGISTER, Some(&id)).await;
            publish(broker, sku, "reprice", &format!(r#"{{"unit_price":{wave},"currency":"EUR"}}"#), None)
                .await;
            publish(broker, sku, "reprice", r#"{"unit_price":-1,"currency":"EUR"}"#, None).await;
        }
        publish(broker, 1, "register", "{", None).await;
        let headers: Headers = [("Millstream-Command-Id", "0-1")].into_iter().collect();
        let repeat = NewMessage {
            subject: "cmd.retail.product.1.register".to_owned(),
            expected_last: None,
            headers,
            payload: REGISTER.into(),
        };
        last = broker.append(COMMANDS, repeat).await.unwrap().sequence;
        decided(broker, last).await;
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_as_they_should_be_are_verified_whole_and_in_part() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", millstream_model::aggregates()).await;
    let last = some_commands(&broker).await;
    handler.stop().await;
    publish(&broker, 1, "discontinue", "{}", None).await;

    let (code, text, said) = millstream(&server, &["verify", "outcomes", "--json"]).await;
    assert_eq!(code, 0, "{text}{said}");
    let figures = json_lines(&text).pop().unwrap();
    assert_eq!((&figures["commands"], &figures["undecided"]), (&json!(last + 1), &json!(1)));
    assert_eq!((&figures["duplicates"], &figures["dead_lettered"]), (&json!(4), &json!(4)));

    let (code, text, _) = millstream(&server, &["verify", "outcomes", "--from", "100", "--to", "120"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("COMMANDS 100..=120: 21 commands, every promise kept"), "{text}");

    for nothing in [["--from", "99999"], ["--to", "0"]] {
        let (code, _, said) = millstream(&server, &[&["verify", "outcomes"], &nothing[..]].concat()).await;
        assert_eq!(code, 64, "{said}");
        assert!(said.contains("so this would prove nothing"), "{said}");
    }

    let commands = server.jetstream_stream(COMMANDS).await;
    commands.purge().sequence(50).await.unwrap();
    let (code, text, said) = millstream(&server, &["verify", "outcomes", "--from", "1"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(said.contains("COMMANDS is kept from 50 on only"), "{said}");
    assert!(text.contains(&format!("COMMANDS 50..={}: {} commands", last + 1, last + 1 - 49)), "{text}");
    let outcomes = server.jetstream_stream(OUTCOMES).await;
    let end = broker.state(OUTCOMES).await.unwrap().last_sequence;
    outcomes.purge().sequence(end).await.unwrap();
    let (code, text, _) = millstream(&server, &["verify", "outcomes"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("older than the first record that OUTCOMES keeps"), "{text}");
}

/// Right after the last command had been deleted, thousands of violations were told: the server still counts it as the end of the stream.
/// That an outcome has no command any more is told of that one, and of nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_last_command_accuses_no_other() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", millstream_model::aggregates()).await;
    let last = some_commands(&broker).await;
    handler.stop().await;
    let commands = server.jetstream_stream(COMMANDS).await;
    let accused = async |deleted: &[u64], there: u64| {
        let (code, text, said) = millstream(&server, &["verify", "outcomes", "--json"]).await;
        assert_eq!(code, 65, "{text}{said}");
        let mut lines = json_lines(&text);
        let figures = lines.pop().unwrap();
        assert_eq!(figures["commands"], json!(there), "{text}");
        let mut named: Vec<u64> = lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
        named.sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(named, deleted, "{text}");
    };
    let mut deleted = Vec::new();
    for sequence in [last, last - 1, last - 2] {
        assert!(commands.delete_message(sequence).await.unwrap());
        deleted.push(sequence);
        accused(&deleted, sequence - 1).await;
    }
    // What comes next is numbered behind them, and is decided like any other.
    let handler = Running::start(&server, "b", millstream_model::aggregates()).await;
    let next = publish(&broker, 1, "discontinue", "{}", None).await;
    assert_eq!(next, last + 1);
    decided(&broker, next).await;
    handler.stop().await;
    accused(&deleted, last - 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_record_and_a_repeated_commit_are_found() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", millstream_model::aggregates()).await;
    some_commands(&broker).await;
    handler.stop().await;
    let outcomes = server.jetstream_stream(OUTCOMES).await;
    let end = broker.state(OUTCOMES).await.unwrap().last_sequence;
    let middle = broker.get(OUTCOMES, end / 2 + 1).await.unwrap().unwrap();
    let removed = OutcomeRecord::from_stored(&middle).unwrap();
    assert!(outcomes.delete_message(middle.sequence).await.unwrap());

    let (code, text, _) = millstream(&server, &["verify", "outcomes"]).await;
    assert_eq!(code, 65, "{text}");
    let missing =
        text.lines().filter(|line| line.starts_with("C1") && line.ends_with("has no outcome")).count();
    assert_eq!(missing, removed.outcomes.len(), "{text}");
    assert!(text.contains(&format!("C1 one outcome: COMMANDS {}:", removed.after + 1)), "{text}");
    // What is not about them is untouched.
    let to = removed.after.to_string();
    let (code, text, _) = millstream(&server, &["verify", "outcomes", "--to", &to]).await;
    assert_eq!((code, text.lines().next().unwrap().starts_with("C1")), (65, true), "the chain is broken");

    let commit = broker.last(EVENTS, "evt.retail.product.3").await.unwrap().unwrap();
    let again = NewMessage {
        subject: commit.subject,
        expected_last: None,
        headers: Headers::new(),
        payload: commit.payload,
    };
    let sequence = broker.append(EVENTS, again).await.unwrap().sequence;
    let (code, text, _) = millstream(&server, &["verify", "outcomes", "--json"]).await;
    assert_eq!(code, 65);
    let repeated = |line: &Value| {
        line["sequence"] == sequence && line["check"] == "C2 one effect" && line["stream"] == "EVENTS"
    };
    assert!(json_lines(&text).iter().any(repeated), "{text}");
}

/// Anybody who may publish can put such a letter among the others, which have to come out all the same. A carriage return makes
/// the client library panic, which is no crash of the program that meets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_cannot_be_retried_keeps_none_of_the_others_back() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", AggregateRegistry::new()).await;
    publish(&broker, 7, "register", REGISTER, None).await;
    let mut raw = RawClient::connect(&server.url()).await;
    raw.publish("cmd.retail.product.7.register", "NATS/1.0\r\nX: a\rb\r\n\r\n", REGISTER).await;
    let last = publish(&broker, 7, "register", REGISTER, None).await;
    decided(&broker, last).await;
    handler.stop().await;

    let handler = Running::start(&server, "b", millstream_model::aggregates()).await;
    let retry = ["deadletters", "retry", "--aggregate", "retail.product.7"];
    let (code, text, said) = millstream(&server, &retry).await;
    assert_eq!(code, 11, "a letter is left: {text}{said}");
    assert!(text.contains("COMMANDS.1: cmd.retail.product.7.register: accepted"), "{text}");
    assert!(said.contains("COMMANDS.2 stays: its headers cannot be read"), "{said}");
    let (code, text, said) = millstream(&server, &["deadletters", "list", "--json"]).await;
    assert_eq!((code, json_lines(&text).len()), (0, 1), "{text}{said}");
    let (code, _, said) = millstream(&server, &["deadletters", "retry", "2"]).await;
    assert_eq!(code, 64, "{said}");
    let (code, text, said) = millstream(&server, &["verify", "outcomes"]).await;
    assert_eq!(code, 0, "{text}{said}");
    assert!(!said.contains("panicked"), "{said}");
    handler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_decided_anew_in_their_order() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    // A release that does not know the aggregate.
    let handler = Running::start(&server, "a", AggregateRegistry::new()).await;
    for name in ["one", "two", "three"] {
        let body = format!(r#"{{"name":"{name}","supplier":"acme"}}"#);
        publish(&broker, 7, "register", &body, (name == "one").then_some("mine")).await;
    }
    publish(&broker, 8, "register", REGISTER, None).await;
    let broken = publish(&broker, 8, "register", "\u{fffd}{", None).await;
    decided(&broker, broken).await;
    handler.stop().await;

    let (code, text, _) = millstream(&server, &["deadletters", "list"]).await;
    assert_eq!((code, text.lines().count()), (0, 6), "{text}");
    let list = ["deadletters", "list", "--json", "--aggregate", "retail.product.7"];
    let (_, text, _) = millstream(&server, &list).await;
    let names: Vec<Value> = json_lines(&text).iter().map(|letter| letter["letter"].clone()).collect();
    assert_eq!(names, ["COMMANDS.1", "COMMANDS.2", "COMMANDS.3"]);
    let (code, text, _) = millstream(&server, &["deadletters", "show", "1", "--json"]).await;
    assert_eq!(code, 0);
    let letter: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(letter["body"], r#"{"name":"one","supplier":"acme"}"#);
    assert_eq!(
        (&letter["code"], &letter["subject"]),
        (&json!("aggregate-unknown"), &json!("cmd.retail.product.7.register"))
    );
    let (code, _, said) = millstream(&server, &["deadletters", "show", "99"]).await;
    assert_eq!((code, said.trim()), (13, "error: there is no dead letter COMMANDS.99"));

    let handler = Running::start(&server, "b", millstream_model::aggregates()).await;
    let retry = ["deadletters", "retry", "--aggregate", "retail.product.7", "--timeout", "60s"];
    let (code, text, said) = millstream(&server, &retry).await;
    assert_eq!((code, text.lines().count()), (0, 3), "{text}{said}");
    let (_, text, _) = millstream(&server, &["history", "retail", "product", "7", "--json"]).await;
    let history = json_lines(&text);
    let names: Vec<&Value> = history.iter().map(|event| &event["data"]["name"]).collect();
    assert_eq!(names, ["one", "two", "three"]);
    let ids: Vec<&Value> = history.iter().map(|event| &event["command_id"]).collect();
    // Each has what nobody could know before it was set aside.
    for (id, begins, length) in
        [(0, "mine", 0), (1, "dead-letter-COMMANDS-2-", 16), (2, "dead-letter-COMMANDS-3-", 16)]
    {
        let rest = ids.get(id).and_then(|id| id.as_str()).and_then(|id| id.strip_prefix(begins));
        assert_eq!(rest.map(str::len), Some(length), "{ids:?}");
    }
    let (code, _, _) = millstream(&server, &retry).await;
    assert_eq!(code, 13, "they are no dead letters any more");

    // What cannot be read is set aside again, as another letter.
    let broken = format!("COMMANDS.{broken}");
    let (code, text, _) = millstream(&server, &["deadletters", "retry", &broken, "--timeout", "60s"]).await;
    assert_eq!(code, 11, "{text}");
    handler.stop().await;
    let (code, text, _) = millstream(&server, &["deadletters", "drop", "--all"]).await;
    assert_eq!(code, 0);
    assert!(
        text.contains("dropping COMMANDS.4: cmd.retail.product.8.register (aggregate-unknown)"),
        "{text}"
    );
    assert!(text.contains("dropping COMMANDS.9: cmd.retail.product.8.register (body-malformed)"), "{text}");
    assert!(broker.last(DEAD_LETTERS, ">").await.unwrap().is_none());
    let (code, text, _) = millstream(&server, &["verify", "outcomes"]).await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_cut_off_and_repeated_takes_effect_once() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", AggregateRegistry::new()).await;
    let position = publish(&broker, 7, "register", REGISTER, None).await;
    decided(&broker, position).await;
    handler.stop().await;
    let letter = broker.last(DEAD_LETTERS, ">").await.unwrap().unwrap();
    let handler = Running::start(&server, "b", millstream_model::aggregates()).await;
    // Nobody who foresees an id is there before.
    let squatted = publish(&broker, 8, "register", REGISTER, Some("dead-letter-COMMANDS-1")).await;
    decided(&broker, squatted).await;
    let retry = ["deadletters", "retry", "1", "--json", "--timeout", "60s"];
    let (code, text, _) = millstream(&server, &retry).await;
    assert_eq!((code, &json_lines(&text)[0]["outcome"]), (0, &json!("accepted")), "{text}");
    // Cut off before it took the letter away, a retry finds the same letter, and its command has the same id.
    let last = broker.state(COMMANDS).await.unwrap().last_sequence;
    let retried = broker.get(COMMANDS, last).await.unwrap().unwrap();
    let id = letter_of_command_id(position, letter.stored_at, REGISTER.as_bytes());
    assert_eq!(retried.headers.get(header::COMMAND_ID), Some(id.as_str()));
    let again = publish(&broker, 7, "register", REGISTER, Some(&id)).await;
    decided(&broker, again).await;
    let record =
        OutcomeRecord::from_stored(&broker.last(OUTCOMES, "out.0of1").await.unwrap().unwrap()).unwrap();
    let outcome = &record.outcomes.iter().find(|outcome| outcome.position == again).unwrap().outcome;
    assert!(
        matches!(outcome, Outcome::Duplicate { of, other_content: false, .. } if *of == last),
        "{outcome:?}"
    );
    handler.stop().await;
    assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, 2);
}

/// Whoever was behind waited until the end for outcomes that were recorded before it looked.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_retries_of_the_same_letters_is_told_what_became_of_them() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", AggregateRegistry::new()).await;
    for product in 1..=20 {
        let position = publish(&broker, product, "register", REGISTER, None).await;
        decided(&broker, position).await;
    }
    handler.stop().await;
    let handler = Running::start(&server, "b", millstream_model::aggregates()).await;
    let letters: Vec<String> = (1..=20).map(|letter| letter.to_string()).collect();
    let retry = ["deadletters", "retry", "--json", "--timeout", "60s"].map(str::to_owned);
    let retry: Vec<&str> = retry.iter().chain(&letters).map(String::as_str).collect();
    let one = || millstream(&server, &retry);
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    let mut told = 0;
    for (code, text, said) in [a, b, c, d] {
        // Whoever looks for the letters when all are decided finds none, and is told so at once.
        let is_late = code == 13 && text.is_empty() && said.starts_with("error: there is no dead letter");
        assert!(code == 0 || is_late, "{code}: {text}{said}");
        told += usize::from(code == 0);
    }
    assert!(told > 0, "somebody has retried them");
    assert_eq!(broker.state(EVENTS).await.unwrap().last_sequence, 20);
    handler.stop().await;
}

/// A second id was put beside one that its sender had written in another case, which was refused for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_retried_under_its_own_id_however_that_is_written() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", AggregateRegistry::new()).await;
    let message = NewMessage {
        subject: "cmd.retail.product.7.register".to_owned(),
        expected_last: None,
        headers: [("millstream-command-id", "mine")].into_iter().collect(),
        payload: REGISTER.into(),
    };
    let position = broker.append(COMMANDS, message).await.unwrap().sequence;
    decided(&broker, position).await;
    handler.stop().await;
    let handler = Running::start(&server, "b", millstream_model::aggregates()).await;
    let (code, text, said) =
        millstream(&server, &["deadletters", "retry", "1", "--json", "--timeout", "60s"]).await;
    assert_eq!((code, &json_lines(&text)[0]["outcome"]), (0, &json!("accepted")), "{text}{said}");
    let (_, text, _) = millstream(&server, &["history", "retail", "product", "7", "--json"]).await;
    assert_eq!(json_lines(&text)[0]["command_id"], json!("mine"), "{text}");
    handler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_timers_are_decided_as_what_fell_due_and_what_is_no_command_is_refused() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let handler = Running::start(&server, "a", millstream_model::aggregates()).await;
    for (stream, sequence, subject) in [
        (TIMERS, 5, "due.cmd.retail.stock.web:1.receive"),
        (TIMERS, 6, "due.cmd.retail.stock"),
        (EVENTS, 5, "evt.retail.stock.web:1"),
    ] {
        let message = StoredMessage {
            subject: subject.to_owned(),
            sequence,
            stored_at: "2012-01-31T12:00:00Z".parse().unwrap(),
            headers: [("X", "y")].into_iter().collect(),
            payload: "{\"quantity\":1}".into(),
        };
        let letter = DeadLetter::new(stream, &message, "refused", "no");
        let LetterPart { subject, headers, payload } = letter.parts(1 << 20).remove(0);
        let stored = NewMessage { subject, expected_last: Some(0), headers, payload };
        broker.append(DEAD_LETTERS, stored).await.unwrap();
    }
    for asked in ["EVENTS.5", "TIMERS.6"] {
        let (code, _, said) = millstream(&server, &["deadletters", "retry", asked]).await;
        assert_eq!(code, 64);
        assert!(said.contains(&format!("{asked} stays: it is no command")), "{said}");
        assert!(said.contains("none of these letters can be retried"), "{said}");
    }
    assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 0, "nothing was retried");

    let (code, text, said) = millstream(&server, &["deadletters", "retry", "TIMERS.5", "--json"]).await;
    let told = &json_lines(&text)[0];
    assert_eq!(
        (code, &told["outcome"], &told["command_position"]),
        (0, &json!("accepted"), &json!(1)),
        "{said}"
    );
    let command = broker.get(COMMANDS, 1).await.unwrap().unwrap();
    assert_eq!(published_subject(&command.subject), "effect.retail.stock.web:1.receive");
    assert_eq!(command.headers.get("X"), Some("y"));
    assert_eq!(command.headers.get("Millstream-Command-Id"), Some("dead-letter-TIMERS-5"));
    let (_, left, _) = millstream(&server, &["deadletters", "list", "--json"]).await;
    assert_eq!(json_lines(&left).len(), 2, "{left}");
    handler.stop().await;
}

/// The client's own view of a stream, for what Millstream never does.
trait Tampering {
    async fn jetstream_stream(&self, name: &str) -> jetstream::stream::Stream;
}

impl Tampering for TestServer {
    async fn jetstream_stream(&self, name: &str) -> jetstream::stream::Stream {
        jetstream::new(self.client().await).get_stream(name).await.unwrap()
    }
}
