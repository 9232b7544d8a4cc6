//! A network that loses, doubles, delays and cuts, message by message (`nats_proxy`): between the handlers and the server,
//! between those who publish and the server, between projector or process manager and the server.
//!
//! What happens to which message follows from the seed and from how many of its kind came by, not from time.

use std::time::Duration;

use end_to_end_tests::{
    command_load::{CommandLoad, LoadSettings},
    dumps::decided,
    nats_proxy::{Kind, NatsProxy, SeededFaults},
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::PATIENCE,
};
use millstream_contract::stream_names::{COMMANDS, EVENTS, LEASES_BUCKET, OUTCOMES};
use millstream_jetstream::testing::test_server::TestServer;

use crate::verdict::{expect_kept, seed};

/// How often it is looked at what has happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until each of these was done to a message, whatever else was.
pub(crate) async fn done_to(proxy: &NatsProxy, wanted: &[(Kind, &'static str)]) {
    let left = || {
        let injected = proxy.injected();
        wanted.iter().filter(|each| !injected.contains_key(each)).copied().collect::<Vec<_>>()
    };
    let all_done = async {
        while !left().is_empty() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, all_done).await.is_ok();
    assert!(in_time, "{:?} never happened, but {:#?}", left(), proxy.injected());
}

#[tokio::test]
async fn handlers_keep_every_promise_on_a_bad_network() {
    let seed = seed("handlers on a bad network");
    let server = TestServer::start_provisioned().await;
    let faults = [
        (Kind::Append(EVENTS), 60),
        (Kind::Acknowledgement(EVENTS), 50),
        (Kind::Append(OUTCOMES), 12),
        (Kind::Acknowledgement(OUTCOMES), 12),
        (Kind::Append(COMMANDS), 60),
        (Kind::Acknowledgement(COMMANDS), 50),
        (Kind::Delivery(COMMANDS), 150),
        (Kind::Append(LEASES_BUCKET), 40),
        (Kind::Acknowledgement(LEASES_BUCKET), 50),
        (Kind::Question, 90),
        (Kind::Answer, 100),
    ];
    let proxy = NatsProxy::start(server.process().config().port, SeededFaults::new(seed, &faults)).await;
    let folder = fresh_folder();
    let mut handlers =
        ["1", "2"].map(|name| StageProcess::new("command-handler", name, &proxy.url(), folder.path()));
    for handler in &mut handlers {
        handler.start();
    }
    let load = CommandLoad::start(&server.url(), &LoadSettings::new(seed));
    let wanted = [
        (Kind::Append(EVENTS), "doubled"),
        (Kind::Append(EVENTS), "cut, delivered late"),
        (Kind::Append(EVENTS), "lost"),
        (Kind::Acknowledgement(EVENTS), "lost"),
        (Kind::Acknowledgement(EVENTS), "stalled"),
        (Kind::Append(OUTCOMES), "doubled"),
        (Kind::Append(OUTCOMES), "cut, delivered late"),
        (Kind::Append(OUTCOMES), "lost"),
        (Kind::Acknowledgement(OUTCOMES), "lost"),
        (Kind::Acknowledgement(OUTCOMES), "cut midway"),
        (Kind::Delivery(COMMANDS), "lost"),
        (Kind::Delivery(COMMANDS), "stalled"),
    ];
    done_to(&proxy, &wanted).await;
    let ledger = load.finish().await;
    proxy.heal().await;
    let broker = server.broker().await;
    decided(&broker).await;
    eprintln!("{:#?}", proxy.injected());
    expect_kept(&broker, &server.url(), &ledger).await;
    for handler in &mut handlers {
        handler.expect_running();
    }
}

#[tokio::test]
async fn publishers_lose_and_double_nothing_on_a_bad_network() {
    let seed = seed("publishers on a bad network");
    let server = TestServer::start_provisioned().await;
    let faults = [(Kind::Append(COMMANDS), 120), (Kind::Acknowledgement(COMMANDS), 100)];
    let proxy = NatsProxy::start(server.process().config().port, SeededFaults::new(seed, &faults)).await;
    let folder = fresh_folder();
    let mut handler = StageProcess::new("command-handler", "", &server.url(), folder.path());
    handler.start_ready().await;
    // What is doubled is then stored twice.
    let settings = LoadSettings { server_tells_repetitions: false, ..LoadSettings::new(seed) };
    let load = CommandLoad::start(&proxy.url(), &settings);
    let wanted = [
        (Kind::Append(COMMANDS), "doubled"),
        (Kind::Append(COMMANDS), "cut, delivered late"),
        (Kind::Append(COMMANDS), "lost"),
        (Kind::Append(COMMANDS), "doubled later"),
        (Kind::Acknowledgement(COMMANDS), "lost"),
        (Kind::Acknowledgement(COMMANDS), "stalled"),
        (Kind::Acknowledgement(COMMANDS), "cut midway"),
    ];
    done_to(&proxy, &wanted).await;
    let ledger = load.finish().await;
    proxy.heal().await;
    let broker = server.broker().await;
    decided(&broker).await;
    eprintln!("{:#?}", proxy.injected());
    let (dump, verification) = expect_kept(&broker, &server.url(), &ledger).await;
    assert!(dump.commands.len() > ledger.positions(), "nothing was stored twice");
    assert!(verification.duplicates > 0);
    handler.expect_running();
}
