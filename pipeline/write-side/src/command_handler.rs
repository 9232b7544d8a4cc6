//! The command handler: it stands by until it holds the lease, takes over, and settles COMMANDS round by round until another
//! handler takes over or the process ends.
//!
//! While it is active, three loops run side by side:
//!
//! ```text
//! read_ahead ── prepared commands ──▶ settle_rounds ── settled rounds ──▶ Recorder
//! (reads COMMANDS, decodes)           (decides, appends to EVENTS)        (appends to OUTCOMES, sends replies)
//! ```
//!
//! Only one outcome record is in flight at a time; rounds that are settled meanwhile gather in the next record. The lease only
//! says who may try. Only the expected-sequence checks guarantee safety ([`crate::outcome_journal`], [`crate::settlement`]).

mod company;
mod error;
mod file_work;
mod first_start;
mod id_feed;
mod idle;
mod latest_value;
mod purge;
mod read_ahead;
mod recorder;
mod shares;
mod standby;

use millstream_contract::{
    leases::command_handler_lease,
    outcome::Generations,
    seeded_bug::{SeededBug, planted},
    stream_names::{COMMANDS, EVENTS},
};
use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet, time::Instant};

pub use self::{
    error::HandlerError,
    purge::PurgeSettings,
    shares::{MakePlace, ShareHandlers, SharePlace},
};
pub use millstream_contract::share::Share;
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::{Broker, BrokerError, ReadError, ReaderConfig, StreamState},
    group_append::AppendStrategy,
    retry::{RunIds, answered},
};
use millstream_runtime::{
    health::{Condition, Readiness},
    metrics::{Count, HandlerMetrics, Metrics, ReaderMetrics},
    shutdown::Shutdown,
};

use crate::{
    command_handler::{
        company::Company,
        file_work::do_file_work,
        id_feed::IdFeed,
        idle::Lookout,
        read_ahead::{Rounds, read_ahead},
        recorder::{Recorder, SettledRound},
    },
    id_index::IdIndex,
    outcome_journal::{JournalError, OutcomeJournal},
    round::{PreparedCommand, cut_round},
    settlement::Settlement,
    state_cache::{CacheLimits, StateCache},
    state_snapshots::{SnapshotBatch, StateSnapshots},
};

/// How many rounds may be settled but not recorded yet. When the recorder falls behind, settling waits: what a crash loses is
/// bounded by this.
const ROUNDS_UNRECORDED: usize = 8;
/// What the names of leases and consumers of shares begin with.
const PROCESS: &str = "command-handler";

/// The settings of a handler.
#[derive(Debug, Clone)]
pub struct HandlerSettings {
    /// Its name among the handlers, such as `command-handler-1`: part of the name of its own consumer.
    pub name: String,
    /// Its share.
    pub share: Share,
    /// Most commands in a round. The first rounds of a turn are smaller.
    pub round_max: NonZeroUsize,
    /// How many aggregate states are kept in memory.
    pub cache: CacheLimits,
    /// Whether commits are appended singly or in atomic batches.
    pub append_strategy: AppendStrategy,
    /// How long a handler that has fallen silent keeps the lease.
    pub lease_time_to_live: Duration,
    /// What it purges while it is active; nothing when absent.
    pub purge: Option<PurgeSettings>,
}

/// Where a handler reports what it does.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What it counts.
    pub metrics: HandlerMetrics,
    /// Where it stands in COMMANDS.
    pub reader: ReaderMetrics,
    /// Counts messages of COMMANDS that were set aside.
    pub dead_letters: Count,
    /// Whether it is ready: standing by or active.
    pub ready: Condition,
}

impl Observed {
    /// Handles of a share.
    pub fn new(metrics: &Metrics, readiness: &Readiness, share: Share) -> Self {
        Self {
            metrics: metrics.handler(&share.name()),
            reader: metrics.reader(COMMANDS, &reader_name(share)),
            dead_letters: metrics.dead_letters(COMMANDS),
            ready: match share {
                Share::ALL => readiness.condition("command-handler"),
                share => readiness.condition(&reader_name(share)),
            },
        }
    }
}

/// How a turn, the time during which a handler is active, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnEnd {
    /// The process was asked to stop. Everything settled is recorded.
    Shutdown,
    /// Another handler is active, or may be.
    Lost,
    /// Another one is to have the share; everything settled is recorded.
    HandOver,
}

/// When a turn ends in order.
struct Leave {
    shutdown: Shutdown,
    company: Option<Company>,
}

impl Leave {
    async fn asked(&self) -> TurnEnd {
        let Some(company) = &self.company else {
            self.shutdown.requested().await;
            return TurnEnd::Shutdown;
        };
        tokio::select! {
            biased;
            () = self.shutdown.requested() => TurnEnd::Shutdown,
            () = company.anothers() => TurnEnd::HandOver,
        }
    }
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
    /// The handlers of other shares, if there are any.
    company: Option<Company>,
    /// The last sequence of EVENTS that an outcome of this handler names. After a turn, a standby follows EVENTS from here.
    settled_through: u64,
    observed: Observed,
}

impl<B: Broker> CommandHandler<B> {
    /// Creates a handler of the aggregates in `registry`. `run` must be unique among all runs that ever were: it is part of the
    /// ids of commits and records, by which a handler recognises its own appends.
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
            company: None,
            settled_through: 0,
            broker,
            registry,
            settings,
            ids,
            observed,
        }
    }

    /// The same handler among those of other shares.
    fn in_company(self, company: Company) -> Self {
        Self { company: Some(company), ..self }
    }

    /// Runs until `shutdown`: stands by, takes over, settles, and stands by again when another handler has taken over.
    ///
    /// # Errors
    /// [`HandlerError`] when the handler cannot go on and waiting would not help.
    pub async fn run(&mut self, shutdown: Shutdown) -> Result<(), HandlerError> {
        let share = self.settings.share.name();
        loop {
            let Some(ids) = self.stand_by(&shutdown).await? else { return Ok(()) };
            tracing::info!(share, run = self.ids.run(), "taking over");
            let leave = Leave { shutdown: shutdown.clone(), company: self.company.clone() };
            let end = self.turn(ids, leave).await;
            self.observed.metrics.active.set(0);
            // What was settled but not recorded has no outcome yet. The next handler, perhaps this one, decides it again; an id
            // that stayed here would then be taken for a repeat of itself.
            self.index.drop_settled();
            if !planted(SeededBug::StatesKeptAfterTurn) {
                self.cache.doubt_all(self.settled_through);
            }
            match end {
                Ok(TurnEnd::Lost) => tracing::warn!(share, "lost the turn; standing by"),
                Ok(TurnEnd::HandOver) => {
                    tracing::info!(share, "handing over");
                    self.give_back().await;
                }
                end => {
                    self.give_back().await;
                    return end.map(|_| ());
                }
            }
        }
    }

    async fn give_back(&mut self) {
        let released =
            self.broker.release_lease(&command_handler_lease(self.settings.share), self.ids.run()).await;
        if let Err(error) = released {
            tracing::warn!(%error, "the lease could not be given back; it lapses by itself");
        }
        if let Err(error) = recorder::flush(&self.index).await {
            tracing::warn!(%error, "the id index was not written; it is read again from the outcomes");
        }
        let batch = self.cache.snapshot_all();
        write_snapshots(self.cache.snapshots(), batch).await;
    }

    /// One turn as the active handler: from the fence until another handler takes over or the process is asked to stop.
    async fn turn(&mut self, ids: IdFeed<B::Reader>, leave: Leave) -> Result<TurnEnd, HandlerError> {
        let mut tasks = JoinSet::new();
        tasks.spawn(standby::keep_lease(
            self.broker.clone(),
            command_handler_lease(self.settings.share),
            self.ids.clone(),
            self.settings.lease_time_to_live,
        ));
        let (journal, reader) = tokio::select! {
            biased;
            begun = self.take_over(ids) => match begun {
                Err(
                    HandlerError::Read(ReadError::TakenOver { .. })
                    | HandlerError::Journal(JournalError::LostTurn { .. }),
                ) => return Ok(TurnEnd::Lost),
                begun => begun?,
            },
            end = ended(&mut tasks) => return end,
            end = leave.asked() => return Ok(end),
        };
        tracing::info!(share = self.settings.share.name(), after = journal.cursor(), "active");
        self.observed.metrics.active.set(1);
        self.observed.metrics.takeovers.inc();
        // From here on the fence is recorded, so any other handler that still believes to be active fails at its next record.
        let (idle, idle_in) = mpsc::channel(1);
        if let Some(settings) = self.settings.purge {
            let (broker, index) = (self.broker.clone(), self.index.clone());
            let share = self.settings.share;
            let lookout = Lookout::new(broker.clone(), share, idle);
            tasks.spawn(purge::run(broker, index, self.ids.clone(), share, settings, lookout));
        }
        // Bounded by the memory that each batch holds.
        let (read_out, read_in) = mpsc::unbounded_channel();
        let rounds = Rounds::new(read_in, self.settings.round_max.get());
        let (settled, settled_in) = mpsc::channel(ROUNDS_UNRECORDED);
        tasks.spawn(read_ahead(
            reader,
            self.registry.clone(),
            self.settings.round_max.get(),
            journal.covered_before(),
            self.observed.reader.clone(),
            read_out,
        ));
        let mut recording = JoinSet::new();
        let recorder = Recorder::new(self.broker.clone(), journal, self.index.clone(), self.observed.clone());
        recording.spawn(recorder.run(settled_in, idle_in));
        let end = tokio::select! {
            biased;
            end = self.settle_rounds(rounds, settled, &leave) => end?,
            end = ended(&mut tasks) => end?,
            end = ended(&mut recording) => end?,
        };
        match end {
            TurnEnd::Lost => Ok(TurnEnd::Lost),
            // `settle_rounds` has dropped its sender, so the recorder ends once it has recorded what was settled so far. What
            // is settled has taken effect: without its record the next handler would have to find that out again.
            asked => tokio::select! {
                biased;
                end = ended(&mut recording) => match end? {
                    TurnEnd::Lost => Ok(TurnEnd::Lost),
                    _ => Ok(asked),
                },
                end = ended(&mut tasks) => end,
            },
        }
    }

    /// Takes over: appends the fence, checks that COMMANDS and EVENTS still hold everything that the journal names, learns the
    /// ids of all records, and opens COMMANDS after the cursor.
    ///
    /// The order matters. Before the fence, the previous handler may still record, so only after it are the last record and the
    /// ids final.
    async fn take_over(
        &self,
        mut known_ids: IdFeed<B::Reader>,
    ) -> Result<(OutcomeJournal<B>, B::Reader), HandlerError> {
        let share = self.settings.share;
        let (broker, ids) = (&self.broker, &self.ids);
        let streams = Streams::look(broker, ids).await?;
        let take_over = |may_begin| {
            let generations = streams.generations.clone();
            OutcomeJournal::take_over(broker.clone(), share, generations, ids.clone(), may_begin)
        };
        let journal = match take_over(streams.events.last_sequence == 0).await {
            Err(JournalError::NothingRecorded { .. }) => {
                first_start::check(broker, ids, &streams.commands, &streams.events).await?;
                take_over(true).await?
            }
            journal => journal?,
        };
        let named = [(COMMANDS, journal.commands_through()), (EVENTS, journal.events_through())];
        for (stream, named) in named {
            let last = state_of(&self.broker, &self.ids, stream).await?.last_sequence;
            if last < named && !planted(SeededBug::LostTailUnnoticed) {
                return Err(HandlerError::LostTail { share: share.name(), stream, last, named });
            }
        }
        // Up to the fence: an id that was recorded just before it must be known before the first command is decided.
        known_ids.catch_up(&self.index, journal.last_sequence()).await?;
        known_ids.close().await;
        let config = ReaderConfig {
            stream: COMMANDS.to_owned(),
            name: reader_name(share),
            description: format!("commands of share {} on their way to a decision", share.name()),
            after: journal.cursor(),
            filters: share.filters(),
            replace_live: true,
        };
        Ok((journal, self.broker.read(config).await?))
    }

    /// Settles round after round until the turn is to end.
    async fn settle_rounds(
        &mut self,
        mut rounds: Rounds,
        settled: mpsc::Sender<SettledRound>,
        leave: &Leave,
    ) -> Result<TurnEnd, HandlerError> {
        loop {
            let round = tokio::select! {
                biased;
                end = leave.asked() => return Ok(end),
                round = rounds.next() => round,
            };
            // Without rounds, `read_ahead` has ended, and so does the turn: `turn` waits for that task too and learns why.
            // Waiting here leaves the reason to it.
            let Some(commands) = round else { return std::future::pending().await };
            for commands in cut_round(commands) {
                let round = self.settle_round(commands).await?;
                // The recorder is gone; as above, `turn` learns why.
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
        // Before the next round is sorted: it may repeat an id of this one, which is not recorded yet.
        self.index.settle(round.outcomes());
        self.settled_through = self.settled_through.max(round.events_through());
        self.observe_cache();
        if let Some(batch) = self.cache.end_round() {
            write_snapshots(self.cache.snapshots(), batch).await;
        }
        Ok(round)
    }
}

/// Writes snapshots, away from the async threads. If the file fails, the handler gets slower but stays correct.
async fn write_snapshots(snapshots: &StateSnapshots, batch: SnapshotBatch) {
    let snapshots = snapshots.clone();
    // `None` means that the runtime is shutting down. Histories are read instead then, too.
    if let Some(Err(error)) = do_file_work(move || snapshots.write(&batch)).await {
        tracing::warn!(%error, "snapshots were not written; histories are read instead");
    }
}

/// The state of a stream. Waits while the server does not answer.
async fn state_of<B: Broker>(broker: &B, ids: &RunIds, stream: &str) -> Result<StreamState, BrokerError> {
    answered(ids, || broker.state(stream)).await
}

/// The streams as a handler finds them when its turn begins. Their generations go into each record, so that a stream which was
/// deleted and made again is recognised.
struct Streams {
    commands: StreamState,
    events: StreamState,
    generations: Generations,
}

impl Streams {
    async fn look<B: Broker>(broker: &B, ids: &RunIds) -> Result<Self, BrokerError> {
        let commands = state_of(broker, ids, COMMANDS).await?;
        let events = state_of(broker, ids, EVENTS).await?;
        let generations = Generations {
            commands: commands.generation.as_str().into(),
            events: events.generation.as_str().into(),
        };
        Ok(Self { commands, events, generations })
    }
}

/// The name of the consumer that reads a share's commands.
pub fn reader_name(share: Share) -> String {
    format!("{PROCESS}-{}", share.name())
}

/// Waits for the first of some tasks to end. Without any task it waits for ever, so that it can stand in a `select!`.
async fn ended<T: 'static>(tasks: &mut JoinSet<Result<T, HandlerError>>) -> Result<T, HandlerError> {
    match tasks.join_next().await {
        Some(Ok(end)) => end,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Some(Err(_)) | None => std::future::pending().await,
    }
}
