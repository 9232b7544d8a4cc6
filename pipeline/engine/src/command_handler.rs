//! The command handler: waits for its turn, takes over, and settles COMMANDS round by round until it loses the turn.
//!
//! Three loops run side by side while it is active: one reads and decodes ahead, one settles, one records the outcomes and
//! answers. While a record is under way, the rounds settled meanwhile gather in the next. The lease only says who may
//! try; what is right is decided by expectations alone ([`crate::outcome_journal`], [`crate::settlement`]).

mod first_start;
mod purge;
mod recorder;
mod standby;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::Instant,
};

pub use self::purge::PurgeSettings;
use crate::{
    broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamReader, StreamState},
    command_handler::recorder::{Recorder, SettledRound},
    contract::{
        outcome::Generations,
        stored_message::StoredMessage,
        stream_names::{COMMANDS, EVENTS},
        subject::{COMMAND_QUEUE_PREFIX, PARTITIONS},
    },
    decider::AggregateRegistry,
    group_append::AppendStrategy,
    health::{Condition, Readiness},
    id_index::{IdIndex, IdIndexError},
    metrics::{Count, HandlerMetrics, Metrics, ReaderMetrics},
    outcome_journal::{JournalError, OutcomeJournal},
    retry::RunIds,
    round::{PreparedCommand, cut_round, prepare},
    seeded_bug::{SeededBug, planted},
    settlement::{SettleError, Settlement},
    shutdown::Shutdown,
    state_cache::{CacheLimits, StateCache},
    state_snapshots::{SnapshotBatch, SnapshotError, StateSnapshots},
};

/// Memory of commands that are read and decoded ahead of the round that is being settled, in KiB. A command takes the KiB of
/// its body and one more, so this is about as many small commands as a round takes.
const AHEAD_KIB: u32 = 32 * 1024;
/// Rounds settled but not yet recorded.
const ROUNDS_UNRECORDED: usize = 8;

/// Which part of the partitions a handler decides: all of them, or one of several equal shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: u32,
    /// How many there are; 1 reads COMMANDS without a filter.
    pub of: u32,
}

impl Share {
    /// The one share that has everything.
    pub const ALL: Self = Self { index: 0, of: 1 };

    /// Its name in subjects, consumers and leases.
    pub fn name(self) -> String {
        format!("{}of{}", self.index, self.of)
    }

    /// The subjects of COMMANDS that it reads; none means all.
    pub fn filters(self) -> Vec<String> {
        if self.of == 1 {
            return Vec::new();
        }
        (0..PARTITIONS)
            .filter(|partition| partition % self.of == self.index)
            .map(|partition| format!("{COMMAND_QUEUE_PREFIX}.{partition}.>"))
            .collect()
    }
}

/// How a handler works.
#[derive(Debug, Clone)]
pub struct HandlerSettings {
    /// Its name among the handlers, such as `command-handler-1`: part of the name of its own consumer.
    pub name: String,
    /// Its share.
    pub share: Share,
    /// Most commands in a round.
    pub round_max: NonZeroUsize,
    /// How much of aggregate states is kept in memory.
    pub cache: CacheLimits,
    /// How commits travel.
    pub append_strategy: AppendStrategy,
    /// How long a silent handler keeps its turn.
    pub lease_time_to_live: Duration,
    /// What is purged while it is active; nothing when absent.
    pub purge: Option<PurgeSettings>,
}

/// Where a handler tells what it does.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What it counts.
    pub metrics: HandlerMetrics,
    /// Where it stands in COMMANDS.
    pub reader: ReaderMetrics,
    /// Messages of COMMANDS that were set aside.
    pub dead_letters: Count,
    /// Whether it is ready: standing by or active.
    pub ready: Condition,
}

impl Observed {
    /// Handles of a share.
    pub fn new(metrics: &Metrics, readiness: &Readiness, share: Share) -> Self {
        Self {
            metrics: metrics.handler(&share.name()),
            reader: metrics.reader(COMMANDS, &lease_key(share)),
            dead_letters: metrics.dead_letters(COMMANDS),
            ready: readiness.condition("command-handler"),
        }
    }
}

/// Why a handler stops for good.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The journal cannot go on.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A round cannot be settled.
    #[error(transparent)]
    Settle(#[from] SettleError),
    /// COMMANDS or OUTCOMES cannot be read on.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The index of ids failed.
    #[error(transparent)]
    Index(#[from] IdIndexError),
    /// The file of snapshots failed when it was opened.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// A question that cannot be asked again.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The journal names more than a stream holds.
    #[error(
        "{stream} ends at sequence {last}, but the outcomes of share {share} name {named}: the server has lost its tail; restore {stream} from a backup or a replica before going on"
    )]
    LostTail {
        /// The share.
        share: String,
        /// The stream.
        stream: &'static str,
        /// Where it ends.
        last: u64,
        /// What the journal names.
        named: u64,
    },
    /// There is no journal, and COMMANDS is not the stream whose positions EVENTS names.
    #[error(
        "OUTCOMES holds no record, but the commits of EVENTS name positions of another COMMANDS up to {highest}, and this one begins at {first}: its commands could be taken for those; restore COMMANDS and OUTCOMES from a backup, or delete both and run `millstream setup`, which makes COMMANDS begin behind {highest}"
    )]
    NoJournal {
        /// Highest position that EVENTS names.
        highest: u64,
        /// First sequence of COMMANDS.
        first: u64,
    },
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnEnd {
    /// Asked to stop; everything settled is recorded.
    Shutdown,
    /// Another handler is active, or may be.
    Lost,
}

/// Decides the commands of a share.
pub struct CommandHandler<B> {
    broker: B,
    registry: AggregateRegistry,
    settings: HandlerSettings,
    ids: RunIds,
    index: Arc<IdIndex>,
    cache: StateCache,
    settlement: Settlement<B>,
    /// The last sequence of EVENTS that an outcome of this handler names.
    settled_through: u64,
    observed: Observed,
}

impl<B: Broker> CommandHandler<B> {
    /// A handler of the aggregates in `registry`. `run` names this run among all runs ever.
    pub fn new(
        broker: B,
        registry: AggregateRegistry,
        settings: HandlerSettings,
        run: &str,
        index: IdIndex,
        snapshots: StateSnapshots,
        observed: Observed,
    ) -> Self {
        let ids = RunIds::new(run);
        Self {
            cache: StateCache::new(settings.cache, registry.clone(), snapshots),
            settlement: Settlement::new(
                broker.clone(),
                ids.clone(),
                settings.append_strategy,
                settings.share,
                observed.metrics.clone(),
            ),
            index: Arc::new(index),
            settled_through: 0,
            broker,
            registry,
            settings,
            ids,
            observed,
        }
    }

    /// Runs until `shutdown`: stands by, takes over, settles, stands by again.
    ///
    /// # Errors
    /// [`HandlerError`] when nothing that time can mend stands in the way.
    pub async fn run(&mut self, shutdown: Shutdown) -> Result<(), HandlerError> {
        let share = self.settings.share.name();
        loop {
            let Some(outcomes) = self.stand_by(&shutdown).await? else { return Ok(()) };
            tracing::info!(share, run = self.ids.run(), "taking over");
            let end = self.turn(outcomes, &shutdown).await;
            self.observed.metrics.active.set(0);
            self.index.drop_settled();
            if !planted(SeededBug::StatesKeptAfterTurn) {
                self.cache.doubt_all(self.settled_through);
            }
            match end {
                Ok(TurnEnd::Lost) => tracing::warn!(share, "lost the turn; standing by"),
                end => {
                    self.give_back().await;
                    return end.map(|_| ());
                }
            }
        }
    }

    async fn give_back(&mut self) {
        let released = self.broker.release_lease(&lease_key(self.settings.share), self.ids.run()).await;
        if let Err(error) = released {
            tracing::warn!(%error, "the lease could not be given back; it lapses by itself");
        }
        if let Err(error) = recorder::flush(&self.index).await {
            tracing::warn!(%error, "the id index was not written; it is read again from the outcomes");
        }
        let batch = self.cache.snapshot_all();
        write_snapshots(self.cache.snapshots(), batch).await;
    }

    /// One turn as the active handler: from the fence to the loss of the turn or the shutdown.
    async fn turn(&mut self, outcomes: B::Reader, shutdown: &Shutdown) -> Result<TurnEnd, HandlerError> {
        let mut tasks = JoinSet::new();
        tasks.spawn(standby::keep_lease(
            self.broker.clone(),
            lease_key(self.settings.share),
            self.ids.clone(),
            self.settings.lease_time_to_live,
        ));
        let (journal, reader) = tokio::select! {
            biased;
            begun = self.take_over(outcomes) => match begun {
                Err(HandlerError::Read(ReadError::TakenOver { .. })) => return Ok(TurnEnd::Lost),
                begun => begun?,
            },
            end = ended(&mut tasks) => return end,
            () = shutdown.requested() => return Ok(TurnEnd::Shutdown),
        };
        tracing::info!(share = self.settings.share.name(), after = journal.cursor(), "active");
        self.observed.metrics.active.set(1);
        self.observed.metrics.takeovers.inc();
        if let Some(settings) = self.settings.purge {
            let (broker, index) = (self.broker.clone(), self.index.clone());
            tasks.spawn(purge::run(broker, index, self.settings.share, settings));
        }
        // Bounded by the memory that each batch holds.
        let (rounds_out, rounds) = mpsc::unbounded_channel();
        let (settled, settled_in) = mpsc::channel(ROUNDS_UNRECORDED);
        tasks.spawn(read_ahead(
            reader,
            self.registry.clone(),
            self.settings.round_max.get(),
            self.observed.reader.clone(),
            rounds_out,
        ));
        let mut recording = JoinSet::new();
        let recorder = Recorder::new(self.broker.clone(), journal, self.index.clone(), self.observed.clone());
        recording.spawn(recorder.run(settled_in));
        let end = tokio::select! {
            biased;
            end = self.settle_rounds(rounds, settled, shutdown) => end?,
            end = ended(&mut tasks) => end?,
            end = ended(&mut recording) => end?,
        };
        match end {
            TurnEnd::Lost => Ok(TurnEnd::Lost),
            // The rounds settled so far are still being recorded.
            TurnEnd::Shutdown => tokio::select! {
                biased;
                end = ended(&mut recording) => end,
                end = ended(&mut tasks) => end,
            },
        }
    }

    /// Appends the fence, checks that nothing named is missing, learns the ids of all records, and opens COMMANDS behind
    /// the cursor.
    async fn take_over(
        &self,
        mut outcomes: B::Reader,
    ) -> Result<(OutcomeJournal<B>, B::Reader), HandlerError> {
        let share = self.settings.share;
        let commands = state_of(&self.broker, &self.ids, COMMANDS).await?;
        let events = state_of(&self.broker, &self.ids, EVENTS).await?;
        let generations = Generations {
            commands: commands.generation.as_str().into(),
            events: events.generation.as_str().into(),
        };
        let (broker, name, ids) = (&self.broker, share.name(), &self.ids);
        let take_over = |may_begin| {
            OutcomeJournal::take_over(broker.clone(), &name, generations.clone(), ids.clone(), may_begin)
        };
        let journal = match take_over(events.last_sequence == 0).await {
            Err(JournalError::NothingRecorded { .. }) => {
                first_start::check(broker, ids, &commands, &events).await?;
                take_over(true).await?
            }
            journal => journal?,
        };
        let named = [(COMMANDS, journal.cursor()), (EVENTS, journal.events_through())];
        for (stream, named) in named {
            let last = state_of(&self.broker, &self.ids, stream).await?.last_sequence;
            if last < named && !planted(SeededBug::LostTailUnnoticed) {
                return Err(HandlerError::LostTail { share: share.name(), stream, last, named });
            }
        }
        standby::follow_outcomes(&self.index, &mut outcomes, Some(journal.last_sequence())).await?;
        outcomes.close().await;
        let config = ReaderConfig {
            stream: COMMANDS.to_owned(),
            name: lease_key(self.settings.share),
            description: format!("commands of share {} on their way to a decision", share.name()),
            after: journal.cursor(),
            filters: share.filters(),
            replace_live: true,
        };
        Ok((journal, self.broker.read(config).await?))
    }

    /// Settles round after round; what waits is taken together.
    async fn settle_rounds(
        &mut self,
        mut rounds: mpsc::UnboundedReceiver<ReadAhead>,
        settled: mpsc::Sender<SettledRound>,
        shutdown: &Shutdown,
    ) -> Result<TurnEnd, HandlerError> {
        loop {
            let round = tokio::select! {
                biased;
                () = shutdown.requested() => return Ok(TurnEnd::Shutdown),
                round = rounds.recv() => round,
            };
            // Without rounds the reader has ended, and whoever waits for it learns why.
            let Some(ReadAhead { mut commands, .. }) = round else { return std::future::pending().await };
            while commands.len() < self.settings.round_max.get() {
                let Ok(more) = rounds.try_recv() else { break };
                commands.extend(more.commands);
            }
            for commands in cut_round(commands) {
                let round = self.settle_round(commands).await?;
                if settled.send(round).await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }

    fn observe_cache(&self) {
        let metrics = &self.observed.metrics;
        metrics.cached_aggregates.set(i64::try_from(self.cache.len()).unwrap_or(i64::MAX));
        metrics.cached_bytes.set(i64::try_from(self.cache.bytes()).unwrap_or(i64::MAX));
    }

    async fn settle_round(&mut self, commands: Vec<PreparedCommand>) -> Result<SettledRound, HandlerError> {
        let begun = Instant::now();
        self.observed.metrics.round_commands.observe(commands.len() as f64);
        let outcomes = self.settlement.settle(&mut self.cache, &self.index, &commands).await?;
        let round = SettledRound::new(commands, outcomes, begun);
        self.index.settle(round.outcomes());
        self.settled_through = self.settled_through.max(round.events_through());
        self.observe_cache();
        if let Some(batch) = self.cache.end_round() {
            write_snapshots(self.cache.snapshots(), batch).await;
        }
        Ok(round)
    }
}

/// Writes snapshots, away from the async threads. A file that fails costs speed, not correctness.
async fn write_snapshots(snapshots: &StateSnapshots, batch: SnapshotBatch) {
    let snapshots = snapshots.clone();
    match tokio::task::spawn_blocking(move || snapshots.write(&batch)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "snapshots were not written; histories are read instead"),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => {} // The runtime is shutting down; histories are read instead.
    }
}

/// The state of a stream; waits for a server that does not answer.
async fn state_of<B: Broker>(broker: &B, ids: &RunIds, stream: &str) -> Result<StreamState, BrokerError> {
    let mut backoff = ids.backoff();
    loop {
        match broker.state(stream).await {
            Err(BrokerError::Unavailable { operation, detail }) => {
                tracing::warn!(stream, operation, detail, "waiting for the server");
                backoff.pause().await;
            }
            answer => return answer,
        }
    }
}

/// The key of a share's lease, and the name of the consumer that reads its commands.
pub(crate) fn lease_key(share: Share) -> String {
    format!("command-handler-{}", share.name())
}

/// Commands that were read together.
struct ReadAhead {
    commands: Vec<PreparedCommand>,
    /// Held until a round takes them.
    _memory: OwnedSemaphorePermit,
}

/// Waits until messages fit into the memory of what is read ahead.
async fn reserve(memory: &Arc<Semaphore>, messages: &[StoredMessage]) -> OwnedSemaphorePermit {
    let kib: usize = messages.iter().map(|message| 1 + message.payload.len() / 1024).sum();
    let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(AHEAD_KIB);
    Arc::clone(memory).acquire_many_owned(kib).await.expect("it is never closed")
}

/// Reads and decodes ahead.
async fn read_ahead<R: StreamReader>(
    mut reader: R,
    registry: AggregateRegistry,
    round_max: usize,
    metrics: ReaderMetrics,
    rounds: mpsc::UnboundedSender<ReadAhead>,
) -> Result<TurnEnd, HandlerError> {
    let memory = Arc::new(Semaphore::new(AHEAD_KIB as usize));
    loop {
        let messages = match reader.next_batch(round_max).await {
            Err(ReadError::TakenOver { .. }) => return Ok(TurnEnd::Lost),
            messages => messages?,
        };
        if let Some(last) = messages.last() {
            let age = Timestamp::now().duration_since(last.stored_at).unsigned_abs();
            metrics.handled(last.sequence, messages.len() as u64, reader.pending(), age);
        }
        let _memory = reserve(&memory, &messages).await;
        let commands = messages.into_iter().map(|message| prepare(message, &registry)).collect();
        if rounds.send(ReadAhead { commands, _memory }).is_err() {
            return Ok(TurnEnd::Lost);
        }
    }
}

/// Waits for the first of some tasks to end.
async fn ended(tasks: &mut JoinSet<Result<TurnEnd, HandlerError>>) -> Result<TurnEnd, HandlerError> {
    match tasks.join_next().await {
        Some(Ok(end)) => end,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Some(Err(_)) | None => std::future::pending().await,
    }
}
