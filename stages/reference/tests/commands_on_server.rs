//! The real `millstream` program against a real nats-server. Where a handler is needed, one that accepts or rejects by
//! the command's name stands in: what is tested here is the command line.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    io::{BufRead as _, Read as _, Write as _},
    process::{Command, Output, Stdio},
    time::Duration,
};

use millstream_contract::{
    command::CommandEnvelope,
    commit::{Commit, CommittedCommand, RecordedEvent, timestamp_to_nanoseconds},
    outcome::{CommandOutcome, Generations, Outcome, OutcomeRecord, RecordKind},
    stored_message::Headers,
    stream_names,
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage, ReaderConfig, StreamReader as _},
    nats_broker::NatsBroker,
    testing::{restricted_server::RestrictedServer, test_server::TestServer},
};
use nix::sys::signal::Signal;
use serde_json::Value;

fn millstream(server: &TestServer, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["--server", &server.url()]).args(arguments).stdin(Stdio::null());
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn run(server: &TestServer, arguments: &[&str]) -> (i32, String, String) {
    let output = output(millstream(server, arguments)).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Decides every command of COMMANDS by its name, with a record for each batch: `refuse` is rejected, all else accepted;
/// a known id is a duplicate. Ends with the test.
fn stand_in_handler(broker: NatsBroker) {
    tokio::spawn(async move {
        let config = ReaderConfig {
            stream: stream_names::COMMANDS.to_owned(),
            name: "stand-in".to_owned(),
            description: String::new(),
            after: 0,
            filters: Vec::new(),
            replace_live: false,
        };
        let mut reader = broker.read(config).await.unwrap();
        let mut known = std::collections::HashMap::new();
        let mut after = 0;
        loop {
            let messages = reader.next_batch(500).await.unwrap();
            let mut outcomes = Vec::new();
            for message in &messages {
                let envelope = CommandEnvelope::from_stored(message).unwrap();
                let decided = match (envelope.address.command.as_ref(), envelope.address.stream_id.id()) {
                    ("refuse", _) | (_, "refuse_2026-01-31") => {
                        Outcome::Rejected { code: "refused".into(), message: "it is refused".into() }
                    }
                    _ => Outcome::Accepted { sequence: 1, version: 1, events: 1 },
                };
                let outcome = match known.get(&envelope.id) {
                    Some((of, first)) => Outcome::Duplicate {
                        of: *of,
                        first: Box::new(Outcome::clone(first)),
                        other_content: false,
                    },
                    None => decided.clone(),
                };
                known.entry(envelope.id.clone()).or_insert((envelope.position, decided));
                outcomes.push(CommandOutcome {
                    position: envelope.position,
                    id: envelope.id.clone(),
                    address: envelope.address.to_string().into(),
                    outcome,
                    content: None,
                });
            }
            let through = messages.last().unwrap().sequence;
            let record = OutcomeRecord {
                record_id: format!("record-{through}").into(),
                kind: RecordKind::Outcomes,
                handler: "stand-in".into(),
                after,
                through,
                events_through: 0,
                outcomes,
                generations: Generations::default(),
            };
            after = through;
            let message = NewMessage {
                subject: "out.0".to_owned(),
                expected_last: None,
                headers: Headers::new(),
                payload: record.encode().into(),
            };
            while broker.append(stream_names::OUTCOMES, message.clone()).await.is_err() {}
        }
    });
}

#[tokio::test]
async fn setup_makes_streams_and_finds_them_again() {
    let server = TestServer::start().await;
    let (code, made, _) = run(&server, &["setup", "--json", "--max-bytes", "EVENTS=1GiB"]).await;
    assert_eq!(code, 0);
    assert!(json_lines(&made).iter().all(|stream| stream["presence"] == "created"));
    let (code, found, _) = run(&server, &["setup"]).await;
    assert_eq!(code, 0, "{found}");
    assert!(found.lines().all(|line| line.contains("as defined")), "{found}");
    let (code, _, error) = run(&server, &["setup", "--max-bytes", "EVENT=1GiB"]).await;
    assert_eq!(code, 64);
    assert!(error.contains("there is no stream EVENT"), "{error}");
}

#[tokio::test]
async fn setup_makes_commands_begin_behind_what_kept_events_name() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let message = NewMessage {
        subject: "evt.retail.till.1".to_owned(),
        expected_last: None,
        headers: Headers::new(),
        payload: commit(1).encode().into(),
    };
    broker.append(stream_names::EVENTS, message).await.unwrap();
    let (code, _, error) = run(&server, &["setup", "--commands-after", "9"]).await;
    assert_eq!(code, 64);
    assert!(error.contains("COMMANDS is there already"), "{error}");

    let context = async_nats::jetstream::new(server.client().await);
    for (arguments, first) in [(&["setup"][..], 6), (&["setup", "--commands-after", "9"][..], 10)] {
        context.delete_stream(stream_names::COMMANDS).await.unwrap();
        let (code, made, said) = run(&server, arguments).await;
        assert_eq!(code, 0, "{made}{said}");
        assert!(said.contains(&format!("COMMANDS begins behind {}", first - 1)), "{said}");
        let state = broker.state(stream_names::COMMANDS).await.unwrap();
        assert_eq!((state.first_sequence, state.last_sequence), (first, first - 1));
        let (code, found, _) = run(&server, &["setup"]).await;
        assert_eq!(code, 0, "{found}");
    }
    context.delete_stream(stream_names::COMMANDS).await.unwrap();
    let (code, _, error) = run(&server, &["setup", "--commands-after", "4"]).await;
    assert_eq!(code, 64);
    assert!(error.contains("EVENTS and DEADLETTERS name positions up to 5"), "{error}");
}

/// A letter of a stream that was made anew would stand on the subject of an old one, be taken for it and not be kept.
#[tokio::test]
async fn setup_makes_streams_begin_behind_what_kept_dead_letters_name() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    for subject in ["dlq.COMMANDS.7", "dlq.COMMANDS.12_2", "dlq.TIMERS.4", "dlq.EVENTS.90-stock-keeping-3-0"]
    {
        let message = NewMessage {
            subject: subject.to_owned(),
            expected_last: Some(0),
            headers: Headers::new(),
            payload: "letter".into(),
        };
        broker.append(stream_names::DEAD_LETTERS, message).await.unwrap();
    }
    let context = async_nats::jetstream::new(server.client().await);
    for stream in [stream_names::COMMANDS, stream_names::TIMERS] {
        context.delete_stream(stream).await.unwrap();
    }
    let (code, made, said) = run(&server, &["setup"]).await;
    assert_eq!(code, 0, "{made}{said}");
    for (stream, after) in [(stream_names::COMMANDS, 12), (stream_names::TIMERS, 4)] {
        assert!(said.contains(&format!("{stream} begins behind {after}:")), "{said}");
        assert_eq!(broker.state(stream).await.unwrap().first_sequence, after + 1, "{stream}");
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_meant_are_refused() {
    let server = TestServer::start_provisioned().await;
    let send = ["send", "retail", "stock", "a:b", "receive", r#"{"quantity":1}"#];
    for (arguments, words) in [
        ([&send[..], &["--id", "a\r\nX: y"]].concat(), "control characters"),
        ([&send[..], &["--id", ""]].concat(), "blank"),
        ([&send[..], &["--actor", " "]].concat(), "blank"),
        (vec!["events", "set-aside", "1", "--actor", "", "--reason", "x"], "blank"),
        (vec!["events", "show", "0"], "write a whole number from 1"),
        (vec!["check", "--config", "no/such/folder"], "no/such/folder is no folder"),
    ] {
        let (code, _, error) = run(&server, &arguments).await;
        assert_eq!(code, 64, "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    assert_eq!(server.broker().await.state(stream_names::COMMANDS).await.unwrap().last_sequence, 0);
}

#[tokio::test]
async fn import_does_not_overwrite_what_it_reads() {
    let server = TestServer::start_provisioned().await;
    let folder = tempfile::tempdir().unwrap();
    let (rows, map) = (folder.path().join("rows.csv"), folder.path().join("map.toml"));
    let text = "sku,supplier\na,luxco\n";
    std::fs::write(&rows, text).unwrap();
    let mapping = r#"
        name = "products"
        context = "retail"
        identity = "content"
        [[command]]
        aggregate = "product"
        id = "{sku}"
        command = "register"
        body = { name = "{sku}", supplier = "{supplier}" }
    "#;
    std::fs::write(&map, mapping).unwrap();
    let (hard, soft) = (folder.path().join("hard.csv"), folder.path().join("soft.csv"));
    std::fs::hard_link(&rows, &hard).unwrap();
    std::os::unix::fs::symlink(&map, &soft).unwrap();
    let [rows, map, hard, soft] = [&rows, &map, &hard, &soft].map(|path| path.to_str().unwrap());
    for (rejects, kept) in [(rows, text), (map, mapping), (hard, text), (soft, mapping)] {
        let (code, _, error) = run(&server, &["import", "--map", map, "--rejects", rejects, rows]).await;
        assert_eq!((code, std::fs::read_to_string(rejects).unwrap().as_str()), (64, kept), "{error}");
        assert!(error.contains("is there already and is not written over"), "{error}");
    }
}

/// Its consumer stayed until the server was started again.
#[tokio::test]
async fn an_import_that_ends_early_leaves_no_consumer_for_good() {
    let server = TestServer::start_provisioned().await;
    let folder = tempfile::tempdir().unwrap();
    let (rows, map) = (folder.path().join("rows.csv"), folder.path().join("map.toml"));
    std::fs::write(&rows, "sku\ntea\ngin\n").unwrap();
    let mapping = "name = \"products\"\ncontext = \"retail\"\nidentity = [\"{sku}\"]\n[[command]]\naggregate = \"product\"\n\
                   id = \"{sku}\"\ncommand = \"register\"\nbody = { name = \"{sku}\", supplier = \"one\" }\n";
    std::fs::write(&map, mapping).unwrap();
    let [rows, map] = [&rows, &map].map(|path| path.to_str().unwrap());
    let client = server.client().await;
    let consumers = async || -> Vec<Value> {
        let answer = client.request("$JS.API.CONSUMER.LIST.OUTCOMES", "".into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()["consumers"].as_array().unwrap().clone()
    };
    let importing = async |signal: Signal| {
        // There is no handler: it waits.
        let mut command = millstream(&server, &["import", "--map", map, rows]);
        let child = command.current_dir(folder.path()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = async {
            while consumers().await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), begun).await.expect("the import begins");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
    };
    let ended = importing(Signal::SIGTERM).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(12), "{said}");
    assert!(
        said.contains("interrupted; ") && said.contains("To go on, import the same file again"),
        "{said}"
    );
    assert_eq!(consumers().await, Vec::<Value>::new());
    importing(Signal::SIGKILL).await;
    let left = consumers().await;
    let names = left[0]["name"].as_str().unwrap();
    assert!(names.starts_with("import-"), "{left:?}");
    assert_eq!(left[0]["config"]["inactive_threshold"], 300_000_000_000_u64, "the server forgets it then");
}

#[tokio::test]
async fn unreachable_server_is_named() {
    let mut server = TestServer::start().await;
    server.kill().await;
    let mut command = millstream(&server, &["history", "retail", "till", "x"]);
    command.env("MILLSTREAM_NATS__CONNECT_TIMEOUT", "100ms");
    let answer = output(command).await;
    assert_eq!(answer.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&answer.stderr).contains(&server.url()));
}

#[tokio::test]
async fn outcome_of_a_sent_command_decides_the_exit_code() {
    let server = TestServer::start_provisioned().await;
    stand_in_handler(server.broker().await);
    let send = ["send", "retail", "till", "1_2012-01-31"];
    let with = |rest: &[&'static str]| send.iter().copied().chain(rest.iter().copied()).collect::<Vec<_>>();

    let (code, text, _) = run(&server, &with(&["close", "{}", "--id", "one", "--json"])).await;
    assert_eq!(code, 0);
    let reply: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&reply["outcome"], &reply["command_id"]), (&"accepted".into(), &"one".into()));

    let (code, text, _) = run(&server, &with(&["close", "{}", "--id", "one"])).await;
    assert_eq!(code, 0);
    assert!(text.contains("duplicate of the command at position 1, which was accepted"), "{text}");

    let (code, text, _) = run(&server, &with(&["refuse"])).await;
    assert_eq!(code, 10);
    assert!(text.contains("rejected (refused): it is refused"), "{text}");
}

#[tokio::test]
async fn command_that_nobody_decides_is_no_success() {
    let server = TestServer::start_provisioned().await;
    let (code, _, error) =
        run(&server, &["send", "retail", "till", "1", "close", "{}", "--timeout", "200ms", "--id", "mine"])
            .await;
    assert_eq!(code, 12);
    assert!(error.contains("--id mine"), "{error}");
}

#[tokio::test]
async fn command_that_cannot_be_stored_is_refused_before_it_is_sent() {
    let server = TestServer::start_provisioned().await;
    let (code, _, error) = run(&server, &["send", "retail", "till", "a b", "close"]).await;
    assert_eq!(code, 64);
    assert!(error.contains("id \"a b\" is not allowed"), "{error}");

    let mut command = millstream(&server, &["send", "retail", "till", "1", "close", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 2 * 1024 * 1024]).unwrap();
    let answer = child.wait_with_output().unwrap();
    assert_eq!(answer.status.code(), Some(65));
    let error = String::from_utf8_lossy(&answer.stderr);
    assert!(error.contains("2097152 bytes") && error.contains("1048576"), "{error}");
}

fn commit(version: u64) -> Commit {
    #[derive(serde::Serialize)]
    struct Closed {
        till: u64,
    }
    Commit {
        commit_id: format!("commit-{version}").into(),
        first_version: version,
        recorded_at: timestamp_to_nanoseconds("2012-01-31T12:00:00Z".parse().unwrap()),
        commands: vec![CommittedCommand {
            id: "c".into(),
            position: 5,
            actor: Some("ann".into()),
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            partner_of: None,
        }],
        events: vec![RecordedEvent {
            event_type: "till-closed".into(),
            schema: 1,
            data: rmp_serde::to_vec_named(&Closed { till: version }).unwrap(),
            command: 0,
        }],
        previous: None,
    }
}

#[tokio::test]
async fn history_lists_every_event_and_decode_shows_one_commit() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    for version in 1..=3 {
        let message = NewMessage {
            subject: "evt.retail.till.1".to_owned(),
            expected_last: None,
            headers: Headers::new(),
            payload: commit(version).encode().into(),
        };
        broker.append(stream_names::EVENTS, message).await.unwrap();
    }
    let (code, text, _) = run(&server, &["history", "retail", "till", "1", "--json"]).await;
    assert_eq!(code, 0);
    let events = json_lines(&text);
    assert_eq!(events.len(), 3);
    assert_eq!(
        events[2],
        serde_json::json!({
            "sequence": 3, "version": 3, "recorded_at": "2012-01-31T12:00:00Z", "type": "till-closed", "schema": 1,
            "data": {"till": 3}, "command_id": "c", "actor": "ann",
        })
    );
    let (_, table, _) = run(&server, &["history", "retail", "till", "1"]).await;
    assert_eq!(table.lines().count(), 4, "{table}");

    let mut child =
        millstream(&server, &["decode"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&commit(7).encode()).unwrap();
    let decoded: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(decoded["first_version"], 7);
    assert_eq!(decoded["events"][0]["data"]["till"], 7);
}

#[tokio::test]
async fn import_ends_with_every_row_accounted_for_though_the_broker_is_killed() {
    let mut server = TestServer::start_provisioned().await;
    stand_in_handler(server.broker().await);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(
        path("map.toml"),
        r#"
            name = "test"
            context = "retail"
            identity = "content"
            [[command]]
            aggregate = "product"
            id = "{item}"
            command = "register"
            once = true
            body = { name = "{item}", supplier = "one" }
            [[command]]
            aggregate = "till"
            id = "{store}_2026-01-31"
            command = "record-sale"
            [command.body]
            sale = "{row}"
            currency = "USD"
            lines = [{ sku = "{item}", quantity = 1, unit_price = { decimal = "{price}", places = 2 } }]
        "#,
    )
    .unwrap();
    let mut file = "item,store,price\n".to_owned();
    for row in 1..=20_000 {
        let price = if row % 1000 == 0 { String::new() } else { format!("{row}.5") };
        let store = if row % 1000 == 1 { "refuse".to_owned() } else { (row % 7).to_string() };
        file += &format!("{},{store},{price}\n", row % 50);
    }
    std::fs::write(path("rows.csv"), file).unwrap();
    let (map, rows, rejects) = (path("map.toml"), path("rows.csv"), path("rejects.csv"));
    let arguments = ["import", "--map", map.as_str(), rows.as_str(), "--rejects", rejects.as_str(), "--json"];

    let first = tokio::spawn(output(millstream(&server, &arguments)));
    let broker = server.broker().await;
    for part in [2_000, 9_000] {
        let stored = async {
            while broker.state(stream_names::COMMANDS).await.unwrap().last_sequence < part {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), stored).await.expect("the import makes progress");
        server.kill().await;
        server.restart().await;
    }
    let first = first.await.unwrap();
    assert_eq!(first.status.code(), Some(10), "{}", String::from_utf8_lossy(&first.stderr));
    let summary: Value = serde_json::from_slice(&first.stdout).unwrap();
    let figures =
        |summary: &Value| ["rows", "new", "refused", "known"].map(|name| summary[name].as_u64().unwrap());
    assert_eq!(figures(&summary), [20_000, 19_960, 40, 0]);
    let mut refused = csv::Reader::from_path(&rejects).unwrap();
    let reasons: Vec<(u64, String)> = refused
        .records()
        .map(|record| record.unwrap())
        .map(|record| (record[1].parse().unwrap(), record[2].to_owned()))
        .collect();
    assert!(reasons.is_sorted(), "{reasons:?}");
    assert_eq!(reasons.len(), 40);
    assert_eq!(&reasons[..2], &[(2, "refused".to_owned()), (1001, "column-empty".to_owned())]);

    std::fs::remove_file(&rejects).unwrap();
    let (code, again, _) = run(&server, &arguments).await;
    assert_eq!(code, 10);
    assert_eq!(figures(&serde_json::from_str(&again).unwrap()), [20_000, 0, 40, 19_960]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_ask_is_told_so_at_once() {
    let user = ("visitor".to_owned(), vec!["query.>".to_owned()], vec!["_INBOX.>".to_owned()]);
    let server = RestrictedServer::start(&[user]).await;
    let visit = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["--server", &server.url()]).args(arguments).stdin(Stdio::null());
        command.env("NATS_USER", "visitor").env("NATS_PASSWORD", RestrictedServer::PASSWORD);
        let output = output(command).await;
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = visit(&["history", "retail", "till", "1_2026-01-31"]).await;
    assert_eq!(code, 77, "{text}");
    assert!(text.contains("not allowed: the server does not let this user publish to $JS.API."), "{text}");
    let (code, text) = visit(&["doctor"]).await;
    assert_eq!(code, 77, "{text}");
    for line in [
        "trouble streams: not allowed",
        "trouble reader projector of EVENTS: not allowed",
        "trouble dead letters: not allowed",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_mean_nothing_are_told_from_names_that_have_no_events() {
    let server = TestServer::start_provisioned().await;
    let (code, _, text) = run(&server, &["history", "retail", "till", "1_2026-01-31"]).await;
    assert_eq!(code, 13, "{text}");
    assert!(text.contains("has no events"), "{text}");
    let (code, _, text) = run(&server, &["history", "retail", "tilt", "1_2026-01-31"]).await;
    assert_eq!(code, 64, "{text}");
    assert!(
        text.contains("there are no rules of retail.tilt; there are comments.comment, millstream.set-aside, orders.order"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_a_server_of_its_own_takes_no_other() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, text) = run(&server, &["up", "--dir", folder.path().to_str().unwrap()]).await;
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("--server is not for this command: `up` runs a server of its own"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_compares_the_time_zones_of_the_stages_that_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    let check = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["check", "--config"]).arg(folder.path()).stdin(Stdio::null());
        let output = output(command).await;
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let zone = "time_zone = \"Europe/Berlin\"\n";
    let write = |stage: &str| {
        let text = format!("[{}]\n{zone}", stage.replace('-', "_"));
        std::fs::write(folder.path().join(format!("{stage}.toml")), text).unwrap();
    };
    write("process-manager");
    let (code, said) = check().await;
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("command_handler.time_zone is \"UTC\", but process_manager.time_zone is"),
        "{said}"
    );
    write("command-handler");
    let (code, said) = check().await;
    assert_eq!(code, 0, "{said}");
}

/// It took ten minutes when the server went away while it looked.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_ends_soon_when_the_server_falls_silent() {
    let server = TestServer::start_provisioned().await;
    let mut command = millstream(&server, &["doctor"]);
    let mut doctor = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(doctor.stdout.take().unwrap());
    let mut text = String::new();
    // Nobody reads the streams, so it looks again and again for some seconds.
    while !text.contains("space") {
        assert_ne!(said.read_line(&mut text).unwrap(), 0, "{text}");
    }
    server.process().signal(Signal::SIGSTOP);
    let ended = tokio::task::spawn_blocking(move || {
        said.read_to_string(&mut text).unwrap();
        (doctor.wait().unwrap(), text)
    });
    // Of this, it waits ten seconds; the others are for a busy machine.
    let (status, text) = tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(69), "{text}");
    assert!(text.contains("no answer in 5 s"), "{text}");
    assert!(text.contains("trouble dead letters: not asked, since the server does not answer"), "{text}");
}

#[tokio::test]
async fn doctor_names_what_is_missing() {
    let server = TestServer::start().await;
    let (code, text, _) = run(&server, &["doctor"]).await;
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("trouble stream EVENTS: it does not exist; run `millstream setup`"), "{text}");

    let server = TestServer::start_provisioned().await;
    let (code, text, _) = run(&server, &["doctor", "--json"]).await;
    assert_eq!(code, 69, "{text}");
    let checks = json_lines(&text);
    let wrong: Vec<&str> = checks
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(
        wrong,
        [
            "reader command-handler of COMMANDS",
            "reader projector of EVENTS",
            "reader projector of OUTCOMES",
            "reader reporter of EVENTS",
            "reader process-manager of EVENTS",
            "reader process-manager of TIMERS",
            "decisions on COMMANDS",
            "lease of command-handler",
            "lease of process-manager",
            "stage command-handler",
            "stage process-manager",
            "stage projector",
            "stage reporter",
        ]
    );
}

#[tokio::test]
async fn view_that_nobody_has_is_named() {
    let server = TestServer::start_provisioned().await;
    let (code, _, error) = run(&server, &["query", "retail", "till"]).await;
    assert_eq!(code, 69);
    assert!(error.contains("nobody answers query.retail.till.list"), "{error}");
    let (code, _, error) = run(&server, &["report", "yearly", "--date", "2012-01-31"]).await;
    assert_eq!(code, 64);
    assert!(error.contains("there are store-daily, supplier-daily, stock-valuation"), "{error}");
}
