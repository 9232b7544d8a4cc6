//! Latency at a steady rate: from the moment a command is due to be published until a query that carries its position is
//! answered. Two requests and an answer on the way are part of it, so it is what a client sees, not less.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::HeaderMap;
use futures::StreamExt as _;
use millstream_contract::{header, outcome::OutcomeReply, position::StreamPosition, stream_names::EVENTS};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

use super::{load::Load, pipeline};

/// How long one command may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there are no latencies.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LatencyError {
    #[error("replies cannot be received")]
    Subscribe(#[from] async_nats::SubscribeError),
    #[error("a command cannot be published")]
    Publish(#[from] async_nats::PublishError),
    #[error("the view cannot be asked")]
    Query(#[source] async_nats::RequestError),
    #[error("a command had no outcome after {} s", PATIENCE.as_secs())]
    NoOutcome,
    #[error("a command was not accepted")]
    NotAccepted,
    #[error(transparent)]
    Broker(#[from] millstream_jetstream::broker::BrokerError),
    #[error("a task of the benchmark ended early")]
    Task(#[from] tokio::task::JoinError),
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<OutcomeReply>>>>;

/// Sends `load` at `rate` commands a second; answers the latencies in ascending order.
pub(crate) async fn run(
    broker: &NatsBroker,
    load: Load,
    rate: u32,
    run: &str,
) -> Result<Vec<Duration>, LatencyError> {
    let generation: Arc<str> = broker.state(EVENTS).await?.generation.into();
    let inbox = broker.client().new_inbox();
    let mut replies = broker.client().subscribe(format!("{inbox}.*")).await?;
    let waiting = Waiting::default();
    let dispatch = tokio::spawn({
        let waiting = waiting.clone();
        async move {
            while let Some(reply) = replies.next().await {
                let value = serde_json::from_slice(&reply.payload).unwrap_or_default();
                let sender = lock(&waiting).remove(reply.subject.as_str());
                if let (Some(sender), Some(outcome)) = (sender, OutcomeReply::from_json(&value)) {
                    // Whoever waited may have given up.
                    let _ = sender.send(outcome);
                }
            }
        }
    });
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for number in 0..load.commands {
        let due = begun + Duration::from_secs_f64(number as f64 / f64::from(rate));
        tokio::time::sleep_until(due).await;
        let reply = format!("{inbox}.{number}");
        let (sender, receiver) = oneshot::channel();
        lock(&waiting).insert(reply.clone(), sender);
        publish(broker, load, number, run, &reply).await?;
        let row = (load.query(), load.key(number));
        tasks.spawn(one(broker.clone(), row, generation.clone(), due, receiver));
    }
    let mut latencies = Vec::with_capacity(load.commands);
    while let Some(latency) = tasks.join_next().await {
        latencies.push(latency??);
    }
    dispatch.abort();
    latencies.sort_unstable();
    Ok(latencies)
}

async fn publish(
    broker: &NatsBroker,
    load: Load,
    number: usize,
    run: &str,
    reply: &str,
) -> Result<(), LatencyError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, Load::id(run, number));
    headers.insert(header::REPLY, reply);
    let subject = format!("cmd.{}", load.address(number));
    Ok(broker.client().publish_with_headers(subject, headers, load.body(run, number)).await?)
}

async fn one(
    broker: NatsBroker,
    (query, key): (String, String),
    generation: Arc<str>,
    due: Instant,
    outcome: oneshot::Receiver<OutcomeReply>,
) -> Result<Duration, LatencyError> {
    let reply = tokio::time::timeout(PATIENCE, outcome).await.ok().and_then(Result::ok);
    let reply = reply.ok_or(LatencyError::NoOutcome)?;
    let millstream_contract::outcome::Outcome::Accepted { sequence, .. } = reply.outcome else {
        return Err(LatencyError::NotAccepted);
    };
    let position = StreamPosition::new(EVENTS, &*generation, sequence);
    while !pipeline::ask(&broker, &query, &key, &position).await.map_err(LatencyError::Query)? {}
    Ok(due.elapsed())
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<OutcomeReply>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
