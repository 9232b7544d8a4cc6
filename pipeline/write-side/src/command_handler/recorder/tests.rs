//! What recording waits for.

use std::{
    io,
    sync::{Condvar, Mutex},
    time::Duration,
};

use millstream_contract::stream_names::OUTCOMES;
use millstream_jetstream::{id_source::IdSource, nats_broker::NatsBroker, testing::test_server::TestServer};
use millstream_runtime::{health::Readiness, metrics::Metrics};
use redb::{StorageBackend, backends::InMemoryBackend};

use super::*;
use crate::command_handler::streams::Streams;

/// More than are gathered before they are written.
const IDS: u64 = 70_000;

/// A storage whose syncs do not end while it is shut.
#[derive(Debug)]
struct SlowStorage {
    content: InMemoryBackend,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

impl StorageBackend for SlowStorage {
    fn len(&self) -> io::Result<u64> {
        self.content.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.content.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.content.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let _open = self.gate.opened.wait_while(self.gate.shut.lock().unwrap(), |shut| *shut).unwrap();
        self.content.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.content.write(offset, data)
    }
}

async fn recorder(broker: &NatsBroker, index: &Arc<IdIndex>) -> Recorder<NatsBroker> {
    let ids = IdSource::new("run");
    let streams = Streams::look(broker, &ids).await.unwrap();
    let generations = streams.generations.clone();
    let journal = OutcomeJournal::take_over(broker.clone(), generations.clone(), ids, true).await.unwrap();
    let known = Known::new(generations, 0, 0);
    let observed = Observed::new(&Metrics::new(), &Readiness::new());
    Recorder::new(broker.clone(), journal, Arc::clone(index), known, observed)
}

fn round(positions: std::ops::RangeInclusive<u64>) -> SettledRound {
    let outcomes = positions.map(|position| CommandOutcome {
        position,
        id: Some(position.to_string().into()),
        address: "a.b.c.d".into(),
        outcome: Outcome::Accepted { sequence: position, version: 1, events: 1 },
        content: None,
    });
    SettledRound {
        outcomes: outcomes.collect(),
        begun: Instant::now(),
        replies: Vec::new(),
        set_aside_actors: BTreeMap::new(),
    }
}

/// With ten million ids in the file, nothing was recorded for ten seconds and more, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn recording_goes_on_while_ids_are_written() {
    let server = TestServer::start_provisioned().await;
    let broker = server.broker().await;
    let gate = Arc::<Gate>::default();
    let storage = SlowStorage { content: InMemoryBackend::new(), gate: Arc::clone(&gate) };
    let index = Arc::new(IdIndex::with_backend(storage).unwrap());
    let generation = broker.state(OUTCOMES).await.unwrap().generation;
    index.follow(&generation, 0, None).unwrap();
    let recorder = recorder(&broker, &index).await;
    gate.set(true);
    let (settled, rounds) = mpsc::channel(1);
    let recording = tokio::spawn(recorder.run(rounds));
    settled.send(round(1..=IDS)).await.unwrap();
    settled.send(round(IDS + 1..=IDS + 1)).await.unwrap();
    drop(settled);
    let recorded = tokio::time::timeout(Duration::from_secs(30), recording).await;
    gate.set(false);
    recorded.expect("recording waits for the file").unwrap().unwrap();
    let last = broker.last(OUTCOMES, ">").await.unwrap().unwrap();
    let last = millstream_contract::outcome::OutcomeRecord::from_stored(&last).unwrap();
    assert_eq!(last.through, IDS + 1);
    index.flush().unwrap();
    let uses = index.first_uses(&["1".into(), (IDS + 1).to_string().into()]).unwrap();
    assert!(uses.iter().all(Option::is_some), "{uses:?}");
}
