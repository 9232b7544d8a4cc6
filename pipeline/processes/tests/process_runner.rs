//! The process runner against a real nats-server: what it asks for is done once, whatever ends it, and what falls due is
//! sent. What processes of the model do is tested with them; what kills of whole systems do, end to end.
#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{path::Path, time::Duration};

use async_nats::{HeaderMap, jetstream::stream::Config};
use jiff::Timestamp;
use millstream_contract::{
    commit::{Commit, CommittedCommand, EventEnvelope, RecordedEvent},
    dead_letter::DeadLetter,
    header,
    leases::{PROCESS_MANAGER_LEASE, leases_stream, progress_subject},
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, TIMERS},
    subject::CommandAddress,
};
use millstream_domain::{
    process::{Effect, Process, ProcessCommand, ProcessError, Timer},
    projection::Rows,
};
use millstream_jetstream::{
    broker::{Broker, NewMessage},
    dead_letter_store::whole_letter,
    nats_broker::NatsBroker,
    testing::{raw_client::RawClient, test_server::TestServer},
};
use millstream_processes::process_runner::{Begin, ProcessRunner, ProcessRunnerConfig, ProcessRunnerError};
use millstream_runtime::{health::Readiness, metrics::Metrics, shutdown::Shutdown};
use millstream_store::read_store::ReadStore;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Longer than COMMANDS takes where a test says so.
const LOUD: usize = 4_000;
const SIZE_MAX: i32 = 2_000;

/// Answers every call, numbered by a row of its own, and a shout at length; sets and cancels alarms.
struct Echo {
    version: u32,
}

impl Process for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn tables(&self) -> &'static [&'static str] {
        &["echo.heard"]
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        (context, aggregate) == ("test", "valley")
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        let valley = envelope.stream_id.id();
        let command = |name: &str, body: String| ProcessCommand {
            address: CommandAddress::new("test", "mountain", valley, name).unwrap(),
            body: body.into_bytes(),
        };
        Ok(match envelope.event_type {
            "called" => {
                let heard = rows.read::<u64>("echo.heard", valley)?.unwrap_or(0) + 1;
                rows.write("echo.heard", valley, &heard);
                vec![Effect::Send(command("answer", format!("{{\"heard\":{heard}}}")))]
            }
            "shouted" => {
                let echo = "a".repeat(LOUD);
                vec![
                    Effect::Send(command("answer", format!("{{\"heard\":\"{echo}\"}}"))),
                    Effect::Send(command("answer", "{\"heard\":\"the end of it\"}".into())),
                ]
            }
            "alarm-set" => {
                let at = envelope.recorded_at;
                vec![Effect::SetTimer(Timer {
                    name: valley.to_owned(),
                    at,
                    command: command("ring", "{}".into()),
                })]
            }
            "alarm-cancelled" => vec![Effect::CancelTimer(valley.to_owned())],
            other => panic!("{other} is none of the events of this test"),
        })
    }
}

/// The trace of every command here.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An event of a valley, recorded at a time.
async fn record(broker: &NatsBroker, valley: &str, event_type: &'static str, at: Timestamp) -> u64 {
    let command = CommittedCommand {
        id: "cause".into(),
        position: 1,
        actor: Some("anna".into()),
        correlation_id: None,
        causation_id: None,
        traceparent: Some(TRACE.into()),
        partner_of: None,
    };
    let event = RecordedEvent { event_type: event_type.into(), schema: 1, data: vec![0x80], command: 0 };
    let commit = Commit {
        commit_id: ulid::Ulid::generate().to_string().into(),
        first_version: 1,
        recorded_at: i64::try_from(at.as_nanosecond()).unwrap(),
        commands: vec![command],
        events: vec![event],
        previous: None,
    };
    let message = NewMessage {
        subject: format!("evt.test.valley.{valley}"),
        expected_last: None,
        headers: Headers::new(),
        payload: commit.encode().into(),
    };
    broker.append(EVENTS, message).await.unwrap().sequence
}

async fn call(broker: &NatsBroker, valley: &str, times: usize) -> u64 {
    let mut last = 0;
    for _ in 0..times {
        last = record(broker, valley, "called", Timestamp::now()).await;
    }
    last
}

/// A process manager at work.
struct Running {
    metrics: Metrics,
    readiness: Readiness,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), ProcessRunnerError>>,
}

impl Running {
    async fn start(server: &TestServer, folder: &Path, name: &str) -> Self {
        Self::start_version(server, folder, name, 1).await
    }

    async fn start_version(server: &TestServer, folder: &Path, name: &str, version: u32) -> Self {
        Self::start_from(server, folder, name, version, Begin::Start).await
    }

    async fn start_from(server: &TestServer, folder: &Path, name: &str, version: u32, begin: Begin) -> Self {
        let store = open(folder).await;
        let mut config = ProcessRunnerConfig::new(name, &ulid::Ulid::generate().to_string());
        config.lease_time_to_live = Duration::from_secs(1);
        config.begins.insert("echo".to_owned(), begin);
        let (metrics, shutdown, readiness) = (Metrics::new(), Shutdown::new(), Readiness::new());
        let processes: Vec<Box<dyn Process>> = vec![Box::new(Echo { version })];
        let runner =
            ProcessRunner::new(server.broker().await, store, processes, config, metrics.clone(), &readiness);
        let task = tokio::spawn(runner.unwrap().run(shutdown.clone()));
        Self { metrics, readiness, shutdown, task }
    }

    fn sent(&self) -> u64 {
        self.metrics.process("echo").commands.get()
    }

    /// Waits until effects are recorded as carried out up to a sequence of EVENTS.
    async fn until_recorded(&self, broker: &NatsBroker, sequence: u64) {
        until("progress", async || recorded(broker).await.is_some_and(|recorded| recorded >= sequence)).await;
    }

    async fn finish(self) {
        self.shutdown.request();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap().unwrap();
    }

    /// It is cut off where it is, without giving anything back.
    async fn cut_off(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// The file of one that was cut off is free as soon as its writer has noticed.
async fn open(folder: &Path) -> ReadStore {
    let mut store = None;
    until("the file is free", async || {
        store = ReadStore::open(&folder.join("rows.redb"), 4 * 1024 * 1024).ok();
        store.is_some()
    })
    .await;
    store.unwrap()
}

async fn recorded(broker: &NatsBroker) -> Option<u64> {
    let message = broker.last(&leases_stream(), &progress_subject("echo")).await.unwrap()?;
    serde_json::from_slice::<serde_json::Value>(&message.payload).unwrap().get("sequence")?.as_u64()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} does not come about");
}

/// All of a stream.
async fn messages(broker: &NatsBroker, stream: &str) -> Vec<StoredMessage> {
    let state = broker.state(stream).await.unwrap();
    let mut messages = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        messages.extend(broker.get(stream, sequence).await.unwrap());
    }
    messages
}

fn ids(messages: &[StoredMessage]) -> Vec<&str> {
    messages.iter().map(|message| message.headers.get(header::COMMAND_ID).unwrap_or("none")).collect()
}

/// Changes what a stream is like.
async fn alter(server: &TestServer, stream: &str, alter: impl FnOnce(&mut Config)) {
    let context = async_nats::jetstream::new(server.client().await);
    let mut config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
    alter(&mut config);
    context.update_stream(config).await.unwrap();
}

/// The server forgets message ids, as it does after two minutes: what is sent again is stored again.
async fn server() -> TestServer {
    let server = TestServer::start_provisioned().await;
    alter(&server, COMMANDS, |config| config.duplicate_window = Duration::from_millis(100)).await;
    server
}

#[tokio::test]
async fn events_lead_to_commands_in_order_with_ids_of_their_place() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    let mut last = 0;
    for _ in 0..50 {
        for valley in ["a", "b", "c"] {
            last = call(&broker, valley, 1).await;
        }
    }
    running.until_recorded(&broker, last).await;
    let commands = messages(&broker, COMMANDS).await;
    assert_eq!(commands.len(), 150);
    for valley in ["a", "b", "c"] {
        let of_valley =
            commands.iter().filter(|command| command.subject.ends_with(&format!(".{valley}.answer")));
        let bodies: Vec<_> = of_valley.map(|command| String::from_utf8_lossy(&command.payload)).collect();
        let expected: Vec<_> = (1..=50).map(|heard| format!("{{\"heard\":{heard}}}")).collect();
        assert_eq!(bodies, expected, "commands to one aggregate keep their order");
    }
    let first = commands.iter().find(|command| ids(&[(*command).clone()]) == ["echo:1.1.0"]).unwrap();
    let header = |name| first.headers.get(name);
    assert_eq!(
        (header(header::ACTOR), header(header::CORRELATION_ID), header(header::CAUSATION_ID)),
        (Some("process:echo"), Some("cause"), Some("test.valley.a/1"))
    );
    assert_eq!(header(header::TRACE_PARENT), Some(TRACE));
    running.finish().await;
}

#[tokio::test]
async fn rows_that_are_lost_or_of_another_version_are_built_again_without_sending() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    let last = call(&broker, "a", 20).await;
    running.until_recorded(&broker, last).await;
    running.finish().await;
    let before = broker.state(COMMANDS).await.unwrap().last_sequence;

    let other = TempDir::new().unwrap();
    for (folder, version) in [(&other, 1), (&folder, 2)] {
        let running = Running::start_version(&server, folder.path(), "process-manager", version).await;
        let new = call(&broker, "a", 1).await;
        running.until_recorded(&broker, new).await;
        assert_eq!(running.sent(), 1, "only the new event's command is sent");
        running.finish().await;
    }
    let commands = messages(&broker, COMMANDS).await;
    assert_eq!(commands.len() as u64, before + 2);
    assert_eq!(commands.last().unwrap().payload, r#"{"heard":22}"#, "the rows were built from all events");
}

#[tokio::test]
async fn being_cut_off_loses_nothing_and_repeats_only_under_the_same_id() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    let mut last = 0;
    for round in 0..6 {
        let running = Running::start(&server, folder.path(), "process-manager").await;
        last = call(&broker, "a", 30).await;
        // Somewhere in the middle of it.
        until("the next command", async || running.sent() > round).await;
        running.cut_off().await;
    }
    let running = Running::start(&server, folder.path(), "process-manager").await;
    running.until_recorded(&broker, last).await;
    running.finish().await;
    let commands = messages(&broker, COMMANDS).await;
    let mut ids = ids(&commands);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 180, "every event's command is there");
    for command in &commands {
        let id = command.headers.get(header::COMMAND_ID).unwrap();
        let same = commands.iter().filter(|other| other.headers.get(header::COMMAND_ID) == Some(id));
        assert!(same.clone().all(|other| other.payload == command.payload), "{id} says different things");
    }
}

fn bodies(messages: &[StoredMessage]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

#[tokio::test]
async fn what_the_server_never_takes_is_set_aside_and_nothing_waits_behind_it() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    alter(&server, COMMANDS, |config| config.max_message_size = SIZE_MAX).await;
    call(&broker, "a", 2).await;
    record(&broker, "a", "shouted", Timestamp::now()).await;
    call(&broker, "b", 1).await;
    let last = call(&broker, "a", 1).await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    running.until_recorded(&broker, last).await;
    let commands = messages(&broker, COMMANDS).await;
    let to_a: Vec<StoredMessage> =
        commands.into_iter().filter(|command| command.subject.ends_with(".a.answer")).collect();
    let heard = [1, 2].map(|heard| format!("{{\"heard\":{heard}}}"));
    let end = "{\"heard\":\"the end of it\"}".to_owned();
    assert_eq!(bodies(&to_a), [&heard[0], &heard[1], &end, &"{\"heard\":3}".to_owned()].map(String::as_str));

    let letters = messages(&broker, DEAD_LETTERS).await;
    let letter = DeadLetter::from_stored(letters.first().unwrap(), &[]).unwrap();
    assert_eq!(
        (letters.len(), letter.name().as_str(), letter.subject.as_str(), letter.code.as_str()),
        (1, "EVENTS.3-echo-1-0", "effect.test.mountain.a.answer", "effect-refused")
    );
    assert!(letter.payload.len() > LOUD && letter.cause.contains("maximum"), "{letter:?}");
    assert_eq!(letter.headers.get(header::COMMAND_ID), Some("echo:3.1.0"));
    assert_eq!(running.metrics.process("echo").dead_letters.get(), 1);
    running.finish().await;
}

#[tokio::test]
async fn what_the_server_does_not_take_now_is_told_and_sent_when_there_is_room() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    alter(&server, COMMANDS, |config| config.max_bytes = 600).await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    let last = call(&broker, "a", 10).await;
    until("effects are held", async || running.metrics.process("echo").effects_held.get() > 0).await;
    until("it is not ready", async || {
        running.readiness.reasons().iter().any(|reason| {
            reason.starts_with("effects of echo: ") && reason.contains("stream COMMANDS is full")
        })
    })
    .await;
    alter(&server, COMMANDS, |config| config.max_bytes = 1 << 20).await;
    running.until_recorded(&broker, last).await;
    until("it is ready", async || running.readiness.reasons().is_empty()).await;
    let expected: Vec<_> = (1..=10).map(|heard| format!("{{\"heard\":{heard}}}")).collect();
    assert_eq!(bodies(&messages(&broker, COMMANDS).await), expected, "in order, each once");
    running.finish().await;
}

#[tokio::test]
async fn a_new_process_begins_where_it_is_told_once() {
    let server = server().await;
    let broker = server.broker().await;
    call(&broker, "a", 20).await;
    let folder = TempDir::new().unwrap();
    let begin = async |folder: &TempDir, begin| {
        Running::start_from(&server, folder.path(), "process-manager", 1, begin).await
    };
    let running = begin(&folder, Begin::Now).await;
    until("it has begun", async || recorded(&broker).await == Some(20)).await;
    let last = call(&broker, "a", 1).await;
    running.until_recorded(&broker, last).await;
    running.finish().await;
    let commands = messages(&broker, COMMANDS).await;
    assert_eq!(
        bodies(&commands),
        ["{\"heard\":21}"],
        "it knows of the calls before, and does not answer them"
    );

    // Its file is gone, and it is told something else: what has begun goes on.
    let other = TempDir::new().unwrap();
    let running = begin(&other, Begin::Start).await;
    let last = call(&broker, "a", 1).await;
    running.until_recorded(&broker, last).await;
    running.finish().await;
    assert_eq!(bodies(&messages(&broker, COMMANDS).await), ["{\"heard\":21}", "{\"heard\":22}"]);
}

#[tokio::test]
async fn a_new_process_begins_behind_a_sequence_that_there_is() {
    let server = server().await;
    let broker = server.broker().await;
    let last = call(&broker, "a", 5).await;
    let folder = TempDir::new().unwrap();
    let running = Running::start_from(&server, folder.path(), "p", 1, Begin::After(last + 1)).await;
    let ended = tokio::time::timeout(PATIENCE, running.task).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(ProcessRunnerError::BeginsBehindEnd { named: 6, last: 5, .. })), "{ended:?}");
    let running = Running::start_from(&server, folder.path(), "p", 1, Begin::After(last - 2)).await;
    running.until_recorded(&broker, last).await;
    assert_eq!(bodies(&messages(&broker, COMMANDS).await), ["{\"heard\":4}", "{\"heard\":5}"]);
    running.finish().await;
}

#[tokio::test]
async fn one_is_active_and_the_next_goes_on_where_it_stopped() {
    let server = server().await;
    let broker = server.broker().await;
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let first = Running::start(&server, folders[0].path(), "process-manager-1").await;
    until("the first is active", async || first.metrics.process_active().get() == 1).await;
    let second = Running::start(&server, folders[1].path(), "process-manager-2").await;
    let last = call(&broker, "a", 10).await;
    first.until_recorded(&broker, last).await;
    assert_eq!((first.sent(), second.sent(), second.metrics.process_active().get()), (10, 0, 0));

    first.finish().await;
    until("the second is active", async || second.metrics.process_active().get() == 1).await;
    let last = call(&broker, "a", 5).await;
    second.until_recorded(&broker, last).await;
    assert_eq!(second.sent(), 5, "what the first has carried out is not carried out again");

    let third = Running::start(&server, folders[0].path(), "process-manager-1").await;
    second.cut_off().await;
    let last = call(&broker, "a", 5).await;
    third.until_recorded(&broker, last).await;
    assert_eq!(ids(&messages(&broker, COMMANDS).await).len(), 20);
    third.finish().await;
    let lease = format!("$KV.LEASES.{PROCESS_MANAGER_LEASE}");
    assert!(broker.last(&leases_stream(), &lease).await.unwrap().unwrap().payload.is_empty(), "given back");
}

#[tokio::test]
async fn timers_of_a_process_fire_once_and_can_be_cancelled() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    let hour = jiff::SignedDuration::from_hours(1);
    record(&broker, "past", "alarm-set", Timestamp::now() - hour).await;
    record(&broker, "future", "alarm-set", Timestamp::now() + hour).await;
    let last = record(&broker, "cancelled", "alarm-set", Timestamp::now() + hour).await;
    running.until_recorded(&broker, last).await;
    until("both are set", async || messages(&broker, TIMERS).await.len() == 2).await;
    let last = record(&broker, "cancelled", "alarm-cancelled", Timestamp::now()).await;
    running.until_recorded(&broker, last).await;

    until("the alarm of the past rings", async || broker.state(COMMANDS).await.unwrap().last_sequence > 0)
        .await;
    let commands = messages(&broker, COMMANDS).await;
    assert_eq!((commands.len(), ids(&commands)), (1, vec!["echo:1.1.0"]));
    assert_eq!(commands[0].subject, "effect.test.mountain.past.ring");
    assert_eq!(commands[0].headers.get(header::ACTOR), Some("process:echo"));
    until("what was carried out is gone", async || {
        let left = messages(&broker, TIMERS).await;
        left.iter().map(|message| &*message.subject).eq(["timer.cmd.echo:future"])
    })
    .await;
    running.finish().await;
}

/// Schedules what anybody may: `nats pub --schedule-at … --schedule-dest …` does the same.
async fn schedule(server: &TestServer, name: &str, target: &str, body: &'static str) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Schedule", "@at 2020-01-01T00:00:00Z");
    headers.insert("Nats-Schedule-Target", target);
    headers.insert(header::ACTOR, "anna");
    let context = async_nats::jetstream::new(server.client().await);
    let published = context.publish_with_headers(format!("timer.cmd.{name}"), headers, body.into()).await;
    published.unwrap().await.unwrap();
}

#[tokio::test]
async fn what_fell_due_while_nobody_ran_is_sent_once_under_an_id_of_its_place() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    schedule(&server, "x", "due.cmd.test.valley.a.call", r#"{"loud":true}"#).await;
    schedule(&server, "y", "due.cmd.test.valley", "{}").await;
    until("both are due", async || {
        messages(&broker, TIMERS).await.iter().filter(|message| message.subject.starts_with("due.")).count()
            == 2
    })
    .await;
    let due = messages(&broker, TIMERS).await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    until("all of TIMERS is carried out", async || messages(&broker, TIMERS).await.is_empty()).await;
    running.finish().await;

    let commands = messages(&broker, COMMANDS).await;
    let place = due.iter().find(|message| message.subject.ends_with(".call")).unwrap().sequence;
    let generation = broker.state(TIMERS).await.unwrap().generation;
    assert_eq!(ids(&commands), [format!("timer:{generation}.{place}")]);
    assert_eq!(
        (&*commands[0].payload, commands[0].headers.get(header::ACTOR)),
        (&br#"{"loud":true}"#[..], Some("anna"))
    );
    let letters = messages(&broker, DEAD_LETTERS).await;
    let letter = DeadLetter::from_stored(letters.first().unwrap(), &[]).unwrap();
    assert_eq!(
        (letters.len(), &*letter.subject, &*letter.code),
        (1, "due.cmd.test.valley", "subject-not-allowed")
    );
}

/// COMMANDS drops what comes under a message id that it has seen, whoever sent the first; anybody may choose one that a command of
/// a process or a timer will have as its id.
#[tokio::test]
async fn what_falls_due_is_stored_although_somebody_used_its_id_as_a_message_id() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    let context = async_nats::jetstream::new(server.client().await);
    let generation = broker.state(TIMERS).await.unwrap().generation;
    let squatted = (1..=9).map(|place| format!("timer:{generation}.{place}"));
    let squatted: Vec<String> = squatted.chain(["echo:1.1.0".to_owned()]).collect();
    for id in &squatted {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, id.as_str());
        let sent = context.publish_with_headers("cmd.test.valley.b.call", headers, "{}".into()).await;
        sent.unwrap().await.unwrap();
    }
    schedule(&server, "x", "due.cmd.test.valley.a.call", r#"{"loud":true}"#).await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    record(&broker, "past", "alarm-set", Timestamp::UNIX_EPOCH).await;
    until("both have fallen due and are carried out", async || {
        let left = broker.state(TIMERS).await.unwrap();
        left.last_sequence >= 4 && left.usage.messages == 0
    })
    .await;
    running.finish().await;
    let commands = messages(&broker, COMMANDS).await;
    let mut effects: Vec<&str> = commands[squatted.len()..].iter().map(|command| &*command.subject).collect();
    effects.sort_unstable();
    assert_eq!(effects, ["effect.test.mountain.past.ring", "effect.test.valley.a.call"]);
}

#[tokio::test]
async fn events_that_were_lost_after_they_had_been_carried_out_stop_it() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    call(&broker, "a", 1).await;
    let generation = broker.state(EVENTS).await.unwrap().generation;
    let progress = NewMessage {
        subject: progress_subject("echo"),
        expected_last: None,
        headers: Headers::new(),
        payload: serde_json::json!({ "generation": generation, "sequence": 7 }).to_string().into(),
    };
    broker.append(&leases_stream(), progress).await.unwrap();
    let running = Running::start(&server, folder.path(), "process-manager").await;
    let ended = tokio::time::timeout(PATIENCE, running.task).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(ProcessRunnerError::LostTail { named: 7, last: 1, .. })), "{ended:?}");
    assert!(messages(&broker, COMMANDS).await.is_empty());
}

#[tokio::test]
async fn a_timer_that_cannot_be_a_command_is_kept_whole_and_the_next_is_sent() {
    let (server, folder) = (server().await, TempDir::new().unwrap());
    let broker = server.broker().await;
    let max = broker.message_bytes_max();
    let mut raw = RawClient::connect(&server.url()).await;
    // As large as a message may be: as a command it would have further headers, and its letter has more of them.
    let large = vec![b' '; max];
    raw.publish("due.cmd.test.valley.a.call", "", &large).await;
    let strange = "NATS/1.0\r\nX: a\rb\r\n\r\n";
    raw.publish("due.cmd.test.valley.a.call", strange, "strange").await;
    raw.publish("due.cmd.test.valley.a\u{a0}b.call", "NATS/1.0\r\nX: y\r\n\r\n", "space").await;
    schedule(&server, "x", "due.cmd.test.valley.a.call", r#"{"loud":true}"#).await;
    let running = Running::start(&server, folder.path(), "process-manager").await;
    until("the command is sent", async || messages(&broker, COMMANDS).await.len() == 1).await;
    until("all of TIMERS is carried out", async || messages(&broker, TIMERS).await.is_empty()).await;
    assert_eq!((running.metrics.dead_letters(TIMERS).get(), running.metrics.timers_due().get()), (3, 1));
    running.finish().await;
    let mut found = Vec::new();
    for message in messages(&broker, DEAD_LETTERS).await {
        found.extend(whole_letter(&broker, &message).await.unwrap());
    }
    found.sort_by_key(|letter| letter.sequence);
    let codes: Vec<_> = found.iter().map(|letter| letter.code.as_str()).collect();
    assert_eq!(codes, ["command-refused", "headers-unreadable", "subject-not-allowed"]);
    assert_eq!(found[0].payload, large);
    assert_eq!((&found[1].headers.block()[..], &*found[1].payload), (strange.as_bytes(), &b"strange"[..]));
    assert_eq!(found[2].subject, "due.cmd.test.valley.a\u{a0}b.call");
}
