//! Reading in one lane: from the server to the writer, decoded, within the memory that the lane has.

use std::sync::{Arc, atomic::Ordering};

use millstream_contract::{stored_message::StoredMessage, stream_names::OUTCOMES};
use millstream_jetstream::{
    broker::{Broker, ReadError, ReaderConfig, StreamReader},
    set_aside::is_set_aside,
};
use millstream_runtime::stage_needs::consumer_behind;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    super::{
        MEMORY_UNIT, MEMORY_UNITS_BEHIND_MAX, MEMORY_UNITS_MAX, RunnerError,
        decoding::{Item, ItemSorter, Reach},
        lane::Lane,
        writer::{Messages, WriterTask},
    },
    Ended, Source,
};

/// The approximate memory of a message besides its payload: subject, headers, and what it decodes to.
const MESSAGE_OVERHEAD: usize = 1024;

impl<B: Broker> Source<B> {
    /// Opens the reader of a lane and hands over what it reads. So no lane waits for the other one's reader. The wait for a batch is
    /// never cancelled while reading goes on: by the length of that wait the reader notices that the server has fallen silent.
    pub(super) async fn feed(
        &self,
        lane: Lane,
        members: &[usize],
        reader: &mut Option<B::Reader>,
    ) -> Result<Ended, RunnerError> {
        let Some(after) = self.earliest(members) else {
            if members.is_empty() {
                self.remove_consumer(lane).await;
            }
            return std::future::pending().await;
        };
        let reader = match self.open(lane, after).await {
            Ok(opened) => reader.insert(opened),
            Err(error) => return Ok(self.doubt(error)?),
        };
        let mut sorter = ItemSorter::new(self.config.stream, members);
        loop {
            match reader.next_batch(self.config.runner.read_max()).await {
                Ok(messages) => {
                    let memory = self.reserve(lane, &messages).await;
                    let items = self.items(&mut sorter, messages).await?;
                    if self.hand_over(lane, items, memory).await.is_err() {
                        return Ok(Ended::Stop);
                    }
                }
                Err(error) => return Ok(self.doubt(error)?),
            }
        }
    }

    /// Removes the consumer of a lane that feeds nobody. A process that was killed while it caught up has left one, and the lag of
    /// that would grow for ever.
    async fn remove_consumer(&self, lane: Lane) {
        let (stream, consumer) = (self.config.stream, self.consumer(lane));
        if let Err(error) = self.broker.remove_consumer(stream, &consumer).await {
            tracing::debug!(stream, consumer, %error, "a consumer that nobody reads may stay");
        }
    }

    fn consumer(&self, lane: Lane) -> String {
        match lane {
            Lane::Ahead => self.config.consumer.clone(),
            Lane::Behind => consumer_behind(&self.config.consumer),
        }
    }

    async fn open(&self, lane: Lane, after: u64) -> Result<B::Reader, ReadError> {
        let config = ReaderConfig {
            stream: self.config.stream.to_owned(),
            name: self.consumer(lane),
            description: self.config.runner.description.clone(),
            after,
            filters: Vec::new(),
            replace_live: false,
        };
        Box::pin(self.broker.read(config)).await
    }

    async fn hand_over(
        &self,
        lane: Lane,
        items: Vec<Item>,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<(), mpsc::error::SendError<WriterTask>> {
        let stream_end = self.stream_end.load(Ordering::Relaxed);
        let messages = Messages { lane, items, memory, stream_end };
        let work = match self.config.stream {
            OUTCOMES => WriterTask::Records(messages),
            _ => WriterTask::Commits(messages),
        };
        self.inbox.send(work).await
    }

    /// The messages decoded; what is no commit and was set aside is passed over.
    async fn items(
        &self,
        sorter: &mut ItemSorter,
        messages: Vec<StoredMessage>,
    ) -> Result<Vec<Item>, RunnerError> {
        let item = |message| sorter.item(&self.set.members, message);
        let mut items: Vec<Item> = messages.into_iter().map(item).collect();
        let mut reach = Reach::new(&self.statuses);
        for item in &mut items {
            if !reach.covers(item) {
                continue;
            }
            match self.patiently(|| is_set_aside(&self.broker, &item.message)).await? {
                true => item.pass_over(),
                false => reach.ends_at(item),
            }
        }
        Ok(items)
    }

    /// Waits until the messages fit into the memory for what waits for the writer. This is what slows reading down when applying
    /// is slower.
    async fn reserve(&self, lane: Lane, messages: &[StoredMessage]) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = messages.iter().map(|message| message.payload.len() + MESSAGE_OVERHEAD).sum();
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
        let (memory, units) = match lane {
            Lane::Ahead => (&self.memory.ahead, units.min(MEMORY_UNITS_MAX)),
            Lane::Behind => (&self.memory.behind, units.min(MEMORY_UNITS_BEHIND_MAX)),
        };
        Arc::clone(memory).acquire_many_owned(units).await.ok()
    }
}
