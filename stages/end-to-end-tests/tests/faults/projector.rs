//! The projector on a bad network: rows and checkpoints in the end are those that a projector builds from nothing on a good
//! one (C6, C7).

use std::path::Path;

use end_to_end_tests::{
    command_load::{CommandLoad, LoadSettings},
    dumps::decided,
    nats_proxy::{Kind, NatsProxy, SeededFaults},
    stage_process::StageProcess,
    system::fresh_folder,
    waiting::until,
};
use millstream_contract::stream_names::{EVENTS, OUTCOMES};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_store::read_store::ReadStore;

use crate::{
    network::done_to,
    verdict::{expect_kept, seed},
};

/// Below the folder of a projector.
const FILE: &str = "projector/rows.redb";
/// For a file that nobody else reads.
const CACHE: usize = 4 * 1024 * 1024;

/// Waits until the projector has applied everything: what follows EVENTS is applied together, and so is what follows
/// OUTCOMES.
pub(crate) async fn has_applied_everything(broker: &NatsBroker) {
    for (stream, view) in [(EVENTS, "retail.stock"), (OUTCOMES, "retail.command")] {
        let state = broker.state(stream).await.unwrap();
        let position = format!("{stream}:{}:{}", state.generation, state.last_sequence);
        until(format!("{view} has reached {position}"), async || {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Millstream-Position", position.as_str());
            let subject = format!("query.{view}.list");
            let answer =
                broker.client().request_with_headers(subject, headers, "{\"limit\":1}".into()).await.ok()?;
            answer.headers?.get("Nats-Service-Error-Code").is_none().then_some(())
        })
        .await;
    }
}

/// Every row and checkpoint of a file that nobody has open.
pub(crate) fn rows(file: &Path) -> Vec<String> {
    let store = ReadStore::open(file, CACHE).unwrap();
    let mut text = Vec::new();
    store.snapshot().unwrap().dump(&mut text).unwrap();
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn rows_are_those_of_a_rebuild_after_a_bad_network() {
    let seed = seed("projector on a bad network");
    let server = TestServer::start_provisioned().await;
    let faults = [
        (Kind::Delivery(EVENTS), 150),
        (Kind::Delivery(OUTCOMES), 60),
        (Kind::Question, 12),
        (Kind::Answer, 10),
    ];
    let proxy = NatsProxy::start(server.process().config().port, SeededFaults::new(seed, &faults)).await;
    let (bad, good) = (fresh_folder(), fresh_folder());
    let mut handler = StageProcess::new("command-handler", "", &server.url(), good.path());
    handler.start_ready().await;
    let mut projector = StageProcess::new("projector", "", &proxy.url(), bad.path());
    projector.start();
    let load = CommandLoad::start(&server.url(), &LoadSettings::new(seed));
    let wanted = [
        (Kind::Delivery(EVENTS), "lost"),
        (Kind::Delivery(EVENTS), "stalled"),
        (Kind::Delivery(EVENTS), "cut midway"),
        (Kind::Delivery(EVENTS), "black hole"),
        (Kind::Delivery(OUTCOMES), "lost"),
        (Kind::Question, "doubled"),
        (Kind::Answer, "lost"),
    ];
    done_to(&proxy, &wanted).await;
    let ledger = load.finish().await;
    proxy.heal().await;
    let broker = server.broker().await;
    decided(&broker).await;
    expect_kept(&broker, &server.url(), &ledger).await;
    has_applied_everything(&broker).await;
    eprintln!("{:#?}", proxy.injected());
    projector.stop().await;
    let mut rebuilt = StageProcess::new("projector", "", &server.url(), good.path());
    rebuilt.start_ready().await;
    has_applied_everything(&broker).await;
    rebuilt.stop().await;
    let (found, expected) = (rows(&bad.path().join(FILE)), rows(&good.path().join(FILE)));
    assert!(expected.len() > 100, "{} rows", expected.len());
    let different = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    assert_eq!((different, found.len()), (None, expected.len()));
}
