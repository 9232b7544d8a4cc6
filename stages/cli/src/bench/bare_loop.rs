//! The bare loop: what a program without any domain could do on the same server. Publish, pull, append with expectation
//! (one event message a command, pipelined: the only writer can tell the sequences in advance), read in order, write a
//! row. No decision, no outcome, no identity of commands, no recovery.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::Duration,
};

use async_nats::jetstream;
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _, stream::FuturesUnordered};
use millstream_contract::stored_message::Headers;
use millstream_jetstream::{
    broker::{AppendError, Appended, Broker as _, NewMessage, ReadError, StreamReader as _},
    nats_broker::NatsBroker,
    provision::ProvisionOptions,
};
use tokio::{task::coop::unconstrained, time::Instant};

use super::{
    bare_rows::{BareRows, BareRowsError},
    bare_streams::{self, BARE_COMMANDS, BARE_EVENTS, BareStreamsError, reader},
    load::Load,
};

/// Messages taken at once, as the stages do.
pub(crate) const BATCH_MAX: usize = 2000;
/// Bytes of an event: what a commit with one small event takes.
pub(crate) const EVENT_BYTES: usize = 200;

/// Why the bare loop has no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareLoopError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Streams(#[from] BareStreamsError),
    #[error(transparent)]
    Rows(#[from] BareRowsError),
    #[error("the bare loop has {found} rows instead of {expected}")]
    Effects { found: u64, expected: u64 },
}

/// Runs it, each of its three parts over a connection of its own as the stages do; answers the time from the first publish
/// to the last row.
pub(crate) async fn run(
    [publisher, appender, projector]: &[NatsBroker; 3],
    load: Load,
    options: &ProvisionOptions,
    folder: &Path,
) -> Result<Duration, BareLoopError> {
    let jetstream = jetstream::new(publisher.client().clone());
    bare_streams::create(&jetstream, &[BARE_COMMANDS, BARE_EVENTS], options).await?;
    let begun = Instant::now();
    let ((), (), rows) = tokio::try_join!(
        load.publish_singly(publisher, BARE_COMMANDS, "bcmd", "bare").map_err(BareLoopError::from),
        append_events(appender, load, options.replicas.is_some_and(|copies| copies.get() > 1)),
        project(projector, load.commands, folder),
    )?;
    let elapsed = begun.elapsed();
    bare_streams::remove(&jetstream, &[BARE_COMMANDS, BARE_EVENTS]).await?;
    let expected = load.addresses();
    if rows != expected {
        return Err(BareLoopError::Effects { found: rows, expected });
    }
    Ok(elapsed)
}

/// Several servers refuse an expectation while the aggregate's event before is under way (10164), one alone does not: then each
/// waits for it, `in_turn`.
async fn append_events(broker: &NatsBroker, load: Load, in_turn: bool) -> Result<(), BareLoopError> {
    let mut reader = broker.read(reader(BARE_COMMANDS)).await?;
    let mut last_of: HashMap<String, u64> = HashMap::new();
    let mut appends = FuturesUnordered::new();
    let mut under_way = HashSet::new();
    let (mut done, payload) = (0, vec![7; EVENT_BYTES]);
    while done < load.commands {
        for message in reader.next_batch(BATCH_MAX).await? {
            done += 1;
            let aggregate = bare_streams::aggregate(&message.subject);
            let subject = format!("bevt.{aggregate}");
            while in_turn && under_way.contains(&subject) {
                settle(appends.next().await, &mut under_way)?;
            }
            let expected = last_of.insert(aggregate, done as u64).unwrap_or(0);
            let event = NewMessage {
                subject: subject.clone(),
                expected_last: Some(expected),
                headers: Headers::new(),
                payload: payload.clone().into(),
            };
            // Polled once, past the scheduler's budget, so that it is on its way before the next one: their order makes
            // the sequences.
            let named = subject.clone();
            let append = broker.append(BARE_EVENTS, event).map(move |answer| (named, answer));
            let mut append = Box::pin(unconstrained(append));
            match (&mut append).now_or_never() {
                Some((_, answer)) => {
                    answer?;
                }
                None => {
                    if in_turn {
                        under_way.insert(subject);
                    }
                    appends.push(append);
                }
            }
            if appends.len() >= load.singles {
                settle(appends.next().await, &mut under_way)?;
            }
        }
        while let Some(ended @ Some(_)) = appends.next().now_or_never() {
            settle(ended, &mut under_way)?;
        }
    }
    while let Some(ended) = appends.next().await {
        settle(Some(ended), &mut under_way)?;
    }
    Ok(())
}

type Ended = (String, Result<Appended, AppendError>);

fn settle(ended: Option<Ended>, under_way: &mut HashSet<String>) -> Result<(), AppendError> {
    let Some((subject, answer)) = ended else { return Ok(()) };
    under_way.remove(&subject);
    answer.map(|_| ())
}

async fn project(broker: &NatsBroker, commands: usize, folder: &Path) -> Result<u64, BareLoopError> {
    let mut rows = BareRows::create(&folder.join("bare.redb"))?;
    let mut reader = broker.read(reader(BARE_EVENTS)).await?;
    let mut done = 0;
    while done < commands {
        let messages = reader.next_batch(BATCH_MAX).await?;
        done += messages.len();
        let written = messages.iter().map(|message| (message.subject.as_str(), &*message.payload));
        rows.put(written, done >= commands)?;
    }
    Ok(rows.count()?)
}
