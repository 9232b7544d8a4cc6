//! The command handler: it stands by until it holds the lease, takes over, and settles COMMANDS round by round until another
//! handler takes over or the process ends.
//!
//! ```text
//!             lease held               fence stored, ids learnt
//!  stand by ──────────────▶ take over ──────────────────────────▶ active
//!     ▲                         │                                   │
//!     └─────────────────────────┴───────────────────────────────────┘
//!                lease lost, or another handler's fence
//! ```
//!
//! A shutdown ends it in each of these states; an active handler first records what it has settled, then gives the lease back.
//!
//! While it is active, three tasks pass commands on to each other, and two more tasks run beside them:
//!
//! ```text
//!  COMMANDS ──▶ read_ahead ──▶ settle_rounds ──▶ Recorder ──▶ OUTCOMES, replies
//!               decodes        decides, appends   one record at a time
//!               (both in `command_handler/rounds.rs`)
//!
//!  keep_lease: ends the turn when the lease is lost         purge: removes what is covered and old
//! ```
//!
//! Only one outcome record is in flight at a time; rounds that are settled in the meantime are collected in the next record. The lease only
//! says who may try. Only the expected-sequence checks guarantee safety ([`crate::outcome_journal`], [`crate::settlement`]). At most one
//! handler is active (docs/adr/0026-one-active-command-handler.md).

mod error;
mod first_start;
mod id_flush;
mod id_follower;
mod loss_watch;
mod observability;
mod purge;
mod recorder;
mod rounds;
mod standby;
mod state_keeper;
mod streams;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use millstream_contract::{
    leases::COMMAND_HANDLER_LEASE,
    stream_names::{COMMANDS, COMMANDS_CONSUMER, EVENTS},
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::{Broker, ReadError, ReaderConfig},
    group_append::AppendStrategy,
    id_source::IdSource,
    lost_tail::state_reaching,
    retry::answered,
};
use millstream_runtime::{file_work::end_of, shutdown::Shutdown};
use tokio::{sync::mpsc, task::JoinSet};

pub use self::{
    error::HandlerError,
    observability::{HandlerProgress, Observed, ProcessRejectionCounts},
    purge::PurgeSettings,
};

use crate::{
    command_handler::{
        loss_watch::Known,
        recorder::{Recorder, SettledRound},
        rounds::{Rounds, SettlingEnd, read_ahead},
        standby::Followers,
        state_keeper::{StateFollower, StateKeeper},
        streams::Streams,
    },
    id_index::IdIndex,
    outcome_journal::{JournalError, OutcomeJournal},
    round::InternalCommands,
    settlement::Settlement,
    state_cache::{CacheLimits, StateCache},
    state_snapshots::StateSnapshots,
};

/// How many rounds may be settled but not recorded yet. If the recorder falls behind, settling waits. This limits what a crash loses.
const ROUNDS_UNRECORDED: usize = 8;

/// The settings of a handler.
#[derive(Debug, Clone)]
pub struct HandlerSettings {
    /// Its name among the handlers, such as `command-handler-1`. It is part of the name of its own consumer.
    pub name: String,
    /// The most commands in a round. The first rounds of a turn are smaller.
    pub round_max: NonZeroUsize,
    /// How many aggregate states are kept in memory.
    pub cache: CacheLimits,
    /// Whether commits are appended singly or in atomic batches.
    pub append_strategy: AppendStrategy,
    /// How long a handler that has fallen silent keeps the lease.
    pub lease_time_to_live: Duration,
    /// What it purges while it is active; nothing if absent.
    pub purge: Option<PurgeSettings>,
    /// Who may give the commands that are meant for processes and timers.
    pub internal_commands: InternalCommands,
}

/// Why a turn ends although the handler was not asked to stop.
#[derive(Debug)]
enum TurnEnd {
    /// Another handler is active, or may be.
    Lost,
    /// An error that does not go away with time.
    Failed(HandlerError),
}

/// The fence or the consumer of another handler is not an error: this handler has lost its turn. The same holds if the ids have to be learnt
/// again, which happens before the next turn.
impl<E: Into<HandlerError>> From<E> for TurnEnd {
    fn from(error: E) -> Self {
        match error.into() {
            HandlerError::Journal(JournalError::LostTurn)
            | HandlerError::Read(ReadError::TakenOver { .. }) => Self::Lost,
            error if error.index_begun_anew() => Self::Lost,
            error => Self::Failed(error),
        }
    }
}

/// Decides the commands of COMMANDS while it holds the lease. `pipeline/jetstream/src/provision/definitions.rs` says which subjects COMMANDS
/// stores.
pub struct CommandHandler<B: Broker> {
    broker: B,
    registry: AggregateRegistry,
    settings: HandlerSettings,
    ids: IdSource,
    index: Arc<IdIndex>,
    states: StateKeeper,
    /// Reads commits of other handlers that stand among its own; present only while it does.
    foreign: Option<StateFollower<B>>,
    settlement: Settlement<B>,
    observed: Observed,
}

impl<B: Broker> CommandHandler<B> {
    /// Creates a handler for the aggregates in `registry`. `run` must be unique among all runs ever: it is part of the ids of commits and
    /// records, by which a handler recognises its own appends.
    pub fn new(
        broker: B,
        registry: AggregateRegistry,
        settings: HandlerSettings,
        run: &str,
        index: IdIndex,
        snapshots: StateSnapshots,
        observed: Observed,
    ) -> Self {
        let ids = IdSource::new(run);
        Self {
            states: StateKeeper::new(StateCache::new(settings.cache, registry.clone(), snapshots)),
            foreign: None,
            settlement: Settlement::new(
                broker.clone(),
                ids.clone(),
                settings.append_strategy,
                observed.metrics.clone(),
            ),
            index: Arc::new(index),
            broker,
            registry,
            settings,
            ids,
            observed,
        }
    }

    /// Runs until `shutdown`: stands by, takes over, settles, and stands by again.
    ///
    /// # Errors
    /// [`HandlerError`] when the handler cannot continue and waiting would not help.
    pub async fn run(&mut self, shutdown: Shutdown) -> Result<(), HandlerError> {
        loop {
            let followers = match self.stand_by(&shutdown).await {
                Err(error) if error.index_begun_anew() => continue,
                followers => followers?,
            };
            let Some(followers) = followers else {
                self.save().await;
                return Ok(());
            };
            tracing::info!(run = self.ids.run(), "taking over");
            self.observed.progress.begin_turn();
            let end = self.turn(followers, &shutdown).await;
            self.observed.metrics.active.set(0);
            self.observed.progress.commands.rest();
            // What was settled but not recorded has no outcome yet, so the next handler, which may be this one, decides it again. If its id
            // stayed in the index, it would then be taken for a repeat of itself.
            self.index.drop_settled();
            self.states.cache.doubt_all();
            if end.is_err() {
                // A turn may end in the middle of a round, when states that were decided on are not in the cache.
                self.states.cache.back_to_file();
            }
            let end = match end {
                Err(TurnEnd::Lost) => {
                    tracing::warn!("lost the turn; standing by");
                    continue;
                }
                Err(TurnEnd::Failed(error)) => Err(error),
                Ok(()) => Ok(()),
            };
            if let Err(error) = self.broker.release_lease(COMMAND_HANDLER_LEASE, self.ids.run()).await {
                tracing::warn!(%error, "the lease could not be given back; it lapses by itself");
            }
            self.save().await;
            return end;
        }
    }

    /// Writes to the files what they lack, so that the next start is fast.
    async fn save(&mut self) {
        if let Err(error) = id_flush::flush(&self.index).await {
            tracing::warn!(%error, "the id index was not written; it is read again from the outcomes");
        }
        self.states.save_all().await;
    }

    /// One turn: it begins with the lease, and ends with the loss of the turn, or with a shutdown after everything settled is recorded.
    async fn turn(&mut self, mut followers: Followers<B>, shutdown: &Shutdown) -> Result<(), TurnEnd> {
        let mut tasks = JoinSet::new();
        let time_to_live = self.settings.lease_time_to_live;
        // This starts before the takeover, which may take longer than the lease lives.
        tasks.spawn(standby::keep_lease(self.broker.clone(), self.ids.clone(), time_to_live));
        let begun = tokio::select! {
            biased;
            begun = self.take_over(&mut followers) => begun.map(Some).map_err(TurnEnd::from),
            end = first_end(&mut tasks) => end.map(|()| None),
            () = shutdown.requested() => Ok(None),
        };
        followers.close().await;
        let Some((journal, reader)) = begun? else { return Ok(()) };
        tracing::info!(after = journal.cursor(), "active");
        self.observed.progress.commands.reached(journal.cursor());
        self.observed.ready.holds();
        self.observed.metrics.warm.set(1);
        self.observed.metrics.active.set(1);
        self.observed.metrics.takeovers.inc();
        // The loss watch compares the streams with this state. `take_over` has already checked for earlier losses.
        let known = Known::new(journal.generations().clone(), journal.cursor(), journal.last_sequence());
        known.committed(self.states.cache.newest());
        let (mut rounds, settled) = self.start_tasks(&mut tasks, journal, reader, &known);
        let end = tokio::select! {
            biased;
            end = self.settle_rounds(&mut rounds, &settled, &known, shutdown) => end.map(Some).map_err(TurnEnd::from),
            end = first_end(&mut tasks) => end.map(|()| None),
        };
        // When a task ends, settling stops at once, even while it reads what others have appended.
        self.close_foreign().await;
        let Some(end) = end? else { return Ok(()) };
        if end == SettlingEnd::Shutdown {
            // The recorder ends without an error only after it has recorded what is still in the channel.
            drop(settled);
        }
        first_end(&mut tasks).await
    }

    /// Starts all tasks that run beside the settling of rounds. Returns the channel from which rounds come, and the one for settled rounds.
    fn start_tasks(
        &self,
        tasks: &mut JoinSet<Result<(), TurnEnd>>,
        journal: OutcomeJournal<B>,
        reader: B::Reader,
        known: &Known,
    ) -> (Rounds, mpsc::Sender<SettledRound>) {
        let (broker, index) = (&self.broker, &self.index);
        if let Some(settings) = self.settings.purge {
            let metrics = self.observed.metrics.clone();
            tasks.spawn(purge::run(broker.clone(), index.clone(), settings, metrics));
        }
        // The channel is limited by the memory that each batch holds.
        let (read_out, read_in) = mpsc::unbounded_channel();
        let (round_max, internal) = (self.settings.round_max.get(), self.settings.internal_commands);
        tasks.spawn(read_ahead(reader, self.registry.clone(), internal, round_max, read_out));
        let (settled_out, settled_in) = mpsc::channel(ROUNDS_UNRECORDED);
        tasks.spawn(loss_watch::run(broker.clone(), self.ids.clone(), known.clone()));
        let observed = self.observed.clone();
        let recorder = Recorder::new(broker.clone(), journal, index.clone(), known.clone(), observed);
        tasks.spawn(recorder.run(settled_in));
        (Rounds::new(read_in, round_max), settled_out)
    }

    /// Takes over: appends the fence, checks that COMMANDS and EVENTS still hold everything that the journal names, learns the
    /// ids of all records and the states of all aggregates, and opens COMMANDS after the cursor.
    ///
    /// The order matters. Before the fence, the previous handler may still record, so the last record and the ids are final only after it. What
    /// the previous handler appends to EVENTS even later belongs to commands that are still to be decided, and deciding them finds it there.
    async fn take_over(
        &mut self,
        followers: &mut Followers<B>,
    ) -> Result<(OutcomeJournal<B>, B::Reader), HandlerError> {
        let (broker, ids) = (&self.broker, &self.ids);
        let Followers { ids: known_ids, states } = followers;
        let streams = Streams::look(broker, ids).await?;
        let take_over = |may_begin| {
            OutcomeJournal::take_over(broker.clone(), streams.generations.clone(), ids.clone(), may_begin)
        };
        let journal = match take_over(streams.events.last_sequence == 0).await {
            Err(JournalError::NothingRecorded) => {
                first_start::check(broker, ids, &streams.commands, &streams.events).await?;
                take_over(true).await?
            }
            journal => journal?,
        };
        // This is read again, because the previous handler may have appended between the first look and the fence.
        let named = [(COMMANDS, journal.cursor()), (EVENTS, journal.events_through())];
        for (stream, named) in named {
            let last = answered(ids, || state_reaching(broker, ids, stream, named)).await?.last_sequence;
            if last < named {
                return Err(HandlerError::LostTail { stream, last, named });
            }
        }
        // Up to the fence: an id that was recorded just before the fence must be known before the first command is decided.
        known_ids.catch_up(&self.index, journal.last_sequence()).await?;
        states.catch_up(&mut self.states, ids).await?;
        let config = ReaderConfig {
            stream: COMMANDS.to_owned(),
            name: COMMANDS_CONSUMER.to_owned(),
            description: "commands on their way to a decision".to_owned(),
            after: journal.cursor(),
            filters: Vec::new(),
            replace_live: true,
        };
        Ok((journal, broker.read(config).await?))
    }
}

/// Waits until the first of some tasks ends.
async fn first_end(tasks: &mut JoinSet<Result<(), TurnEnd>>) -> Result<(), TurnEnd> {
    match tasks.join_next().await {
        Some(end) => end_of(std::future::ready(end)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
