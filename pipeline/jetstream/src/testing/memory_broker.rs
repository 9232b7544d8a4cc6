//! JetStream's twin in memory, for simulations: the same interface, with seeded randomness, virtual time, and every fault of a [`FaultPlan`].
//! It runs on a single-threaded runtime with paused time, so the same seed gives the same trace.
//!
//! An append still arrives if its sender is dropped. Deliberately absent: message schedules, time to live, object stores.

mod connection;
mod reader;
mod recording;
mod stream;
mod world;

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use millstream_contract::{
    stored_message::{Headers, StoredMessage},
    subject::is_reply_subject,
};
use tokio::sync::{Notify, oneshot};

use self::{
    connection::{Connection, Doing},
    recording::Recording,
    world::{Lease, Sent, World},
};
pub use self::{
    reader::MemoryReader,
    recording::Recorded,
    stream::MemoryStreamConfig,
    world::{EPOCH, FaultCounts},
};

use super::{
    fault_plan::FaultPlan,
    operation::{Operation, told_messages, told_state},
};
use crate::broker::{
    AppendError, Appended, Broker, BrokerError, NewMessage, Page, ReadError, ReaderConfig, StreamState,
};

/// A connection to the twin. Clones are the same connection; [`MemoryBroker::connect`] makes another one.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

struct Shared {
    world: Mutex<World>,
    /// Raised whenever a stream, a consumer or a lease changed.
    changed: Notify,
}

impl MemoryBroker {
    /// A server with the streams that `millstream setup` makes, all empty. Must be called within a tokio runtime.
    pub fn new(seed: u64, plan: FaultPlan) -> Self {
        Self::with_trace(seed, plan, false)
    }

    /// As [`MemoryBroker::new`], keeping the last lines of the trace for [`MemoryBroker::trace_lines`].
    pub fn with_trace(seed: u64, plan: FaultPlan, keep_trace: bool) -> Self {
        let shared = Shared { world: Mutex::new(World::new(seed, plan, keep_trace)), changed: Notify::new() };
        Self { shared: Arc::new(shared), connection: Arc::new(Connection::new()) }
    }

    /// Another process's connection to the same server.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), connection: Arc::new(Connection::new()) }
    }

    /// Kills the process: it gets no more answers, and its further questions are ignored. What it has sent still arrives.
    pub fn kill(&self) {
        self.connection.turn_to(Doing::Killed);
        self.changed();
    }

    /// Stops the process where it is (SIGSTOP) until [`MemoryBroker::thaw`]. What it has sent still arrives.
    pub fn freeze(&self) {
        self.connection.turn_to(Doing::Frozen);
    }

    /// Whether the process is stopped.
    pub fn is_frozen(&self) -> bool {
        self.connection.is_frozen()
    }

    /// Lets a stopped process continue (SIGCONT).
    pub fn thaw(&self) {
        self.connection.turn_to(Doing::Running);
    }

    /// From now on there are no faults. What is under way still arrives.
    pub fn heal(&self) {
        let mut world = self.world();
        world.plan = FaultPlan { message_id_first: world.plan.message_id_first, ..FaultPlan::none() };
        for stream in world.streams.values_mut() {
            stream.leaderless_until = None;
            stream.full_until = None;
        }
        world.trace(format_args!("healed"));
    }

    /// Makes a stream, or makes it again, empty and with a new generation.
    pub fn make_stream(&self, config: MemoryStreamConfig) {
        self.world().make_stream(config);
    }

    /// Limits the number of messages a stream holds; more are refused.
    pub fn limit_stream(&self, stream: &str, messages_max: Option<usize>) {
        if let Some(stream) = self.world().streams.get_mut(stream) {
            stream.config.messages_max = messages_max;
        }
    }

    /// Removes messages at or below `through`.
    pub fn purge(&self, stream: &str, through: u64) {
        if let Some(stream) = self.world().streams.get_mut(stream) {
            stream.purge(through);
        }
    }

    /// The last sequence of each stream.
    pub fn ends(&self) -> Vec<(String, u64)> {
        let world = self.world();
        world.streams.iter().map(|(name, stream)| (name.clone(), stream.state().last_sequence)).collect()
    }

    /// The server restarts without the last `count` messages of a stream.
    pub fn lose_tail(&self, stream: &str, count: u64) {
        let mut world = self.world();
        if let Some(stream) = world.streams.get_mut(stream) {
            stream.lose_tail(count);
        }
        world.consumers.clear();
        world.trace(format_args!("{stream} lost its last {count} messages"));
        drop(world);
        self.changed();
    }

    /// The server restarts. Consumers are gone, and readers make theirs again.
    pub fn restart(&self) {
        let mut world = self.world();
        world.consumers.clear();
        world.trace(format_args!("restarted"));
        drop(world);
        self.changed();
    }

    /// All that a stream holds.
    pub fn dump(&self, stream: &str) -> Vec<StoredMessage> {
        let world = self.world();
        world.streams.get(stream).into_iter().flat_map(|found| found.above(0, &[])).cloned().collect()
    }

    /// All plain messages sent so far; `sequence` counts them.
    pub fn sent(&self) -> Vec<StoredMessage> {
        self.world().sent.clone()
    }

    /// Forgets all plain messages sent so far.
    pub fn forget_sent(&self) {
        self.world().sent.clear();
    }

    /// From now on, notes questions and answers, for [`MemoryBroker::recorded`].
    pub fn start_recording(&self) {
        self.world().recording = Some(Recording::default());
    }

    /// The questions since [`MemoryBroker::start_recording`], in the order in which they arrived.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.world().recording.as_ref().map(Recording::take).unwrap_or_default()
    }

    /// How often each fault has happened.
    pub fn faults(&self) -> FaultCounts {
        self.world().faults.clone()
    }

    /// A hash of all questions and answers, with their order and times.
    pub fn trace_hash(&self) -> u64 {
        self.world().trace_hash()
    }

    /// The last lines of the trace, if they are kept.
    pub fn trace_lines(&self) -> Vec<String> {
        self.world().trace_lines()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().expect("nothing panics while it holds the world")
    }

    fn changed(&self) {
        self.shared.changed.notify_waiters();
    }

    async fn running(&self) {
        self.connection.running().await;
    }

    /// The time that a message takes in one direction.
    async fn travel(&self) {
        let time = self.world().latency();
        tokio::time::sleep(time).await;
    }

    /// Asks a question: the question travels, `answer` is computed at one instant, and the answer travels back.
    async fn ask<T>(&self, answer: impl FnOnce(&mut World) -> T) -> T {
        self.running().await;
        self.travel().await;
        let answer = answer(&mut self.world());
        self.travel().await;
        self.running().await;
        answer
    }

    async fn publish(&self, stream: &str, sent: Sent) -> Result<Appended, AppendError> {
        self.running().await;
        let subject = sent.subject();
        let flight = self.world().launch(stream);
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(self.clone().fly(flight, stream.to_owned(), sent, sender));
        let answer = tokio::time::timeout(flight.patience, receiver).await;
        self.running().await;
        match answer {
            Ok(Ok(result)) => result,
            _ => Err(AppendError::Unclear { subject, detail: "no answer in time".into() }),
        }
    }

    /// Carries messages to the server, even if their sender is dropped.
    async fn fly(
        self,
        flight: world::Flight,
        stream: String,
        sent: Sent,
        answer: oneshot::Sender<Result<Appended, AppendError>>,
    ) {
        let Some(time) = flight.arrives else {
            // Keeping the sender leaves the other end without an answer, as if the message were lost.
            tokio::time::sleep(flight.patience).await;
            return drop(answer);
        };
        tokio::time::sleep(time).await;
        let result = self.world().arrive(&stream, &sent);
        self.changed();
        if let Some(time) = flight.answer {
            tokio::time::sleep(time).await;
            // Nobody listens if the sender has given up or was killed.
            let _ = answer.send(result);
        } else {
            tokio::time::sleep(flight.patience).await;
        }
        if let Some(time) = flight.again {
            tokio::time::sleep(time).await;
            // The second answer goes to nobody, because the sender already has the first one.
            let _ = self.world().arrive(&stream, &sent);
            self.changed();
        }
    }
}

impl Broker for MemoryBroker {
    type Reader = MemoryReader;

    async fn append(&self, stream: &str, message: NewMessage) -> Result<Appended, AppendError> {
        self.publish(stream, Sent::Single(message)).await
    }

    async fn append_atomically(
        &self,
        stream: &str,
        messages: Vec<NewMessage>,
    ) -> Result<Appended, AppendError> {
        self.publish(stream, Sent::Batch(messages)).await
    }

    async fn load_page(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        bytes: usize,
    ) -> Result<Page, BrokerError> {
        let filter = [subject.to_owned()];
        self.ask(|world| {
            let end = world.replica_end(stream);
            let found = world.leader(stream, "load")?;
            let mut messages: Vec<_> = found.above(from.saturating_sub(1), &filter).cloned().collect();
            world.record(|| {
                let (stream, subject) = (stream.to_owned(), subject.to_owned());
                (Operation::Load { stream, subject, from }, told_messages(&messages))
            });
            messages.retain(|message| message.sequence <= end);
            let mut left = bytes;
            let fit = messages.iter().take_while(|message| {
                let before = left;
                left = left.saturating_sub(message.payload.len());
                before > 0
            });
            let fit = fit.count();
            let more = fit < messages.len();
            messages.truncate(fit);
            world.trace(format_args!("load {subject} from {from}: {} messages up to {end}", messages.len()));
            Ok(Page { messages, more })
        })
        .await
    }

    async fn last(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        self.ask(|world| {
            let last = world.leader(stream, "last")?.last_of(subject).cloned();
            world.record(|| {
                let (stream, subject) = (stream.to_owned(), subject.to_owned());
                (Operation::Last { stream, subject }, told_messages(last.as_slice()))
            });
            let sequence = last.as_ref().map(|message| message.sequence);
            world.trace(format_args!("last of {subject}: {sequence:?}"));
            Ok(last)
        })
        .await
    }

    async fn get(&self, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        self.ask(|world| {
            let message = world.leader(stream, "get")?.get(sequence).cloned();
            world.record(|| {
                let stream = stream.to_owned();
                (Operation::Get { stream, sequence }, told_messages(message.as_slice()))
            });
            world.trace(format_args!("get {sequence} of {stream}: {}", message.is_some()));
            Ok(message)
        })
        .await
    }

    async fn state(&self, stream: &str) -> Result<StreamState, BrokerError> {
        self.ask(|world| {
            let mut state = world.leader(stream, "state")?.state();
            let whole = world.state_end(&mut state);
            if whole {
                world.record(|| (Operation::State { stream: stream.to_owned() }, told_state(&state)));
            }
            world
                .trace(format_args!("state of {stream}: {}..={}", state.first_sequence, state.last_sequence));
            Ok(state)
        })
        .await
    }

    async fn read(&self, config: ReaderConfig) -> Result<MemoryReader, ReadError> {
        MemoryReader::open(self.clone(), config).await
    }

    async fn remove_consumer(&self, stream: &str, name: &str) -> Result<(), BrokerError> {
        let removed = self.ask(|world| {
            world.leader(stream, "remove consumer")?;
            world.consumers.remove(&(stream.to_owned(), name.to_owned()));
            Ok(())
        });
        removed.await.inspect(|()| self.changed())
    }

    async fn send(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BrokerError> {
        if !is_reply_subject(subject) {
            return Ok(());
        }
        self.ask(|world| {
            let probability = world.plan.send_lost;
            if world.strikes("send lost", probability) {
                return Ok(());
            }
            let sequence = world.sent.len() as u64 + 1;
            let stored_at = world.now();
            world.trace(format_args!("sent {subject}, {} B", payload.len()));
            world.sent.push(StoredMessage {
                subject: subject.to_owned(),
                sequence,
                stored_at,
                headers,
                payload,
            });
            Ok(())
        })
        .await
    }

    async fn purge_subject(
        &self,
        stream: &str,
        filter: &str,
        through: Option<u64>,
    ) -> Result<u64, BrokerError> {
        self.ask(|world| {
            world.leader(stream, "purge")?;
            let found = world.streams.get_mut(stream);
            let purged = found.map_or(0, |found| found.purge_subject(filter, through.unwrap_or(u64::MAX)));
            world.trace(format_args!("purged {purged} of {filter} from {stream}"));
            Ok(purged)
        })
        .await
    }

    async fn remove(&self, stream: &str, sequence: u64) -> Result<(), BrokerError> {
        self.ask(|world| {
            world.leader(stream, "remove")?;
            if let Some(found) = world.streams.get_mut(stream) {
                found.remove(sequence);
            }
            world.trace(format_args!("removed {sequence} from {stream}"));
            Ok(())
        })
        .await
    }

    async fn hold_lease(&self, key: &str, owner: &str, time_to_live: Duration) -> Result<bool, BrokerError> {
        self.ask(|world| {
            let plan = world.plan.clone();
            let unanswered = world.strikes("lease unanswered", plan.lease_unanswered);
            let no_answer =
                || BrokerError::Unavailable { operation: "hold lease", detail: "no answer".into() };
            if unanswered && world.dice.chance(0.5) {
                return Err(no_answer());
            }
            let now = world.now();
            let other = world.leases.get(key).is_some_and(|lease| lease.owner != owner && lease.is_held(now));
            let held = !other || world.strikes("lease given twice", plan.lease_given_twice);
            if held {
                let until = world.after(time_to_live);
                let connection = Arc::clone(&self.connection);
                world.leases.insert(key.to_owned(), Lease { owner: owner.to_owned(), until, connection });
            }
            world.trace(format_args!("lease {key} for {owner}: {held}"));
            if unanswered { Err(no_answer()) } else { Ok(held) }
        })
        .await
    }

    async fn release_lease(&self, key: &str, owner: &str) -> Result<(), BrokerError> {
        let result = self
            .ask(|world| {
                let probability = world.plan.lease_unanswered;
                if world.strikes("lease unanswered", probability) {
                    let detail = "no answer".into();
                    return Err(BrokerError::Unavailable { operation: "release lease", detail });
                }
                if world.leases.get(key).is_some_and(|lease| lease.owner == owner) {
                    world.leases.remove(key);
                }
                world.trace(format_args!("lease {key} given back by {owner}"));
                Ok(())
            })
            .await;
        self.changed();
        result
    }

    async fn lease_owner(&self, key: &str) -> Result<Option<String>, BrokerError> {
        self.ask(|world| {
            let probability = world.plan.lease_unanswered;
            if world.strikes("lease unanswered", probability) {
                let detail = "no answer".into();
                return Err(BrokerError::Unavailable { operation: "lease owner", detail });
            }
            let now = world.now();
            let held = world.leases.get(key).filter(|lease| lease.until > now);
            Ok(held.map(|lease| lease.owner.clone()))
        })
        .await
    }

    async fn lease_freed(&self, key: &str, wait: Duration) {
        self.running().await;
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let lapses = {
                let world = self.world();
                let now = world.now();
                match world.leases.get(key) {
                    Some(lease) if lease.is_held(now) => lease.until.duration_since(now).unsigned_abs(),
                    _ => return,
                }
            };
            let wake = deadline.min(tokio::time::Instant::now() + lapses);
            // A change and a lapse are both detected by the check above.
            let _ = tokio::time::timeout_at(wake, changed).await;
            if tokio::time::Instant::now() >= deadline {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
