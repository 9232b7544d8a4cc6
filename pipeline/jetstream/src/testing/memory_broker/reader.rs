//! The twin's reader. It reads in order, each message once, and resumes by itself; a second reader with its name ends it.

use std::{pin::pin, sync::Arc, time::Duration};

use super::{MemoryBroker, world::Consumer};
use crate::{
    broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamReader},
    lost_tail::LossDoubt,
};
use millstream_contract::stored_message::StoredMessage;

/// The pause before a reader asks again for a consumer that it could not make.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// Reads a stream of a [`MemoryBroker`].
pub struct MemoryReader {
    broker: MemoryBroker,
    config: ReaderConfig,
    generation: String,
    after: u64,
    /// The last returned message, or the one after which reading began.
    last: Option<StoredMessage>,
    reader: u64,
    alive: Arc<()>,
    begun: bool,
    /// Whether the stream holds less than was read.
    loss: LossDoubt,
}

/// The result of a look at the stream.
enum Look {
    Messages(Vec<StoredMessage>),
    Nothing,
    /// The consumer is gone. A new one is made after this time.
    Doubt(Duration),
}

impl MemoryReader {
    pub(super) async fn open(broker: MemoryBroker, config: ReaderConfig) -> Result<Self, ReadError> {
        let reader = {
            let mut world = broker.world();
            world.readers += 1;
            world.readers
        };
        let mut reader = Self {
            generation: String::new(),
            after: config.after,
            last: None,
            reader,
            alive: Arc::new(()),
            begun: false,
            loss: LossDoubt::default(),
            config,
            broker,
        };
        reader.reopen().await?;
        Ok(reader)
    }

    /// Makes the consumer again where the reader stands, and repeats this until the server answers.
    async fn reopen(&mut self) -> Result<(), ReadError> {
        loop {
            match self.try_open().await {
                Err(ReadError::Broker(BrokerError::Unavailable { .. })) => {
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn try_open(&mut self) -> Result<(), ReadError> {
        let stream = self.config.stream.clone();
        if !self.begun && self.last.is_none() && self.after > 0 {
            self.last = self.broker.get(&stream, self.after).await?;
        }
        let state = self.broker.state(&stream).await?;
        if self.generation.is_empty() {
            self.generation = state.generation;
        } else if self.generation != state.generation {
            let expected = self.generation.clone();
            return Err(ReadError::OtherGeneration { stream, expected, found: state.generation });
        }
        if state.last_sequence < self.after {
            if !self.loss.believes() {
                let detail = "perhaps the leader does not know the end yet".into();
                return Err(BrokerError::Unavailable { operation: "state", detail }.into());
            }
            return Err(ReadError::LostTail { stream, last: state.last_sequence, after: self.after });
        }
        self.loss.clear();
        self.check_name()?;
        self.broker.travel().await;
        self.broker.running().await;
        let mut world = self.broker.world();
        if let Some(last) = &self.last
            && let Some(found) = world.streams.get(&stream).and_then(|stream| stream.get(self.after))
            && found != last
        {
            return Err(ReadError::OtherMessage { stream, sequence: self.after });
        }
        let connection = Arc::clone(&self.broker.connection);
        let consumer = Consumer { reader: self.reader, alive: Arc::downgrade(&self.alive), connection };
        world.consumers.insert((stream.clone(), self.config.name.clone()), consumer);
        world.trace(format_args!("consumer {} of {stream} made after {}", self.config.name, self.after));
        drop(world);
        self.begun = true;
        self.broker.changed();
        Ok(())
    }

    /// Refuses a name that another reader uses: at the start, if that reader is alive; later, if this reader's consumer is gone.
    fn check_name(&self) -> Result<(), ReadError> {
        let world = self.broker.world();
        let consumer = world.consumers.get(&(self.config.stream.clone(), self.config.name.clone()));
        let foreign = consumer.filter(|consumer| consumer.reader != self.reader);
        let alive = foreign.is_some_and(Consumer::is_alive);
        if foreign.is_some() && (self.begun || (alive && !self.config.replace_live)) {
            return Err(ReadError::TakenOver {
                stream: self.config.stream.clone(),
                name: self.config.name.clone(),
            });
        }
        Ok(())
    }

    fn look(&mut self, max: usize) -> Look {
        let mut world = self.broker.world();
        let ReaderConfig { stream, name, filters, .. } = &self.config;
        let consumer = world.consumers.get(&(stream.clone(), name.clone()));
        if consumer.is_none_or(|consumer| consumer.reader != self.reader) {
            return Look::Doubt(world.latency());
        }
        let most = usize::try_from(world.dice.between(1, max.max(1) as u64)).unwrap_or(max);
        let messages: Vec<StoredMessage> = world
            .streams
            .get(stream)
            .into_iter()
            .flat_map(|found| found.above(self.after, filters))
            .take(most)
            .cloned()
            .collect();
        if messages.is_empty() {
            return Look::Nothing;
        }
        let probability = world.plan.reader_interrupted;
        if world.strikes("reader interrupted", probability) {
            world.consumers.remove(&(stream.clone(), name.clone()));
            let longest = world.plan.interruption_max;
            return Look::Doubt(world.dice.time(longest));
        }
        Look::Messages(messages)
    }
}

impl StreamReader for MemoryReader {
    async fn next_batch(&mut self, max: usize) -> Result<Vec<StoredMessage>, ReadError> {
        loop {
            self.broker.running().await;
            let shared = Arc::clone(&self.broker.shared);
            let mut changed = pin!(shared.changed.notified());
            changed.as_mut().enable();
            match self.look(max) {
                Look::Messages(messages) => {
                    self.broker.travel().await;
                    self.broker.running().await;
                    self.last = messages.last().cloned();
                    self.after = self.last.as_ref().map_or(self.after, |last| last.sequence);
                    return Ok(messages);
                }
                Look::Nothing => {
                    changed.await;
                }
                Look::Doubt(time) => {
                    tokio::time::sleep(time).await;
                    self.broker.running().await;
                    self.reopen().await?;
                }
            }
        }
    }

    fn pending(&self) -> u64 {
        let world = self.broker.world();
        let stream = world.streams.get(&self.config.stream);
        stream.map_or(0, |found| found.above(self.after, &self.config.filters).count() as u64)
    }

    async fn close(self) {
        let mut world = self.broker.world();
        let key = (self.config.stream.clone(), self.config.name.clone());
        if world.consumers.get(&key).is_some_and(|consumer| consumer.reader == self.reader) {
            world.consumers.remove(&key);
        }
    }
}
