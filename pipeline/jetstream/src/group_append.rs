//! Appends many messages of one stream together: singly and all in flight at once, or fused into atomic batches. Which is
//! faster depends on how the server syncs and on its replicas (docs/benchmarks.md), so both are measured while working and
//! the cheaper one is used, singles in doubt; nobody has to configure it.
//!
//! Batches are as large as the server takes. For each message of a batch it adds up what the batch holds of every subject, to
//! know whether a stream that refuses what is new still has space, so that smaller batches would save some of it; but on one
//! server each batch is also staged in a folder of its own, which costs more.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::Instant;

use crate::broker::{ATOMIC_BATCH_MAX, AppendError, Broker, NewMessage};

/// After so many appends of a size the slower way is tried once more: circumstances change.
const PROBE_EVERY: u32 = 64;
/// The most appends between two probes. The number doubles with each probe that changes nothing.
const PROBE_EVERY_MAX: u32 = 4096;
/// If the way in use costs this many times what it did at the last probe, circumstances have changed, and the next probe comes soon.
const CHANGED: f64 = 2.0;
/// Messages that try single appends when nothing is known of them. Where each is synced alone, a thousand take half a second.
const PROBE_FIRST: usize = 256;
/// Messages that try them again while they are far slower, and how much slower that is.
const PROBE_HOPELESS: usize = 64;
const HOPELESS: f64 = 3.0;
/// So much slower singles may seem before batches are used. Whoever appends measures elapsed time, of which a batch takes less
/// than its share: it also costs the server CPU that readers and other writers wait for.
const LEANING: f64 = 2.0;
/// If a single append takes at least this many seconds, even when many are in flight together, the server waits for its disk at each one and
/// not for its processor. A batch then saves as much as it seems to. The number is chosen: it lies between the 8 µs that a message takes the
/// server when it is only written, and the 360 µs of one that is synced, at 2,800 a second (docs/benchmarks.md).
const SYNCED_SINGLY: f64 = 100e-6;
/// Single appends in flight together: where each is synced alone, the last of them still has its answer before an append counts
/// as unclear.
const SINGLES_MAX: usize = 2000;
/// Bytes on their way together: the server holds what it has not stored yet in memory, 128 MiB at most for a stream, and drops
/// the rest without an answer.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// The least of so many measurements counts: a disk that stalls for a moment makes what was on its way look dear, and nothing makes
/// it look cheap.
const MEASUREMENTS: usize = 4;
/// Sizes are told apart by their powers of two; the last class holds everything above.
const SIZE_CLASSES: usize = 12;

/// How appends travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendStrategy {
    /// Singly, or in batches where they have been measured to be clearly faster.
    #[default]
    Measured,
    /// Each on its own, all in flight together.
    Single,
    /// Fused into atomic batches.
    Atomic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Single,
    Atomic,
}

/// Which way the next messages go, and at most how many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Choice {
    way: Way,
    messages: usize,
}

/// Seconds a message has taken, the last few times.
#[derive(Debug, Clone, Copy, Default)]
struct Cost([Option<f64>; MEASUREMENTS]);

impl Cost {
    fn least(&self) -> Option<f64> {
        self.0.iter().flatten().copied().reduce(f64::min)
    }

    fn note(&mut self, newest: f64) {
        self.0.rotate_right(1);
        if let Some(place) = self.0.first_mut() {
            *place = Some(newest);
        }
    }
}

/// What each way has cost for appends of a size.
#[derive(Debug, Clone, Copy)]
struct Costs {
    single: Cost,
    atomic: Cost,
    probes: Probes,
}

impl Default for Costs {
    fn default() -> Self {
        let probes = Probes { appends: 0, after: PROBE_EVERY, cheaper: Way::Single, cost: f64::INFINITY };
        Self { single: Cost::default(), atomic: Cost::default(), probes }
    }
}

/// Decides when the slower way is tried again. Appends in a probe wait longer than others, so the pauses double as long as nothing changes.
#[derive(Debug, Clone, Copy)]
struct Probes {
    /// Appends since the last probe.
    appends: u32,
    /// After how many the next one is due.
    after: u32,
    /// Which way was cheaper at the last append.
    cheaper: Way,
    /// Its cost at the last probe, or at the last change if that is newer.
    cost: f64,
}

impl Probes {
    /// Whether a further append should go the other way.
    fn is_due(&mut self, cheaper: Way, cost: f64) -> bool {
        self.appends += 1;
        if cheaper != self.cheaper || cost > self.cost * CHANGED {
            (self.cheaper, self.cost, self.after) = (cheaper, cost, PROBE_EVERY);
        }
        if self.appends < self.after {
            return false;
        }
        (self.appends, self.cost) = (0, cost);
        self.after = (self.after * 2).min(PROBE_EVERY_MAX);
        true
    }
}

/// What appends of each size have cost.
#[derive(Debug, Default)]
struct Measurements([Costs; SIZE_CLASSES]);

impl Measurements {
    /// A batch pays for itself by its size, so each size finds out for itself, which costs little. A single append costs about
    /// the same however many there are.
    fn choose(&mut self, class: usize) -> Choice {
        let near = (0..class).rev().chain(class..SIZE_CLASSES);
        let nearest = near.filter_map(|other| self.0.get(other)?.single.least()).next();
        let leaning = if self.synced_singly() { 1.0 } else { LEANING };
        let Some(costs) = self.0.get_mut(class) else { return Choice::all(Way::Single) };
        let Some(atomic) = costs.atomic.least() else {
            return Choice { way: Way::Atomic, messages: ATOMIC_BATCH_MAX };
        };
        let Some(single) = costs.single.least().or(nearest) else {
            return Choice { way: Way::Single, messages: PROBE_FIRST };
        };
        let cheaper = if single <= atomic * leaning { Way::Single } else { Way::Atomic };
        let cost = if cheaper == Way::Single { single } else { atomic };
        match cheaper {
            way if !costs.probes.is_due(way, cost) => Choice::all(way),
            Way::Single => Choice { way: Way::Atomic, messages: ATOMIC_BATCH_MAX },
            Way::Atomic if single > atomic * HOPELESS => {
                Choice { way: Way::Single, messages: PROBE_HOPELESS }
            }
            Way::Atomic => Choice { way: Way::Single, messages: ATOMIC_BATCH_MAX },
        }
    }

    /// Whether the server seems to sync each single append. The lowest cost of all sizes counts, because for a few messages the round trip
    /// alone makes each seem slow.
    fn synced_singly(&self) -> bool {
        let least = self.0.iter().filter_map(|costs| costs.single.least()).reduce(f64::min);
        least.is_some_and(|least| least >= SYNCED_SINGLY)
    }

    fn note(&mut self, class: usize, way: Way, cost: Duration) {
        let Some(costs) = self.0.get_mut(class) else { return };
        let known = match way {
            Way::Single => &mut costs.single,
            Way::Atomic => &mut costs.atomic,
        };
        known.note(cost.as_secs_f64());
    }
}

impl Choice {
    fn all(way: Way) -> Self {
        Self { way, messages: usize::MAX }
    }
}

/// Appends to one stream.
#[derive(Debug)]
pub struct GroupAppend<B> {
    broker: B,
    stream: &'static str,
    strategy: AppendStrategy,
    measurements: Mutex<Measurements>,
}

impl<B: Broker> GroupAppend<B> {
    /// Appends to `stream`.
    pub fn new(broker: B, stream: &'static str, strategy: AppendStrategy) -> Self {
        Self { broker, stream, strategy, measurements: Mutex::default() }
    }

    fn measurements(&self) -> MutexGuard<'_, Measurements> {
        self.measurements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends all messages, no two of the same subject with an expectation; one answer each, in their order. Where an atomic
    /// batch is refused as a whole, its messages are appended singly, so that one never spoils its neighbours. After an
    /// unclear answer to a batch all of its messages are unclear.
    pub async fn append_all(&self, messages: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let (class, telling) = (size_class(messages.len()), messages.len().min(PROBE_HOPELESS));
        match self.strategy {
            _ if messages.len() < 2 => self.append(Way::Single, messages).await,
            AppendStrategy::Single => self.append(Way::Single, messages).await,
            AppendStrategy::Atomic => self.append(Way::Atomic, messages).await,
            AppendStrategy::Measured => {
                let mut messages = messages.into_iter();
                let mut answers = Vec::with_capacity(messages.len());
                while messages.len() > 0 {
                    let choice = self.measurements().choose(class);
                    let part: Vec<_> = messages.by_ref().take(choice.messages).collect();
                    let (begun, count) = (Instant::now(), part.len());
                    let answered = self.append(choice.way, part).await;
                    // What failed tells nothing about the cost, and neither do a few left over.
                    if count >= telling && answered.iter().all(Result::is_ok) {
                        let cost = begun.elapsed().div_f64(count as f64);
                        self.measurements().note(class, choice.way, cost);
                    }
                    answers.extend(answered);
                }
                answers
            }
        }
    }

    async fn append(&self, way: Way, messages: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        match way {
            Way::Single => self.append_singly(messages).await,
            Way::Atomic => self.append_in_batches(messages).await,
        }
    }

    async fn append_singly(&self, messages: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let mut answers = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter();
        while messages.len() > 0 {
            let part = take_part(&mut messages, SINGLES_MAX);
            let appended = self.broker.append_each(self.stream, part).await;
            answers.extend(appended.into_iter().map(|answer| Ok(answer?.sequence)));
        }
        answers
    }

    async fn append_in_batches(&self, messages: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let mut answers = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter();
        while messages.len() > 0 {
            let mut part = take_part(&mut messages, usize::MAX).into_iter();
            let mut batches = Vec::new();
            while part.len() > 0 {
                batches.push(self.append_batch(part.by_ref().take(ATOMIC_BATCH_MAX).collect()));
            }
            answers.extend(join_all(batches).await.into_iter().flatten());
        }
        answers
    }

    async fn append_batch(&self, batch: Vec<NewMessage>) -> Vec<Result<u64, AppendError>> {
        let count = batch.len() as u64;
        match self.broker.append_atomically(self.stream, batch.clone()).await {
            Ok(last) => (last.sequence + 1 - count..=last.sequence).map(Ok).collect(),
            Err(unclear @ AppendError::Unclear { .. }) => {
                batch.iter().map(|_| Err(unclear.clone())).collect()
            }
            Err(_) => self.append_singly(batch).await,
        }
    }
}

/// The next messages, at most `max` of them and about [`BYTES_MAX`] bytes, at least one.
fn take_part(messages: &mut std::vec::IntoIter<NewMessage>, max: usize) -> Vec<NewMessage> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    while part.len() < max
        && bytes < BYTES_MAX
        && let Some(message) = messages.next()
    {
        bytes += message.size();
        part.push(message);
    }
    part
}

fn size_class(count: usize) -> usize {
    let power = usize::BITS - count.leading_zeros();
    (power as usize).min(SIZE_CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use millstream_contract::{stored_message::Headers, stream_names::COMMANDS};

    use super::*;
    use crate::testing::{raw_client::RawClient, test_server::TestServer};

    /// What nats-server lets a stream have.
    const BATCHES_OPEN_MAX: usize = 50;

    /// The server forgets what comes of a further batch, and says of its end that the batch is incomplete.
    #[tokio::test]
    async fn what_comes_while_others_hold_all_batches_open_goes_one_by_one() {
        let server = TestServer::start_provisioned().await;
        let mut raw = RawClient::connect(&server.url()).await;
        for number in 0..BATCHES_OPEN_MAX {
            let block = format!("NATS/1.0\r\nNats-Batch-Id: open-{number}\r\nNats-Batch-Sequence: 1\r\n\r\n");
            raw.publish("cmd.a.b.c.d", block, "{}").await;
        }
        let broker = server.broker().await;
        let command = |number: usize| NewMessage {
            subject: format!("cmd.a.b.{number}.d"),
            expected_last: None,
            headers: Headers::new(),
            payload: "{}".into(),
        };
        let refused = broker.append_atomically(COMMANDS, (0..3).map(command).collect()).await;
        assert!(matches!(refused, Err(AppendError::Refused { .. })), "{refused:?}");
        let appends = GroupAppend::new(broker, COMMANDS, AppendStrategy::Atomic);
        let appended = appends.append_all((0..3).map(command).collect()).await;
        assert!(matches!(*appended, [Ok(1), Ok(2), Ok(3)]), "{appended:?}");
    }

    const CLASS: usize = 10;

    #[test]
    fn the_cheaper_way_is_used_and_the_other_probed_now_and_then_with_a_few() {
        let mut measurements = Measurements::default();
        assert_eq!(measurements.choose(CLASS), Choice { way: Way::Atomic, messages: ATOMIC_BATCH_MAX });
        measurements.note(CLASS, Way::Atomic, Duration::from_micros(30));
        assert_eq!(measurements.choose(CLASS), Choice { way: Way::Single, messages: PROBE_FIRST });
        measurements.note(CLASS, Way::Single, Duration::from_micros(300));
        let probe = Choice { way: Way::Single, messages: PROBE_HOPELESS };
        let mut probed = Vec::new();
        let mut choose = |measurements: &mut Measurements, number| match measurements.choose(CLASS) {
            choice if choice == probe => probed.push(number),
            choice => assert_eq!(choice, Choice::all(Way::Atomic)),
        };
        (1..=PROBE_EVERY * 15).for_each(|number| choose(&mut measurements, number));
        // What it costs has changed: a probe comes soon.
        for _ in 0..MEASUREMENTS {
            measurements.note(CLASS, Way::Atomic, Duration::from_micros(90));
        }
        (1..=PROBE_EVERY).for_each(|number| choose(&mut measurements, PROBE_EVERY * 15 + number));
        assert_eq!(probed, [1, 3, 7, 15, 16].map(|times| PROBE_EVERY * times));
    }

    #[test]
    fn batches_have_to_be_clearly_faster() {
        let mut measurements = Measurements::default();
        measurements.note(CLASS, Way::Atomic, Duration::from_micros(30));
        measurements.note(CLASS, Way::Single, Duration::from_micros(50));
        assert_eq!(measurements.choose(CLASS), Choice::all(Way::Single));
        let mut measurements = Measurements::default();
        measurements.note(CLASS, Way::Atomic, Duration::from_micros(30));
        measurements.note(CLASS, Way::Single, Duration::from_micros(70));
        assert_eq!(measurements.choose(CLASS), Choice::all(Way::Atomic));
    }

    #[test]
    fn batches_of_few_are_used_as_soon_as_they_are_faster_where_each_single_append_is_synced() {
        const FEW: usize = 5;
        let mut measurements = Measurements::default();
        measurements.note(FEW, Way::Atomic, Duration::from_micros(170));
        measurements.note(FEW, Way::Single, Duration::from_micros(200));
        assert_eq!(measurements.choose(FEW), Choice::all(Way::Atomic));
        // Many that travel together show that it was the way there and back, not the disk.
        measurements.note(CLASS, Way::Single, Duration::from_micros(20));
        assert_eq!(measurements.choose(FEW), Choice::all(Way::Single));
    }

    #[test]
    fn disk_that_stalls_for_a_moment_changes_nothing() {
        let mut measurements = Measurements::default();
        measurements.note(CLASS, Way::Single, Duration::from_micros(500));
        measurements.note(CLASS, Way::Atomic, Duration::from_micros(50));
        for stalled in 1..MEASUREMENTS {
            measurements.note(CLASS, Way::Atomic, Duration::from_micros(900));
            assert_eq!(measurements.choose(CLASS), Choice::all(Way::Atomic), "{stalled} times");
        }
        measurements.note(CLASS, Way::Atomic, Duration::from_micros(900));
        assert_eq!(measurements.choose(CLASS), Choice::all(Way::Single), "it has become slow");
    }

    #[test]
    fn another_size_knows_single_appends_already_and_tries_batches() {
        let mut measurements = Measurements::default();
        measurements.note(CLASS, Way::Single, Duration::from_micros(300));
        measurements.note(CLASS, Way::Atomic, Duration::from_micros(30));
        assert_eq!(measurements.choose(3).way, Way::Atomic);
        measurements.note(3, Way::Atomic, Duration::from_micros(400));
        assert_eq!(measurements.choose(3), Choice::all(Way::Single));
    }

    #[test]
    fn a_way_that_became_cheaper_is_found() {
        let mut measurements = Measurements::default();
        measurements.note(CLASS, Way::Single, Duration::from_micros(10));
        measurements.note(CLASS, Way::Atomic, Duration::from_micros(30));
        let mut atomic = 0;
        for _ in 0..PROBE_EVERY * 8 {
            let Choice { way, .. } = measurements.choose(CLASS);
            atomic += u32::from(way == Way::Atomic);
            measurements.note(CLASS, way, Duration::from_micros(if way == Way::Single { 300 } else { 30 }));
        }
        assert!(atomic > PROBE_EVERY * 6, "{atomic}");
    }

    #[test]
    fn sizes_fall_into_classes() {
        assert_eq!(
            (size_class(1), size_class(2), size_class(3), size_class(1_000_000)),
            (1, 2, 2, SIZE_CLASSES - 1)
        );
    }
}
