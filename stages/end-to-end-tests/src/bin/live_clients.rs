//! Measures how soon live clients see a change: many clients watch a row that changes at a steady rate, and the program measures the time from
//! a commit until the last client has it. docs/benchmarks.md says how to run it, and what it showed.
//!
//!     live_clients [CLIENTS [CHANGES-A-SECOND [SECONDS]]]

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use end_to_end_tests::{
    http_client::HttpClient, live_stream::LiveStream, stage_process::StageProcess, system::fresh_folder,
    waiting::until,
};
use futures::future::join_all;
use jiff::Timestamp;
use millstream_contract::{commit::StoredCommit, stream_names::EVENTS};
use millstream_jetstream::{
    broker::Broker as _, nats_broker::NatsBroker, nats_server::free_port, testing::test_server::TestServer,
};
use serde_json::json;
use tokio::{task::JoinHandle, time::Instant};

const CLIENTS: usize = 1000;
const RATE: usize = 20;
const SECONDS: usize = 60;
const SUBJECT: &str = "evt.retail.product.tea";
/// How much of EVENTS is loaded at a time.
const PAGE_BYTES: usize = 1024 * 1024;

/// When a client has seen each version of the row.
type Seen = BTreeMap<u64, Timestamp>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: usize| -> Result<usize> {
        arguments.next().map_or(Ok(default), |text| text.parse().context("a number"))
    };
    let (clients, rate, seconds) = (next(CLIENTS)?, next(RATE)?, next(SECONDS)?);
    let (server, folder) = (TestServer::start_provisioned().await, fresh_folder());
    let broker = server.broker().await;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut stages = ["command-handler", "projector", "gateway"]
        .map(|stage| StageProcess::new(stage, "", &server.url(), folder.path()));
    if let Some(gateway) = stages.last_mut() {
        let settings = [
            format!("gateway.listen={address}"),
            format!("gateway.live_max={clients}"),
            "gateway.rate=0".to_owned(),
            "gateway.rate_address=0".to_owned(),
        ];
        let configured = StageProcess::new("gateway", "", &server.url(), folder.path());
        *gateway = settings.iter().fold(configured, |gateway, setting| gateway.set(setting));
    }
    for stage in &mut stages {
        stage.start_ready().await;
    }
    let client = HttpClient::new(&address);
    send(&client, "register", &json!({ "name": "Tea", "supplier": "acme" })).await;
    // Each command causes one event, and the first one has registered the product.
    let last = 1 + (rate * seconds) as u64;
    let streams = join_all((0..clients).map(|_| LiveStream::open(&client, "watch=retail/product/tea"))).await;
    let seen: Vec<JoinHandle<Seen>> =
        streams.into_iter().map(|stream| tokio::spawn(watch_row(stream, last))).collect();

    println!("{clients} clients watch a row that changes {rate} times a second for {seconds} s");
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
    let began = Instant::now();
    for number in 1..=rate * seconds {
        ticks.tick().await;
        send(&client, "reprice", &json!({ "unit_price": number, "currency": "USD" })).await;
    }
    println!("sent in {:.1} s", began.elapsed().as_secs_f64());
    let commits = until("all are decided", async || {
        let commits = commits(&broker).await.ok()?;
        (commits.last_key_value()?.0 == &last).then_some(commits)
    })
    .await;
    let seen: Vec<Seen> = join_all(seen).await.into_iter().collect::<Result<_, _>>()?;
    report(&commits, &seen);
    if let Some(gateway) = stages.last() {
        for metric in ["millstream_gateway_live_questions_total", "millstream_gateway_live_events_total"] {
            println!("{metric} {}", gateway.metric(metric).await.unwrap_or_default());
        }
    }
    for stage in stages.iter_mut().rev() {
        stage.stop().await;
    }
    Ok(())
}

async fn send(client: &HttpClient, command: &str, body: &serde_json::Value) {
    let path = format!("/v1/commands/retail/product/tea/{command}");
    let answer = client.post(&path, &body.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

/// Waits until the client has seen the last version.
async fn watch_row(mut stream: LiveStream, last: u64) -> Seen {
    let mut seen = Seen::new();
    while seen.last_key_value().is_none_or(|(version, _)| *version < last) {
        let Some(event) = stream.next().await else { return seen };
        if let Some(version) = event.data.pointer("/value/version").and_then(serde_json::Value::as_u64) {
            seen.insert(version, Timestamp::now());
        }
    }
    seen
}

/// When the server stored each version of the row.
async fn commits(broker: &NatsBroker) -> Result<Seen> {
    let (mut from, mut commits) = (1, Seen::new());
    loop {
        let page = broker.load_page(EVENTS, SUBJECT, from, PAGE_BYTES).await?;
        for message in &page.messages {
            let commit = StoredCommit::from_stored(message)?;
            let version = commit.envelopes().last().map_or(0, |event| event.aggregate_version);
            commits.insert(version, message.stored_at);
            from = message.sequence + 1;
        }
        if !page.more {
            return Ok(commits);
        }
    }
}

fn report(commits: &Seen, seen: &[Seen]) {
    let mut times: Vec<Duration> = commits
        .iter()
        .skip(1)
        .map(|(version, stored)| {
            let last =
                seen.iter().filter_map(|client| client.range(version..).next()).map(|(_, at)| at).max();
            last.map_or(Duration::MAX, |last| last.duration_since(*stored).unsigned_abs())
        })
        .collect();
    times.sort_unstable();
    let at = |percent: usize| {
        times.get((times.len() * percent / 100).min(times.len() - 1)).copied().unwrap_or_default()
    };
    let events: usize = seen.iter().map(Seen::len).sum();
    println!(
        "{} commits; from a commit to the last client: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, most {:.1} ms; {events} events",
        times.len(),
        at(50).as_secs_f64() * 1e3,
        at(90).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
        at(100).as_secs_f64() * 1e3,
    );
}
