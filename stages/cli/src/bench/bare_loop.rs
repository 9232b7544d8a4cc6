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
use millstream_contract::{
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, GENERATION_METADATA},
};
use millstream_jetstream::{
    broker::{AppendError, Appended, Broker as _, NewMessage, ReadError, ReaderConfig, StreamReader as _},
    nats_broker::NatsBroker,
    provision::{ProvisionOptions, definition},
};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};
use tokio::{task::coop::unconstrained, time::Instant};

use super::load::Load;

const BARE_COMMANDS: &str = "BARE_COMMANDS";
const BARE_EVENTS: &str = "BARE_EVENTS";
/// Nobody compares it: the streams end with the loop.
const BARE_GENERATION: &str = "01BARE00000000000000000000";
/// Messages taken at once, as the stages do.
const BATCH_MAX: usize = 2000;
/// Bytes of an event: what a commit with one small event takes.
const EVENT_BYTES: usize = 200;
const ROWS: TableDefinition<&str, &[u8]> = TableDefinition::new("rows");

/// Why the bare loop has no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareLoopError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the bare loop's streams cannot be made")]
    Streams(#[from] jetstream::context::CreateStreamError),
    #[error("the bare loop's streams cannot be removed")]
    Removal(#[from] jetstream::context::DeleteStreamError),
    #[error("the bare loop's rows cannot be written")]
    Rows(#[source] Box<redb::Error>),
    #[error("the bare loop has {found} rows instead of {expected}")]
    Effects { found: u64, expected: u64 },
}

fn rows_error(error: impl Into<redb::Error>) -> BareLoopError {
    BareLoopError::Rows(Box::new(error.into()))
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
    for (name, like, from, to) in
        [(BARE_COMMANDS, COMMANDS, "cmd", "bcmd"), (BARE_EVENTS, EVENTS, "evt", "bevt")]
    {
        let mut config = definition(like, options).expect("COMMANDS and EVENTS are defined");
        config.name = name.to_owned();
        config.subjects.retain(|subject| subject.starts_with(from));
        config.subjects = config.subjects.iter().map(|subject| subject.replacen(from, to, 1)).collect();
        if let Some(transform) = &mut config.subject_transform {
            transform.source = transform.source.replacen(from, to, 1);
        }
        config.metadata.insert(GENERATION_METADATA.to_owned(), BARE_GENERATION.to_owned());
        jetstream.create_stream(config).await?;
    }
    let begun = Instant::now();
    let ((), (), rows) = tokio::try_join!(
        load.publish_singly(publisher, BARE_COMMANDS, "bcmd", "bare").map_err(BareLoopError::from),
        append_events(appender, load, options.replicas.is_some_and(|copies| copies.get() > 1)),
        project(projector, load.commands, folder),
    )?;
    let elapsed = begun.elapsed();
    // What comes next finds the server as the loop did: with nothing else in its memory.
    for name in [BARE_COMMANDS, BARE_EVENTS] {
        jetstream.delete_stream(name).await?;
    }
    let expected = expected_rows(load);
    if rows != expected {
        return Err(BareLoopError::Effects { found: rows, expected });
    }
    Ok(elapsed)
}

fn expected_rows(load: Load) -> u64 {
    let distinct: HashSet<_> = (0..load.commands).map(|number| load.address(number)).collect();
    distinct.len() as u64
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
            // cmdq.<partition>.<context>.<aggregate>.<id>.<command>
            let aggregate = message.subject.split('.').skip(2).take(3).collect::<Vec<_>>().join(".");
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
    let database = Database::create(folder.join("bare.redb")).map_err(rows_error)?;
    let mut reader = broker.read(reader(BARE_EVENTS)).await?;
    let (mut done, mut synced) = (0, Instant::now());
    while done < commands {
        let messages = reader.next_batch(BATCH_MAX).await?;
        done += messages.len();
        let durable = done >= commands || synced.elapsed() >= Duration::from_secs(1);
        let mut write = database.begin_write().map_err(rows_error)?;
        if durable {
            synced = Instant::now();
        } else {
            write.set_durability(Durability::None).map_err(rows_error)?;
        }
        {
            let mut rows = write.open_table(ROWS).map_err(rows_error)?;
            for message in &messages {
                rows.insert(message.subject.as_str(), &*message.payload).map_err(rows_error)?;
            }
        }
        write.commit().map_err(rows_error)?;
    }
    let rows = database.begin_read().map_err(rows_error)?.open_table(ROWS).map_err(rows_error)?;
    rows.len().map_err(rows_error)
}

fn reader(stream: &str) -> ReaderConfig {
    ReaderConfig {
        stream: stream.to_owned(),
        name: "bare-loop".to_owned(),
        description: "bare loop of a benchmark".to_owned(),
        after: 0,
        filters: Vec::new(),
        replace_live: true,
    }
}
