//! Reads one stream for its projections: checks their checkpoints, reads on after the earliest of them, and starts over when the
//! stream turns out to be another one than before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_contract::{stored_message::StoredMessage, stream_names::OUTCOMES};
use millstream_jetstream::{
    broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamReader, StreamState},
    set_aside::is_set_aside,
};
use millstream_store::read_store::{ProjectionId, ReadStore};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    MEMORY_UNIT, MEMORY_UNITS_MAX, RunnerConfig, RunnerError,
    checkpoint_check::{Verdict, verify},
    decoding::{CommitSorter, Item, record_item},
    projection_set::{Member, ProjectionSet},
    status::StatusBoard,
    writer::{Messages, Start, WriterTask},
};

/// The pause before a question that got no answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The approximate memory of a message besides its payload: subject, headers, and what it decodes to.
const MESSAGE_OVERHEAD: usize = 1024;

/// The pause before the server is asked a second time whether it has lost messages. A leader that lags behind may lack the end of
/// the stream for a moment.
const CONFIRMATION_PAUSE: Duration = Duration::from_secs(2);

/// Which stream to read, under which name, and for which projections.
pub(super) struct SourceConfig {
    pub(super) stream: &'static str,
    pub(super) consumer: String,
    pub(super) members: Vec<usize>,
    pub(super) runner: RunnerConfig,
}

/// The reading side of one stream.
pub(super) struct Source<B> {
    broker: B,
    store: ReadStore,
    set: Arc<ProjectionSet>,
    statuses: StatusBoard,
    config: SourceConfig,
    inbox: mpsc::Sender<WriterTask>,
    memory: Arc<Semaphore>,
    sorter: CommitSorter,
    members: Arc<[usize]>,
    /// Whether the stream has been there since this process started.
    begun: bool,
    /// The last sequence of the stream when the source last asked for it.
    stream_end: AtomicU64,
}

/// Why reading has ended without an error.
enum Ended {
    /// The process or the writer ends.
    Stop,
    /// The stream may be another one, so the checkpoints must be checked again.
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
        memory: Arc<Semaphore>,
    ) -> Self {
        let members = config.members.as_slice().into();
        let sorter = CommitSorter::new();
        Self {
            broker,
            store,
            set,
            statuses,
            config,
            inbox,
            memory,
            sorter,
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
        let stopped = stop.clone();
        let work = async {
            loop {
                let state = self.begin().await?;
                if matches!(self.read(&state, stop).await?, Ended::Stop) {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            biased;
            () = stopped.cancelled() => Ok(()),
            ended = work => ended,
        }
    }

    /// Checks every checkpoint and hands the verdicts to the writer.
    async fn begin(&mut self) -> Result<StreamState, RunnerError> {
        // The barrier waits until everything that was read before is applied, so that the checkpoints in the file are current.
        self.tell(|done| WriterTask::Barrier { done }).await;
        let (mut state, mut starts) = self.judge().await?;
        if starts.iter().any(|start| start.verdict.finds_loss()) {
            // A rebuild is expensive, so the server is asked twice.
            tokio::time::sleep(CONFIRMATION_PAUSE).await;
            (state, starts) = self.judge().await?;
        }
        for start in &starts {
            if let Some(member) = self.set.members.get(start.member) {
                announce(self.config.stream, &member.id, &start.verdict);
            }
        }
        self.tell(|done| WriterTask::Start { starts, done }).await;
        self.look(&state);
        self.begun = true;
        Ok(state)
    }

    async fn judge(&self) -> Result<(StreamState, Vec<Start>), RunnerError> {
        let stream = self.config.stream;
        let state = self.patiently(|| self.broker.state(stream)).await?;
        let mut starts = Vec::new();
        for (index, member) in self.each_member() {
            let found = self.store.snapshot()?.checkpoint(&member.id)?;
            let verdict = self
                .patiently(|| verify(&self.broker, stream, &state, member.version, found.clone()))
                .await?;
            let goes_on = self.may_go_on(index).await?;
            starts.push(Start { member: index, verdict, goes_on });
        }
        Ok((state, starts))
    }

    /// Sends work to the writer and waits until it is done. If the writer has ended, this waits for ever; `run` then ends because
    /// the writer's end cancels `stop`.
    async fn tell(&self, work: impl FnOnce(oneshot::Sender<()>) -> WriterTask) {
        let (done, answered) = oneshot::channel();
        if self.inbox.send(work(done)).await.is_err() || answered.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn read(&mut self, state: &StreamState, stop: &CancellationToken) -> Result<Ended, RunnerError> {
        let mut checks = tokio::time::interval(self.config.runner.stream_check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks.tick().await;
        let Some(after) = self.earliest() else { return self.stand_by(state, &mut checks).await };
        let mut reader = match self.open(after).await {
            Ok(reader) => reader,
            Err(error) => return Ok(self.doubt(error)?),
        };
        loop {
            match self.next(&mut reader, state, &mut checks, stop).await? {
                Ok(messages) => {
                    let memory = self.reserve(&messages).await;
                    let items = self.items(messages).await?;
                    if self.hand_over(items, memory).await.is_err() {
                        return Ok(Ended::Stop);
                    }
                }
                Err(ended) => return Ok(ended),
            }
        }
    }

    /// The next messages, or the reason why there are none. The wait for a batch is never cancelled, even while the stream is
    /// checked in between: by the length of that wait the reader notices that the server has fallen silent.
    async fn next(
        &self,
        reader: &mut B::Reader,
        state: &StreamState,
        checks: &mut Interval,
        stop: &CancellationToken,
    ) -> Result<Result<Vec<StoredMessage>, Ended>, RunnerError> {
        let mut batch = std::pin::pin!(reader.next_batch(self.config.runner.read_max()));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Err(Ended::Stop)),
                _ = checks.tick() => {
                    // When all projections have halted, reading goes no further. The consumer must go then too, or its lag would
                    // look as if somebody read.
                    if !self.is_same(state).await? || self.earliest().is_none() || self.may_anyone_go_on().await? {
                        return Ok(Err(Ended::Doubt));
                    }
                }
                batch = &mut batch => return match batch {
                    Ok(messages) => Ok(Ok(messages)),
                    Err(error) => Ok(Err(self.doubt(error)?)),
                },
            }
        }
    }

    /// Waits while all projections are halted. They go on when the message before which they halted is set aside, and start over
    /// when the stream is made again.
    async fn stand_by(&self, state: &StreamState, checks: &mut Interval) -> Result<Ended, RunnerError> {
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

    async fn open(&self, after: u64) -> Result<B::Reader, ReadError> {
        let config = ReaderConfig {
            stream: self.config.stream.to_owned(),
            name: self.config.consumer.clone(),
            description: self.config.runner.description.clone(),
            after,
            filters: Vec::new(),
            replace_live: false,
        };
        self.broker.read(config).await
    }

    /// Where reading must begin: at the earliest checkpoint of the projections that have not halted.
    fn earliest(&self) -> Option<u64> {
        let going = self.members.iter().filter(|member| !self.statuses.is_halted(**member));
        going.map(|member| self.statuses.subscribe(*member).borrow().sequence).min()
    }

    async fn may_anyone_go_on(&self) -> Result<bool, RunnerError> {
        for member in self.members.iter() {
            if self.may_go_on(*member).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a projection has halted before a message that is no commit, and the message was set aside since.
    async fn may_go_on(&self, member: usize) -> Result<bool, RunnerError> {
        let halted = self.statuses.subscribe(member).borrow().halted.clone();
        let Some(halt) = halted.filter(|halt| halt.no_commit) else { return Ok(false) };
        let asked = async {
            match self.broker.get(self.config.stream, halt.sequence).await? {
                Some(message) => is_set_aside(&self.broker, &message).await,
                None => Ok(false),
            }
        };
        match asked.await {
            // The next check asks again.
            Err(BrokerError::Unavailable { .. } | BrokerError::StreamMissing { .. }) => Ok(false),
            answer => Ok(answer?),
        }
    }

    async fn hand_over(
        &mut self,
        items: Vec<Item>,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<(), mpsc::error::SendError<WriterTask>> {
        let messages = Messages { items, memory, stream_end: self.stream_end.load(Ordering::Relaxed) };
        let work = match self.config.stream {
            OUTCOMES => WriterTask::Records(messages),
            _ => WriterTask::Commits(messages),
        };
        self.inbox.send(work).await
    }

    /// The messages decoded; what is no commit and was set aside is passed over.
    async fn items(&mut self, messages: Vec<StoredMessage>) -> Result<Vec<Item>, RunnerError> {
        let mut items: Vec<Item> = messages.into_iter().map(|message| self.item(message)).collect();
        for item in items.iter_mut().filter(|item| item.is_no_commit()) {
            if self.patiently(|| is_set_aside(&self.broker, &item.message)).await? {
                item.pass_over();
            }
        }
        Ok(items)
    }

    fn item(&mut self, message: StoredMessage) -> Item {
        match self.config.stream {
            OUTCOMES => record_item(&self.members, message),
            _ => self.sorter.item(&self.set.members, message),
        }
    }

    /// Waits until the messages fit into the memory for what waits for the writer. This is what slows reading down when applying
    /// is slower.
    async fn reserve(&self, messages: &[StoredMessage]) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = messages.iter().map(|message| message.payload.len() + MESSAGE_OVERHEAD).sum();
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX).min(MEMORY_UNITS_MAX);
        Arc::clone(&self.memory).acquire_many_owned(units).await.ok()
    }

    /// Asks whether the stream is still the one that is being read, and where it ends. If there is no answer, it assumes so.
    async fn is_same(&self, state: &StreamState) -> Result<bool, RunnerError> {
        let now = match self.broker.state(self.config.stream).await {
            Ok(now) => now,
            Err(BrokerError::Unavailable { .. }) => return Ok(true),
            Err(BrokerError::StreamMissing { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let reached = self.earliest().unwrap_or(0);
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

    /// Asks until there is an answer. If a stream that was there before is missing, it waits for it, because a starting server
    /// does not know all of its streams yet.
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

    fn each_member(&self) -> impl Iterator<Item = (usize, &Member)> {
        self.members.iter().filter_map(|index| Some((*index, self.set.members.get(*index)?)))
    }
}

fn announce(stream: &str, projection: &ProjectionId, verdict: &Verdict) {
    match verdict {
        Verdict::Resume { missed: Some(missed), checkpoint } => tracing::warn!(
            %projection, stream, sequence = checkpoint.sequence, missed,
            "messages were purged before this projection had read them; its rows lack them"
        ),
        Verdict::Resume { missed: None, checkpoint } => {
            tracing::info!(%projection, stream, sequence = checkpoint.sequence, "projection resumes");
        }
        Verdict::Rebuild { reason, checkpoint } if checkpoint.complete_from == 0 => {
            tracing::info!(%projection, stream, %reason, "building a projection");
        }
        Verdict::Rebuild { reason, checkpoint } => tracing::warn!(
            %projection, stream, %reason, through = checkpoint.complete_from,
            "building a projection anew from the first message"
        ),
    }
}
