//! Reads one stream for its projections: checks their checkpoints, reads on after the earliest of them, and starts over when the
//! stream turns out to be another one than before.
//!
//! Projections that are far behind the others, such as one that is built anew, have a second reader until they have caught up, so
//! that the others go on with the stream's end ([`super::lane`]).

mod reading;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use millstream_jetstream::{
    broker::{Broker, BrokerError, ReadError, StreamReader, StreamState},
    retry::LossDoubt,
    set_aside::is_set_aside,
};
use millstream_store::read_store::{ProjectionId, ReadStore};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    RunnerConfig, RunnerError,
    checkpoint_check::{Verdict, verify},
    follower::RowFollower,
    lane::{ByLane, Lane},
    projection_set::{Member, ProjectionSet},
    status::StatusBoard,
    writer::{Start, WriterTask},
};

/// The pause before a question that got no answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Which stream to read, under which name, and for which projections.
pub(super) struct SourceConfig {
    pub(super) stream: &'static str,
    pub(super) consumer: String,
    pub(super) members: Vec<usize>,
    pub(super) runner: RunnerConfig,
    /// Whoever keeps the rows elsewhere as well.
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
    /// Whether the stream has been there since this process started.
    begun: bool,
    /// The last sequence of the stream when the source last asked for it.
    stream_end: AtomicU64,
}

/// Why reading has ended without an error.
enum Ended {
    /// The process or the writer ends.
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
        for start in &starts {
            if let Some(member) = self.set.members.get(start.member) {
                announce(self.config.stream, &member.id, &start.verdict);
            }
        }
        let lanes = self.assign_lanes(&mut starts);
        let stream = self.config.stream;
        self.tell(|done| WriterTask::Start { stream, starts, done }).await;
        self.look(&state);
        self.begun = true;
        Ok((state, lanes))
    }

    /// Puts what is far behind the furthest projection into the second lane. Projections that stay halted are not waited for.
    fn assign_lanes(&self, starts: &mut [Start]) -> ByLane<Vec<usize>> {
        let distance = self.config.runner.distance();
        let goes_on = |start: &Start| {
            start.goes_on || start.verdict.is_rebuild() || !self.statuses.is_halted(start.member)
        };
        let going = starts.iter().filter(|start| goes_on(start));
        let furthest = going.map(|start| start.verdict.sequence()).max().unwrap_or(0);
        let mut lanes: ByLane<Vec<usize>> = ByLane::default();
        for start in starts {
            if goes_on(start) {
                start.lane = distance.lane(start.verdict.sequence(), furthest);
            }
            lanes.of_mut(start.lane).push(start.member);
        }
        if !lanes.behind.is_empty() {
            let projections = lanes.behind.iter().filter_map(|member| self.set.members.get(*member));
            let projections: Vec<_> = projections.map(|member| member.id.as_str()).collect();
            tracing::info!(
                stream = self.config.stream,
                ?projections,
                furthest,
                "catching up beside the others"
            );
        }
        lanes
    }

    /// Judges until a loss that the server tells of is to be believed: a rebuild is expensive.
    async fn judge_beyond_doubt(&self) -> Result<(StreamState, Vec<Start>), RunnerError> {
        let mut doubt = LossDoubt::default();
        loop {
            let (state, starts) = self.judge().await?;
            if !starts.iter().any(|start| start.verdict.finds_loss()) || doubt.believes() {
                return Ok((state, starts));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
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
            let follower_belongs = self.follower_belongs(member, &state).await?;
            starts.push(Start { member: index, verdict, goes_on, lane: Lane::Ahead, follower_belongs });
        }
        Ok((state, starts))
    }

    /// Whether the checkpoint of whoever keeps the rows of a projection elsewhere belongs to the stream as it is now.
    async fn follower_belongs(&self, member: &Member, state: &StreamState) -> Result<bool, RunnerError> {
        let found = self.config.follower.as_ref().and_then(|follower| follower.checkpoint(&member.id));
        let Some(found) = found else { return Ok(false) };
        let verify = || verify(&self.broker, self.config.stream, state, member.version, Some(found.clone()));
        Ok(!self.patiently(verify).await?.is_rebuild())
    }

    /// Sends work to the writer and waits until it is done. If the writer has ended, this waits for ever; `run` then ends because
    /// the writer's end cancels `stop`.
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
            // It feeds nobody, and so removes the consumer that a process before may have left.
            let behind = Box::pin(self.feed(Lane::Behind, &[], behind));
            return tokio::select! {
                biased;
                ended = self.stand_by(state) => ended,
                ended = behind => ended,
            };
        }
        // On the heap: a program that is not optimised copies such futures from frame to frame, and the stack of a thread is small.
        let ahead = Box::pin(self.feed(Lane::Ahead, &lanes.ahead, ahead));
        let behind = Box::pin(self.feed(Lane::Behind, &lanes.behind, behind));
        let ended = tokio::select! {
            biased;
            ended = self.oversee(state, lanes) => ended?,
            ended = ahead => ended?,
            ended = behind => ended?,
        };
        if matches!(ended, Ended::Doubt) {
            // The consumers go too. Nobody may read the second one any more, so that its lag would grow for ever; and the server may
            // still take the first one for somebody else's that is alive when it is made again.
            let closing = [readers.ahead, readers.behind].into_iter().flatten().map(StreamReader::close);
            join_all(closing).await;
        }
        Ok(ended)
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

    /// Ends when everything that is behind has come close to what is ahead.
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

    /// Waits while all projections are halted. They go on when the message before which they halted is set aside or removed, and start
    /// over when the stream is made again.
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

    /// Whether a projection has halted before a message that somebody has removed since, or that is no commit and was set aside since.
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

    /// Asks whether the stream is still the one that is being read, and where it ends. If there is no answer, it assumes so.
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
        Verdict::Rebuild { reason, checkpoint } if reason.names_loss() => tracing::error!(
            %projection, stream, %reason, through = checkpoint.complete_from,
            "the server does not hold what this projection had applied; its rows are discarded and built anew from what there is"
        ),
        Verdict::Rebuild { reason, checkpoint } if checkpoint.complete_from == 0 => {
            tracing::info!(%projection, stream, %reason, "building a projection");
        }
        Verdict::Rebuild { reason, checkpoint } => tracing::warn!(
            %projection, stream, %reason, through = checkpoint.complete_from,
            "building a projection anew from the first message"
        ),
    }
}
