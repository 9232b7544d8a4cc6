//! The real stages at work: from the first publish until the last command's row answers a query, and the proof afterwards
//! that each command had its one effect.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::future::try_join;
use millstream_contract::{
    commit::CommitError,
    header,
    outcome::{Outcome, OutcomeRecord, OutcomeRecordError},
    position::StreamPosition,
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{AppendError, Broker as _, BrokerError, ReadError, ReaderConfig, StreamReader as _},
    nats_broker::NatsBroker,
};
use millstream_proof::verification::{Dump, verify};
use tokio::time::Instant;

use super::load::Load;

/// How long one query waits for the view; asked again until it has caught up.
const QUERY_WAIT_MS: &str = "5000";

/// Why the pipeline has no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Record(#[from] OutcomeRecordError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the view cannot be asked")]
    Query(#[source] async_nats::RequestError),
    #[error("{count} promises were broken, the first: {first}")]
    Broken { count: usize, first: String },
    #[error("{accepted} of {commands} commands were accepted with their event")]
    Effects { accepted: usize, commands: usize },
}

/// Runs it; answers the time from the first publish until everything answers queries.
pub(crate) async fn run(broker: &NatsBroker, load: Load, run: &str) -> Result<Duration, PipelineError> {
    let before = broker.state(COMMANDS).await?.last_sequence;
    let records = broker.state(OUTCOMES).await?.last_sequence;
    let generation = broker.state(EVENTS).await?.generation;
    let begun = Instant::now();
    let published = async { Ok::<_, PipelineError>(load.publish(broker, run).await?) };
    let through = before + load.commands as u64;
    let ((), events) = try_join(published, decided(broker, records, through)).await?;
    queryable(broker, load, &StreamPosition::new(EVENTS, generation, events)).await?;
    Ok(begun.elapsed())
}

/// Waits until every command up to `through` has its outcome; answers the last EVENTS sequence they name.
async fn decided(broker: &NatsBroker, after: u64, through: u64) -> Result<u64, PipelineError> {
    let mut reader = broker.read(reader(OUTCOMES, after)).await?;
    loop {
        for message in reader.next_batch(64).await? {
            let record = OutcomeRecord::from_stored(&message)?;
            if record.through >= through {
                reader.close().await;
                return Ok(record.events_through);
            }
        }
    }
}

/// Waits until the view has applied `position`.
pub(crate) async fn queryable(
    broker: &NatsBroker,
    load: Load,
    position: &StreamPosition,
) -> Result<(), PipelineError> {
    let (query, key) = (load.query(), load.key(load.commands - 1));
    while !ask(broker, &query, &key, position).await.map_err(PipelineError::Query)? {}
    Ok(())
}

/// Asks for a row as of `position`; says whether the view had reached it.
pub(crate) async fn ask(
    broker: &NatsBroker,
    query: &str,
    key: &str,
    position: &StreamPosition,
) -> Result<bool, async_nats::RequestError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::POSITION, position.to_string());
    headers.insert(header::WAIT_MS, QUERY_WAIT_MS);
    let request = async_nats::Request::new()
        .headers(headers)
        .payload(format!(r#"{{"key":"{key}"}}"#).into())
        .timeout(Some(Duration::from_secs(10)));
    let answer = broker.client().send_request(query.to_owned(), request).await?;
    let refused =
        answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code")).is_some();
    Ok(!refused)
}

/// Proves from the streams that every command of `run` had its one outcome and its one effect.
pub(crate) async fn check(broker: &NatsBroker, load: Load, run: &str) -> Result<(), PipelineError> {
    check_runs(broker, &[(run.to_owned(), load.commands)]).await
}

/// Proves from the streams that every command had its one outcome, and that of each run so many were accepted with their one event.
pub(crate) async fn check_runs(broker: &NatsBroker, runs: &[(String, usize)]) -> Result<(), PipelineError> {
    let dump = Dump {
        commands: all(broker, COMMANDS).await?,
        events: all(broker, EVENTS).await?,
        outcomes: all(broker, OUTCOMES).await?,
    };
    let violations = verify(&dump, true).violations;
    if let Some(first) = violations.first() {
        return Err(PipelineError::Broken { count: violations.len(), first: first.to_string() });
    }
    let mut accepted = vec![0; runs.len()];
    for message in &dump.outcomes {
        let record = OutcomeRecord::from_stored(message)?;
        for outcome in &record.outcomes {
            if !matches!(outcome.outcome, Outcome::Accepted { events: 1, .. }) {
                continue;
            }
            let run = outcome.id.as_deref().and_then(|id| Some(id.rsplit_once('-')?.0));
            let place = runs.iter().position(|(of, _)| run == Some(of));
            if let Some(accepted) = place.and_then(|place| accepted.get_mut(place)) {
                *accepted += 1;
            }
        }
    }
    match runs.iter().zip(accepted).find(|((_, commands), accepted)| accepted != commands) {
        None => Ok(()),
        Some((&(_, commands), accepted)) => Err(PipelineError::Effects { accepted, commands }),
    }
}

async fn all(broker: &NatsBroker, stream: &str) -> Result<Vec<StoredMessage>, PipelineError> {
    let last = broker.state(stream).await?.last_sequence;
    let mut reader = broker.read(reader(stream, 0)).await?;
    let mut messages: Vec<StoredMessage> = Vec::new();
    while messages.last().map_or(0, |message| message.sequence) < last {
        messages.extend(reader.next_batch(4096).await?);
    }
    reader.close().await;
    Ok(messages)
}

/// What reads a stream behind a sequence.
pub(crate) fn reader(stream: &str, after: u64) -> ReaderConfig {
    ReaderConfig {
        stream: stream.to_owned(),
        name: "bench".to_owned(),
        description: "a benchmark looks on".to_owned(),
        after,
        filters: Vec::new(),
        replace_live: true,
    }
}
