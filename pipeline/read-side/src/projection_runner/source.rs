//! Reads one stream for its projections: checks their checkpoints, reads on after the earliest of them, and starts over if the stream turns out
//! to be a different one.
//!
//! Projections that are far behind the others, for example because they are rebuilt, have a second reader until they have caught up, so that
//! the others follow the stream's end ([`super::reader_lane`]). `source/start_positions.rs` checks the checkpoints and assigns the lanes.

mod start_positions;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use millstream_contract::{stored_message::StoredMessage, stream_names::OUTCOMES};
use millstream_jetstream::{
    broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamReader, StreamState},
    set_aside::is_set_aside,
};
use millstream_runtime::stage_needs::consumer_behind;
use millstream_store::read_store::ReadStore;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    MEMORY_UNIT, MEMORY_UNITS_BEHIND_MAX, MEMORY_UNITS_MAX, RunnerConfig, RunnerError,
    decoding::{Item, ItemSorter, Reach},
    follower::RowFollower,
    projection_set::ProjectionSet,
    reader_lane::{ByLane, Lane},
    status::StatusBoard,
    writer::{Messages, WriterTask},
};

/// The pause before an unanswered question is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The approximate memory of a message besides its payload: subject, headers, and what it decodes to.
const MESSAGE_OVERHEAD: usize = 1024;

/// Which stream to read, under which name, and for which projections.
pub(super) struct SourceConfig {
    pub(super) stream: &'static str,
    pub(super) consumer: String,
    pub(super) members: Vec<usize>,
    pub(super) runner: RunnerConfig,
    /// The follower that keeps the rows elsewhere as well.
    pub(super) follower: Option<Arc<dyn RowFollower>>,
}

/// The reading side of one stream.
pub(super) struct Source<B> {
    broker: B,
    store: ReadStore,
    set: Arc<ProjectionSet>,
    statuses: StatusBoard,
    config: SourceConfig,
    inbox: mpsc::Sender<WriterTask>,
    memory: Arc<ByLane<Arc<Semaphore>>>,
    members: Arc<[usize]>,
    /// Whether the stream has existed since this process started.
    begun: bool,
    /// The last sequence of the stream when the source last asked for it.
    stream_end: AtomicU64,
}

/// Why reading ended without an error.
enum Ended {
    /// The process or the writer is ending.
    Stop,
    /// The stream may be another one, or the lanes must be assigned anew; the checkpoints must be checked again.
    Doubt,
}

impl<B: Broker> Source<B> {
    pub(super) fn new(
        broker: B,
        store: ReadStore,
        set: Arc<ProjectionSet>,
        statuses: StatusBoard,
        config: SourceConfig,
        inbox: mpsc::Sender<WriterTask>,
        memory: Arc<ByLane<Arc<Semaphore>>>,
    ) -> Self {
        let members = config.members.as_slice().into();
        Self {
            broker,
            store,
            set,
            statuses,
            config,
            inbox,
            memory,
            members,
            begun: false,
            stream_end: AtomicU64::new(0),
        }
    }

    /// Reads until `stop`.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<(), RunnerError> {
        if self.members.is_empty() {
            stop.cancelled().await;
            return Ok(());
        }
        let work = async {
            loop {
                let (state, lanes) = self.begin().await?;
                if matches!(self.read(&state, &lanes).await?, Ended::Stop) {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = work => ended,
        }
    }

    /// Checks every checkpoint, assigns the lanes, and hands both to the writer.
    async fn begin(&mut self) -> Result<(StreamState, ByLane<Vec<usize>>), RunnerError> {
        // The barrier waits until everything that was read before is applied, so that the checkpoints in the file are current.
        self.tell(|done| WriterTask::Barrier { done }).await;
        let (state, mut starts) = self.judge_beyond_doubt().await?;
        self.announce(&starts);
        let lanes = self.assign_lanes(&mut starts);
        let stream = self.config.stream;
        self.tell(|done| WriterTask::Start { stream, starts, done }).await;
        self.look(&state);
        self.begun = true;
        Ok((state, lanes))
    }

    /// Sends work to the writer and waits until it is done. If the writer has ended, this waits for ever; `run` then ends because the writer's
    /// end cancels `stop`.
    async fn tell(&self, work: impl FnOnce(oneshot::Sender<()>) -> WriterTask) {
        let (done, answered) = oneshot::channel();
        if self.inbox.send(work(done)).await.is_err() || answered.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reads on in both lanes until the checkpoints must be checked again.
    async fn read(&self, state: &StreamState, lanes: &ByLane<Vec<usize>>) -> Result<Ended, RunnerError> {
        let mut readers: ByLane<Option<B::Reader>> = ByLane::default();
        let ByLane { ahead, behind } = &mut readers;
        if self.earliest(&lanes.ahead).is_none() {
            // This lane feeds no projection, so it removes the consumer that an earlier process may have left.
            let behind = Box::pin(self.feed(Lane::Behind, &[], behind));
            return tokio::select! {
                biased;
                ended = self.stand_by(state) => ended,
                ended = behind => ended,
            };
        }
        // The futures are boxed. Without optimisation, such futures are copied from frame to frame, and the stack of a thread is small.
        let ahead = Box::pin(self.feed(Lane::Ahead, &lanes.ahead, ahead));
        let behind = Box::pin(self.feed(Lane::Behind, &lanes.behind, behind));
        let ended = tokio::select! {
            biased;
            ended = self.oversee(state, lanes) => ended?,
            ended = ahead => ended?,
            ended = behind => ended?,
        };
        if matches!(ended, Ended::Doubt) {
            // The consumers are removed, too. The second one may never be read again, so its lag would grow for ever. The server might still
            // take the first one for a living reader's when it is made again.
            let closing = [readers.ahead, readers.behind].into_iter().flatten().map(StreamReader::close);
            join_all(closing).await;
        }
        Ok(ended)
    }

    /// Opens the reader of a lane and passes on what it reads. So no lane waits for the other one's reader. The wait for a batch is never
    /// cancelled while reading continues, because from the length of that wait the reader notices that the server has fallen silent.
    async fn feed(
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

    /// Removes the consumer of a lane that feeds nobody. A process that was killed while catching up has left it, and its lag would grow for
    /// ever.
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

    /// The decoded messages. A message that is not a commit and was set aside is passed over.
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

    /// Waits until the messages fit into the memory for what waits for the writer. This slows reading down if applying is slower.
    async fn reserve(&self, lane: Lane, messages: &[StoredMessage]) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = messages.iter().map(|message| message.payload.len() + MESSAGE_OVERHEAD).sum();
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
        let (memory, units) = match lane {
            Lane::Ahead => (&self.memory.ahead, units.min(MEMORY_UNITS_MAX)),
            Lane::Behind => (&self.memory.behind, units.min(MEMORY_UNITS_BEHIND_MAX)),
        };
        Arc::clone(memory).acquire_many_owned(units).await.ok()
    }

    /// Watches the stream and the lanes while they are read, and ends when the checkpoints must be checked again.
    async fn oversee(&self, state: &StreamState, lanes: &ByLane<Vec<usize>>) -> Result<Ended, RunnerError> {
        let mut checks = self.checks().await;
        let mut caught_up = std::pin::pin!(self.caught_up(lanes));
        loop {
            tokio::select! {
                biased;
                () = &mut caught_up => {
                    tracing::info!(stream = self.config.stream, "what was behind has caught up; one reader for all");
                    return Ok(Ended::Doubt);
                }
                _ = checks.tick() => {
                    // A lane whose projections have all halted is read no further.
                    let halted = [&lanes.ahead, &lanes.behind]
                        .into_iter()
                        .any(|lane| !lane.is_empty() && self.earliest(lane).is_none());
                    if halted || !self.is_same(state).await? || self.may_anyone_go_on().await? {
                        return Ok(Ended::Doubt);
                    }
                }
            }
        }
    }

    /// Returns when everything that is behind has come close to what is ahead.
    async fn caught_up(&self, lanes: &ByLane<Vec<usize>>) {
        loop {
            let going = lanes.behind.iter().filter(|member| !self.statuses.is_halted(**member));
            let last = going.min_by_key(|member| self.statuses.sequence(**member));
            let furthest = lanes.ahead.iter().map(|member| self.statuses.sequence(*member)).max();
            let (Some(last), Some(furthest)) = (last, furthest) else {
                return std::future::pending().await;
            };
            let mut status = self.statuses.subscribe(*last);
            let sequence = status.borrow_and_update().sequence;
            if self.config.runner.distance().is_close(sequence, furthest) {
                return;
            }
            if status.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn checks(&self) -> Interval {
        let mut checks = tokio::time::interval(self.config.runner.stream_check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks.tick().await;
        checks
    }

    /// Waits while all projections are halted. They continue when the message before which they halted is set aside or removed, and start over
    /// when the stream is made again.
    async fn stand_by(&self, state: &StreamState) -> Result<Ended, RunnerError> {
        let mut checks = self.checks().await;
        while self.is_same(state).await? && !self.may_anyone_go_on().await? {
            checks.tick().await;
        }
        Ok(Ended::Doubt)
    }

    /// Separates the errors after which the checkpoints are checked again from those that end the source.
    fn doubt(&self, error: ReadError) -> Result<Ended, ReadError> {
        match error {
            ReadError::LostTail { .. }
            | ReadError::OtherMessage { .. }
            | ReadError::OtherGeneration { .. }
            | ReadError::Broker(BrokerError::StreamMissing { .. }) => {
                tracing::warn!(stream = self.config.stream, %error, "judging all checkpoints again");
                Ok(Ended::Doubt)
            }
            other => Err(other),
        }
    }

    /// Where reading for these projections must begin: at the earliest checkpoint of those that have not halted.
    fn earliest(&self, members: &[usize]) -> Option<u64> {
        let going = members.iter().filter(|member| !self.statuses.is_halted(**member));
        going.map(|member| self.statuses.sequence(*member)).min()
    }

    async fn may_anyone_go_on(&self) -> Result<bool, RunnerError> {
        for member in self.members.iter() {
            if self.may_go_on(*member).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a projection has halted before a message that has been removed since, or that is not a commit and has been set aside since.
    async fn may_go_on(&self, member: usize) -> Result<bool, RunnerError> {
        let halted = self.statuses.subscribe(member).borrow().halted.clone();
        let Some(halt) = halted else { return Ok(false) };
        let asked = async {
            match self.broker.get(self.config.stream, halt.sequence).await? {
                Some(message) if halt.no_commit => is_set_aside(&self.broker, &message).await,
                Some(_) => Ok(false),
                None => Ok(true),
            }
        };
        match asked.await {
            // The next check asks again.
            Err(BrokerError::Unavailable { .. } | BrokerError::StreamMissing { .. }) => Ok(false),
            answer => Ok(answer?),
        }
    }

    /// Asks whether the stream is still the one that is being read, and where it ends. Without an answer, it assumes that it is.
    async fn is_same(&self, state: &StreamState) -> Result<bool, RunnerError> {
        let now = match self.broker.state(self.config.stream).await {
            Ok(now) => now,
            Err(BrokerError::Unavailable { .. }) => return Ok(true),
            Err(BrokerError::StreamMissing { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let reached = self.earliest(&self.members).unwrap_or(0);
        if now.generation != state.generation || now.last_sequence < reached {
            tracing::warn!(
                stream = self.config.stream,
                generation = now.generation,
                last = now.last_sequence,
                reached,
                "the stream is not the one that was read; judging all checkpoints again"
            );
            return Ok(false);
        }
        self.look(&now);
        Ok(true)
    }

    fn look(&self, state: &StreamState) {
        self.stream_end.store(state.last_sequence, Ordering::Relaxed);
        for member in self.members.iter() {
            self.statuses.stream_end(*member, state.last_sequence);
        }
    }

    /// Asks until there is an answer. If a stream that existed before is missing, it waits for it, because a starting server does not know all
    /// of its streams yet.
    async fn patiently<T, F: Future<Output = Result<T, BrokerError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, BrokerError> {
        loop {
            match ask().await {
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(stream = self.config.stream, operation, detail, "waiting for JetStream");
                }
                Err(error @ BrokerError::StreamMissing { .. }) if self.begun => {
                    tracing::warn!(stream = self.config.stream, %error, "waiting for the stream");
                }
                other => return other,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}
