//! The bare closed loop: the hops of a command without any domain. A command is appended; a reader hands it on; an event with the
//! expected sequence of its aggregate is appended, then a record of what was answered, and a row is kept; the client is answered. No
//! decision, no identity of commands, no recovery.
//!
//! As the command handler does, it works on what waits: one event for each aggregate of a group, one record for all whose events are
//! stored.

use std::{
    collections::HashMap,
    fs::remove_file,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::jetstream;
use bytes::Bytes;
use futures::future::{BoxFuture, try_join};
use millstream_contract::{
    header,
    stored_message::{Headers, StoredMessage},
};
use millstream_jetstream::{
    broker::{ATOMIC_BATCH_MAX, AppendError, Broker as _, NewMessage, StreamReader as _},
    nats_broker::NatsBroker,
    provision::ProvisionOptions,
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, block_in_place},
};

use super::{
    bare_loop::{BATCH_MAX, EVENT_BYTES},
    bare_rows::BareRows,
    bare_streams::{self, BARE_COMMANDS, BARE_EVENTS, BARE_OUTCOMES, aggregate, reader},
    client_place::{self, ClientPlace},
    closed_loop::{self, ClosedLoopClient, Extent, Found},
    closed_loop_error::ClosedLoopError,
    load::Load,
    storage::{self, Kept},
};

const STREAMS: [&str; 3] = [BARE_COMMANDS, BARE_EVENTS, BARE_OUTCOMES];
/// The one subject of the records, as in OUTCOMES.
const RECORDS: &str = "bout.0of1";
/// Bytes that a record takes for each command: id, address, positions.
const RECORD_BYTES: usize = 80;
/// Places in a channel between two steps: more than there are clients would do nothing.
const CHANNEL_MAX: usize = 4096;

/// How the bare loop appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BareWay {
    /// Each message on its own, all in flight together.
    Singly,
    /// What waits travels as one atomic batch.
    InBatches,
}

/// The bare loop of one way.
#[derive(Debug, Clone)]
pub(crate) struct BareCommands {
    pub(crate) load: Load,
    pub(crate) way: BareWay,
    pub(crate) options: ProvisionOptions,
    /// Where the rows are.
    pub(crate) folder: PathBuf,
}

/// What the steps have done.
#[derive(Debug, Default)]
struct Done {
    events: AtomicU64,
    answered: AtomicU64,
}

impl BareCommands {
    /// Runs the loop with so many clients over these connections; each other step has one of its own. Says what the streams held at the
    /// end, and removes them.
    pub(crate) async fn run<O>(
        self,
        connections: &[NatsBroker],
        steps: [NatsBroker; 3],
        in_flight: usize,
        extent: Extent,
        observe: impl Fn() -> O + Send,
    ) -> Result<(Found<O>, Kept), ClosedLoopError> {
        let [storing, deciding, recording] = steps;
        let jetstream = jetstream::new(storing.client().clone());
        bare_streams::create(&jetstream, &STREAMS, &self.options).await?;
        let (places, _handing_over) = client_place::open(connections, in_flight).await?;
        let (commands, waiting) = mpsc::channel(CHANNEL_MAX);
        let (decided, undecided) = mpsc::channel(CHANNEL_MAX);
        let done = Arc::new(Done::default());
        let file = self.folder.join("bare-commands.redb");
        let rows = Arc::new(Mutex::new(BareRows::create(&file)?));
        let mut steps = JoinSet::new();
        let broker = storing.clone();
        steps.spawn(async move { store_commands(&broker, waiting).await });
        let (way, counts) = (self.way, Arc::clone(&done));
        steps.spawn(async move { append_events(&deciding, way, decided, &counts).await });
        let (kept_in, counts) = (Arc::clone(&rows), Arc::clone(&done));
        steps.spawn(async move { record_and_answer(&recording, &kept_in, undecided, &counts).await });
        let client = |place| Client { place, load: self.load, way: self.way, commands: commands.clone() };
        let clients = places.into_iter().map(client).collect();
        let found = tokio::select! {
            found = closed_loop::run(clients, extent, observe) => found?,
            Some(ended) = steps.join_next() => {
                ended??;
                return Err(ClosedLoopError::NoAnswer);
            }
        };
        steps.shutdown().await;
        let kept = storage::of_streams(&storing, &STREAMS).await?;
        let rows = rows.lock().unwrap_or_else(PoisonError::into_inner).count()?;
        self.check(&storing, found.sent, &done, rows).await?;
        bare_streams::remove(&jetstream, &STREAMS).await?;
        remove_file(&file).map_err(|source| ClosedLoopError::Folder { folder: file, source })?;
        Ok((found, kept))
    }

    /// Each command was stored once, had its event, and was answered once; each aggregate has its row.
    async fn check(
        &self,
        broker: &NatsBroker,
        sent: usize,
        done: &Done,
        rows: u64,
    ) -> Result<(), ClosedLoopError> {
        let aggregates = Load { commands: sent, ..self.load }.addresses();
        let sent = sent as u64;
        let commands = broker.state(BARE_COMMANDS).await?.last_sequence;
        let events = broker.state(BARE_EVENTS).await?.last_sequence;
        let count = |count: &AtomicU64| count.load(Ordering::SeqCst);
        for (what, found, expected) in [
            ("commands", commands, sent),
            ("answers", count(&done.answered), sent),
            ("events", events, count(&done.events)),
            ("rows", rows, aggregates),
        ] {
            if found != expected {
                return Err(ClosedLoopError::BareEffects { what, found, expected });
            }
        }
        Ok(())
    }
}

struct Client {
    place: ClientPlace,
    load: Load,
    way: BareWay,
    commands: mpsc::Sender<NewMessage>,
}

impl ClosedLoopClient for Client {
    async fn send(&mut self, number: usize) -> Result<u64, ClosedLoopError> {
        let mut message = self.load.message("bcmd", "bare", number);
        message.headers.push(header::REPLY, self.place.reply_subject(number));
        let answer = match self.way {
            BareWay::Singly => {
                let broker = self.place.broker.clone();
                let stored = async { Ok(broker.append(BARE_COMMANDS, message).await?) };
                try_join(stored, self.place.answer(number)).await?.1
            }
            BareWay::InBatches => {
                // Without a place there the step has ended, which ends the loop.
                drop(self.commands.send(message).await);
                self.place.answer(number).await?
            }
        };
        let event = std::str::from_utf8(&answer.payload).ok().and_then(|text| text.parse().ok());
        event.ok_or_else(|| ClosedLoopError::NotAccepted {
            answer: String::from_utf8_lossy(&answer.payload).into_owned(),
        })
    }

    fn queryable(&self, _: usize, _: u64) -> Option<BoxFuture<'static, Result<(), ClosedLoopError>>> {
        None
    }
}

/// Stores what waits as one batch, then what has come meanwhile.
async fn store_commands(
    broker: &NatsBroker,
    mut waiting: mpsc::Receiver<NewMessage>,
) -> Result<(), ClosedLoopError> {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, ATOMIC_BATCH_MAX).await > 0 {
        append(broker, BareWay::InBatches, BARE_COMMANDS, std::mem::take(&mut group)).await?;
    }
    Ok(())
}

/// A command whose event is stored.
#[derive(Debug)]
struct Decided {
    reply: String,
    aggregate: Arc<str>,
    event: u64,
}

/// Appends an event for each aggregate that has commands in a group: the server refuses a second expectation of a subject in a batch.
async fn append_events(
    broker: &NatsBroker,
    way: BareWay,
    decided: mpsc::Sender<Vec<Decided>>,
    done: &Done,
) -> Result<(), ClosedLoopError> {
    let mut reader = broker.read(reader(BARE_COMMANDS)).await?;
    let mut last_of: HashMap<Arc<str>, u64> = HashMap::new();
    loop {
        let groups = by_aggregate(reader.next_batch(BATCH_MAX).await?);
        let event = |(aggregate, replies): &(Arc<str>, Vec<String>)| NewMessage {
            subject: format!("bevt.{aggregate}"),
            expected_last: Some(last_of.get(aggregate).copied().unwrap_or_default()),
            headers: Headers::new(),
            payload: Bytes::from(vec![7; EVENT_BYTES * replies.len()]),
        };
        let events: Vec<_> = groups.iter().map(event).collect();
        done.events.fetch_add(events.len() as u64, Ordering::SeqCst);
        let sequences = append(broker, way, BARE_EVENTS, events).await?;
        let mut all = Vec::new();
        for ((aggregate, replies), event) in groups.into_iter().zip(sequences) {
            last_of.insert(Arc::clone(&aggregate), event);
            let each = |reply| Decided { reply, aggregate: Arc::clone(&aggregate), event };
            all.extend(replies.into_iter().map(each));
        }
        if decided.send(all).await.is_err() {
            return Ok(());
        }
    }
}

/// The aggregates of these commands, each with the places where they are to be answered.
fn by_aggregate(commands: Vec<StoredMessage>) -> Vec<(Arc<str>, Vec<String>)> {
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    let mut groups: Vec<(Arc<str>, Vec<String>)> = Vec::new();
    for command in commands {
        let aggregate: Arc<str> = aggregate(&command.subject).into();
        let place = *places.entry(Arc::clone(&aggregate)).or_insert(groups.len());
        let reply = command.headers.get(header::REPLY).unwrap_or_default().to_owned();
        match groups.get_mut(place) {
            Some((_, replies)) => replies.push(reply),
            None => groups.push((aggregate, vec![reply])),
        }
    }
    groups
}

/// Appends one record for all that wait, and keeps their rows meanwhile; then answers.
async fn record_and_answer(
    broker: &NatsBroker,
    rows: &Mutex<BareRows>,
    mut decided: mpsc::Receiver<Vec<Decided>>,
    done: &Done,
) -> Result<(), ClosedLoopError> {
    let (mut last, mut groups) = (0, Vec::new());
    let row = [7; EVENT_BYTES];
    while decided.recv_many(&mut groups, CHANNEL_MAX).await > 0 {
        let all: Vec<Decided> = groups.drain(..).flatten().collect();
        let record = NewMessage {
            subject: RECORDS.to_owned(),
            expected_last: Some(last),
            headers: Headers::new(),
            payload: Bytes::from(vec![7; RECORD_BYTES * all.len()]),
        };
        let keep = async {
            let written = all.iter().map(|each| (&*each.aggregate, &row[..]));
            let put = || rows.lock().unwrap_or_else(PoisonError::into_inner).put(written, false);
            Ok::<_, ClosedLoopError>(block_in_place(put)?)
        };
        let store = async { Ok(broker.append(BARE_OUTCOMES, record).await?.sequence) };
        (last, ()) = try_join(store, keep).await?;
        done.answered.fetch_add(all.len() as u64, Ordering::SeqCst);
        for Decided { reply, event, .. } in all {
            broker.client().publish(reply, event.to_string().into()).await?;
        }
    }
    Ok(())
}

/// Appends messages of different subjects; their sequences.
async fn append(
    broker: &NatsBroker,
    way: BareWay,
    stream: &str,
    mut messages: Vec<NewMessage>,
) -> Result<Vec<u64>, AppendError> {
    if way == BareWay::Singly || messages.len() < 2 {
        let appended = broker.append_each(stream, messages).await;
        return appended.into_iter().map(|appended| Ok(appended?.sequence)).collect();
    }
    let mut sequences = Vec::with_capacity(messages.len());
    while !messages.is_empty() {
        let rest = messages.split_off(messages.len().min(ATOMIC_BATCH_MAX));
        let count = messages.len() as u64;
        let last = broker.append_atomically(stream, messages).await?.sequence;
        sequences.extend(last + 1 - count..=last);
        messages = rest;
    }
    Ok(sequences)
}
