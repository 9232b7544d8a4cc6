//! What keeps a stage from working while there is work: a stream that is full or gone, a consumer that delivers nothing, a server
//! that stands still. The stage goes on trying, says that it is not ready and why, shows its lag, and is ready again when it can work.

use std::{cell::RefCell, fmt, time::Duration};

use async_nats::jetstream;
use end_to_end_tests::{stage_process::StageProcess, system::fresh_folder, waiting::until};
use jiff::Timestamp;
use millstream_contract::{
    header,
    stored_message::Headers,
    stream_names::{COMMANDS, COMMANDS_CONSUMER, DEAD_LETTERS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    nats_broker::NatsBroker,
    provision::{ProvisionOptions, provision},
    testing::test_server::TestServer,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Longer than any test takes.
const AN_HOUR: Duration = Duration::from_secs(3600);

/// Waits until a stage is not ready and says all of `words`.
async fn stalls(stage: &mut StageProcess, words: &[&str]) {
    let (name, said) = (stage.name().to_owned(), RefCell::new(String::new()));
    let awaited = fmt::from_fn(|to| write!(to, "{name} says {words:?}; it said {:?}", said.borrow()));
    until(awaited, async || {
        stage.expect_running();
        let now = stage.readiness().await;
        let all = words.iter().all(|word| now.contains(word));
        said.replace(now);
        all.then_some(())
    })
    .await;
}

/// Stores commands, each for another stock.
async fn store(broker: &NatsBroker, count: usize) {
    for number in 0..count {
        let message = NewMessage {
            subject: format!("cmd.retail.stock.stalls:{number}.receive"),
            expected_last: None,
            headers: Headers::new(),
            payload: "{\"quantity\":1}".into(),
        };
        broker.append(COMMANDS, message).await.unwrap();
    }
}

/// Changes the size of a stream.
async fn resize(server: &TestServer, stream: &str, max_bytes: i64) {
    let context = jetstream::new(server.client().await);
    let mut config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
    config.max_bytes = max_bytes;
    context.update_stream(config).await.unwrap();
}

/// The server delivers nothing to a consumer until `until`: whoever reads sees a stream that is quiet.
async fn pause(server: &TestServer, stream: &str, consumer: &str, until: Timestamp) {
    let subject = format!("$JS.API.CONSUMER.PAUSE.{stream}.{consumer}");
    let request = json!({ "pause_until": until.to_string() }).to_string();
    let answer = server.client().await.request(subject, request.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer.get("error"), None, "{answer}");
}

#[tokio::test]
async fn a_handler_that_cannot_record_is_not_ready_and_names_the_full_stream() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let broker = server.broker().await;
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    // A handler that only stands by is ready, too, and could not even take over.
    store(&broker, 1).await;
    let accepted = r#"millstream_outcomes_total{outcome="accepted"}"#;
    until("it decides", async || handler.metric(accepted).await.filter(|count| *count == 1.0)).await;
    resize(&server, OUTCOMES, 1).await;
    store(&broker, 3).await;
    stalls(&mut handler, &["deciding COMMANDS: no progress", "of 4)", "stream OUTCOMES is full"]).await;
    until("the lag shows", async || {
        let lag = handler.metric("millstream_reader_lag_seconds{stream=\"COMMANDS\"").await?;
        (lag > 5.0).then_some(())
    })
    .await;
    resize(&server, OUTCOMES, 1024 * 1024).await;
    handler.ready().await;
    until("nothing waits", async || {
        let lag = handler.metric("millstream_reader_lag_events{stream=\"COMMANDS\"").await?;
        (lag == 0.0).then_some(())
    })
    .await;
    handler.stop().await;
}

/// Somebody had removed DEADLETTERS. One command that could not be decided then held up all others, and no word said why.
#[tokio::test]
async fn a_handler_that_cannot_set_a_command_aside_is_not_ready_and_names_the_stream_that_is_gone() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let broker = server.broker().await;
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    let context = jetstream::new(server.client().await);
    context.delete_stream(DEAD_LETTERS).await.unwrap();
    let junk = NewMessage {
        subject: "cmd.no.such.command.there".to_owned(),
        expected_last: None,
        headers: Headers::new(),
        payload: "{}".into(),
    };
    broker.append(COMMANDS, junk).await.unwrap();
    store(&broker, 1).await;
    stalls(&mut handler, &["deciding COMMANDS: no progress", "of 2)", "no stream takes dlq.COMMANDS.1"])
        .await;
    provision(&context, &ProvisionOptions::default()).await.unwrap();
    handler.ready().await;
    handler.stop().await;
}

#[tokio::test]
async fn a_handler_that_gets_no_commands_and_a_standby_that_gets_no_events_are_not_ready() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let broker = server.broker().await;
    let mut active = StageProcess::new("command-handler", "1", &server.url(), folder.path());
    active.start_ready().await;
    store(&broker, 1).await;
    let mut standby = StageProcess::new("command-handler", "2", &server.url(), folder.path());
    standby.start_ready().await;
    let states = "command-handler-2-states";
    let context = jetstream::new(server.client().await);
    let events = context.get_stream(EVENTS).await.unwrap();
    until("the standby follows", async || events.consumer_info(states).await.ok()).await;

    let later = Timestamp::now() + AN_HOUR;
    pause(&server, EVENTS, states, later).await;
    store(&broker, 2).await;
    stalls(&mut standby, &["following EVENTS: no progress"]).await;
    active.ready().await;
    pause(&server, COMMANDS, COMMANDS_CONSUMER, later).await;
    store(&broker, 1).await;
    stalls(&mut active, &["deciding COMMANDS: no progress", "(done through 3 of 4)"]).await;

    let past = Timestamp::now() - AN_HOUR;
    pause(&server, COMMANDS, COMMANDS_CONSUMER, past).await;
    pause(&server, EVENTS, states, past).await;
    active.ready().await;
    standby.ready().await;
}

/// A standby's reader was asked again and again before it could find that nothing came any more. It never followed again after the server
/// had been restarted, and the next takeover read everything.
#[tokio::test]
async fn a_standby_follows_again_after_the_server_was_killed() {
    let mut server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let mut active = StageProcess::new("command-handler", "1", &server.url(), folder.path());
    active.start_ready().await;
    store(&server.broker().await, 1).await;
    let mut standby = StageProcess::new("command-handler", "2", &server.url(), folder.path());
    standby.start_ready().await;
    // What the server has handed to the standby.
    let followed = async |server: &TestServer, through: u64| {
        let context = jetstream::new(server.client().await);
        let events = context.get_stream(EVENTS).await.unwrap();
        until(format!("the standby follows to {through}"), async || {
            let consumer = events.consumer_info("command-handler-2-states").await.ok()?;
            (consumer.delivered.stream_sequence == through).then_some(())
        })
        .await;
    };
    followed(&server, 1).await;
    server.kill().await;
    server.restart().await;
    active.ready().await;
    store(&server.broker().await, 2).await;
    followed(&server, 3).await;
    standby.ready().await;
}

#[tokio::test]
async fn stages_are_not_ready_while_the_server_stands_still() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let mut stages = ["command-handler", "process-manager"]
        .map(|stage| StageProcess::new(stage, "", &server.url(), folder.path()));
    for stage in &mut stages {
        stage.start_ready().await;
    }
    server.process().signal(Signal::SIGSTOP);
    let [handler, manager] = &mut stages;
    // Their turns end with their leases, and they cannot find out what they would follow, or what there is to do.
    stalls(handler, &["503", "asking for the lease: no progress"]).await;
    stalls(manager, &["503", ": no progress"]).await;
    server.process().signal(Signal::SIGCONT);
    for stage in &mut stages {
        stage.ready().await;
    }
}

#[tokio::test]
async fn a_process_manager_whose_commands_are_refused_or_whose_events_do_not_come_is_not_ready() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let broker = server.broker().await;
    let mut manager = StageProcess::new("process-manager", "", &server.url(), folder.path());
    manager.start_ready().await;
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    let deliver = async |number: usize| {
        let message = NewMessage {
            subject: format!("cmd.retail.delivery.D{number}.receive"),
            expected_last: None,
            headers: Headers::new(),
            payload: r#"{"supplier":"acme","location":"web","currency":"USD","received_on":"2026-01-05","lines":[{"sku":"tea","quantity":1,"unit_cost":70}]}"#.into(),
        };
        broker.append(COMMANDS, message).await.unwrap();
    };
    pause(&server, EVENTS, "process-manager", Timestamp::now() + AN_HOUR).await;
    deliver(1).await;
    stalls(&mut manager, &["folding EVENTS: no progress"]).await;
    resize(&server, COMMANDS, 1).await;
    pause(&server, EVENTS, "process-manager", Timestamp::now() - AN_HOUR).await;
    stalls(&mut manager, &["effects of stock-keeping: no progress", "stream COMMANDS is full"]).await;
    resize(&server, COMMANDS, 1024 * 1024).await;
    manager.ready().await;
}

/// Whoever asked waited until its time was over, and was told that nothing was known of its command.
#[tokio::test]
async fn whoever_submits_while_commands_is_full_is_told_at_once_and_may_send_the_same_again() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    let client = server.client().await;
    let submit = async || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(header::COMMAND_ID, "full-1");
        headers.insert(header::WAIT_MS, "60000");
        let request = async_nats::Request::new().headers(headers).payload(r#"{"quantity":1}"#.into());
        // Less than the command may wait.
        let request = request.timeout(Some(Duration::from_secs(20)));
        client.send_request("submit.retail.stock.full:1.receive", request).await.expect("it answers at once")
    };
    resize(&server, COMMANDS, 1).await;
    let refused = submit().await.headers.expect("it is an error");
    let said = |name: &str| refused.get(name).expect("an error has it").as_str();
    assert_eq!(said("Nats-Service-Error-Code"), "500");
    let text = said("Nats-Service-Error");
    for words in
        ["not stored: COMMANDS is full", "nothing of this request is stored", "Millstream-Command-Id: full-1"]
    {
        assert!(text.contains(words), "{text}");
    }
    let broker = server.broker().await;
    assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 0);
    resize(&server, COMMANDS, 1024 * 1024).await;
    let outcome: Value = serde_json::from_slice(&submit().await.payload).unwrap();
    assert_eq!(
        (&outcome["outcome"], &outcome["command_id"]),
        (&json!("accepted"), &json!("full-1")),
        "{outcome}"
    );
    handler.stop().await;
}

#[tokio::test]
async fn a_projector_that_gets_no_events_is_not_ready_and_answers_when_it_does() {
    let server = TestServer::start_provisioned().await;
    let folder = fresh_folder();
    let broker = server.broker().await;
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    let mut projector = StageProcess::new("projector", "", &server.url(), folder.path());
    handler.start_ready().await;
    store(&broker, 1).await;
    projector.start_ready().await;
    pause(&server, EVENTS, "projector", Timestamp::now() + AN_HOUR).await;
    store(&broker, 2).await;
    stalls(&mut projector, &["folding EVENTS: no progress"]).await;
    pause(&server, EVENTS, "projector", Timestamp::now() - AN_HOUR).await;
    projector.ready().await;
    handler.stop().await;
    projector.stop().await;
}
