//! The handlers of all shares in one process, and the change to another number of shares.
//!
//! A process is ready to work on every share: it holds those that it should have, and all of them when it is alone. It works
//! only while the partitions are shared over as many handlers as it is configured for. Otherwise it stands by, until
//! no process works on the way in force any more, and then begins the next epoch ([`crate::share_layout`]): processes with
//! different settings do not take turns in undoing what the other did.

use std::{num::NonZeroUsize, sync::Arc};

use millstream_contract::{leases::command_handler_lease, stream_names::OUTCOMES};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::{Broker, BrokerError},
    retry::RunIds,
};
use millstream_runtime::{health::Condition, shutdown::Shutdown};
use tokio::task::JoinSet;

use super::{
    CommandHandler, HandlerError, HandlerSettings, Observed, Share, Streams,
    company::{Company, Holders, Slots, slot_key},
    ended, first_start,
    id_feed::IdFeed,
    latest_value::LatestValue,
    state_of,
};
use crate::{
    id_index::IdIndex,
    outcome_journal::JournalError,
    share_layout::{self, Layout},
    state_cache::CacheLimits,
    state_snapshots::{SnapshotError, StateSnapshots},
};

/// What the handler of a share has of its own.
#[derive(Debug)]
pub struct SharePlace {
    /// Its states on disk.
    pub snapshots: StateSnapshots,
    /// Where it tells what it does.
    pub observed: Observed,
}

/// Makes the place of a share; asked again when the partitions are shared anew.
pub type MakePlace = Box<dyn Fn(Share) -> Result<SharePlace, SnapshotError> + Send + Sync>;

/// All handlers of a process.
pub struct ShareHandlers<B> {
    broker: B,
    registry: AggregateRegistry,
    /// Those of one handler; its share is that of each in turn.
    settings: HandlerSettings,
    /// How many parts the partitions are to be shared in.
    shares: u32,
    run: Arc<str>,
    /// How often the handlers were made: ids are never given twice.
    made: u64,
    ids: RunIds,
    index: IdIndex,
    make_place: MakePlace,
    ready: Condition,
}

impl<B: Broker> ShareHandlers<B> {
    /// Handlers for each share of a division in as many parts as the share of `settings` is one of. `run` names this run among
    /// all runs ever.
    pub fn new(
        broker: B,
        registry: AggregateRegistry,
        settings: HandlerSettings,
        run: &str,
        index: IdIndex,
        make_place: MakePlace,
        ready: Condition,
    ) -> Self {
        let shares = settings.share.of;
        let (run, ids) = (Arc::from(run), RunIds::new(format!("{run}-shares")));
        Self { broker, registry, settings, shares, run, made: 0, ids, index, make_place, ready }
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// [`HandlerError`] when nothing that time can mend stands in the way.
    pub async fn run(&mut self, shutdown: Shutdown) -> Result<(), HandlerError> {
        let mut cut_off = false;
        loop {
            tokio::select! {
                biased;
                in_force = self.bring_in_force(cut_off) => in_force?,
                () = shutdown.requested() => return Ok(()),
            }
            let end = self.work(&shutdown).await;
            cut_off = match &end {
                Err(HandlerError::Journal(JournalError::OtherLayout { .. })) => false,
                Err(HandlerError::Journal(JournalError::Closed { share })) => {
                    tracing::warn!(share, "ending the change that somebody else has begun");
                    true
                }
                _ => return end,
            };
        }
    }

    /// Waits until the partitions are shared as this process is to share them, and sees to it as soon as that disturbs
    /// nobody; at once when a change was `cut_off`, since nobody can work on the closed shares before the next epoch.
    async fn bring_in_force(&mut self, cut_off: bool) -> Result<(), HandlerError> {
        if cut_off {
            self.change().await?;
        }
        let mut told = false;
        loop {
            let generations = Streams::look(&self.broker, &self.ids).await?.generations;
            let layout = Layout::in_force(&self.broker, &generations, &self.ids).await?;
            if layout.shares == self.shares {
                return Ok(());
            }
            let busy = match self.take_all(layout.shares).await {
                Ok(None) => {
                    self.change().await?;
                    self.give_all_back(layout.shares).await;
                    continue;
                }
                Ok(Some(key)) => key,
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(operation, detail, "waiting for the server");
                    self.ids.backoff().pause().await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if !std::mem::replace(&mut told, true) {
                let (active_handlers, in_force) = (self.shares, layout.shares);
                tracing::warn!(
                    active_handlers,
                    in_force,
                    "standing by until no process works on the shares in force"
                );
            }
            self.ready.holds();
            self.broker.lease_freed(&busy, self.settings.lease_time_to_live / 3).await;
        }
    }

    /// Takes the leases of all shares of a division into `of` parts, or none of them; answers a lease that another has. One that
    /// holds a slot is about to go on where somebody stopped.
    async fn take_all(&self, of: u32) -> Result<Option<String>, BrokerError> {
        let slots = Share::each(of).filter(|_| of > 1).map(slot_key);
        for key in slots.chain(Share::each(of).map(command_handler_lease)) {
            if self.broker.lease_owner(&key).await?.is_some_and(|owner| *owner != *self.run) {
                return Ok(Some(key));
            }
        }
        for key in Share::each(of).map(command_handler_lease) {
            if !self.broker.hold_lease(&key, &self.run, self.settings.lease_time_to_live).await? {
                self.give_all_back(of).await;
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    async fn give_all_back(&self, of: u32) {
        for share in Share::each(of) {
            if let Err(error) = self.broker.release_lease(&command_handler_lease(share), &self.run).await {
                tracing::warn!(%error, "a lease could not be given back; it lapses by itself");
            }
        }
    }

    /// Ends the epoch in force, whatever it is, and begins another.
    async fn change(&self) -> Result<(), HandlerError> {
        let streams = Streams::look(&self.broker, &self.ids).await?;
        let change = |may_begin| {
            let generations = &streams.generations;
            share_layout::change(&self.broker, &self.ids, generations, self.shares, may_begin)
        };
        match change(streams.events.last_sequence == 0).await {
            Err(JournalError::NothingRecorded { .. }) => {
                first_start::check(&self.broker, &self.ids, &streams.commands, &streams.events).await?;
                Ok(change(true).await?)
            }
            changed => Ok(changed?),
        }
    }

    /// Works on the shares until asked to stop, or until one of them cannot be worked on.
    async fn work(&mut self, shutdown: &Shutdown) -> Result<(), HandlerError> {
        self.made += 1;
        if self.shares == 1 {
            let mut handler = self.handler(Share::ALL, self.index.for_all())?;
            self.ready.holds();
            return handler.run(shutdown.clone()).await;
        }
        let index = Arc::new(self.index.for_all());
        let (feed, known_at_start) = tokio::select! {
            biased;
            opened = self.open_feed(&index) => opened?,
            () = shutdown.requested() => return Ok(()),
        };
        let stop = shutdown.child();
        let followed = LatestValue::new(index.through());
        let holders = LatestValue::<Holders>::default();
        let mut following = JoinSet::new();
        let done = Shutdown::new();
        following.spawn(feed.follow_for_all(index, followed.clone(), done.clone()));
        let mut handlers = JoinSet::new();
        for share in Share::each(self.shares) {
            let company = Company::new(share, self.run.clone(), holders.clone(), followed.clone());
            let handler = self.handler(share, self.index.for_share())?;
            let (mut handler, stop) = (handler.in_company(company), stop.clone());
            handlers.spawn(async move { handler.run(stop).await });
        }
        self.ready.holds();
        let slots = Slots {
            broker: self.broker.clone(),
            process: self.run.clone(),
            count: self.shares,
            time_to_live: self.settings.lease_time_to_live,
            holders,
        };
        let mut holding = JoinSet::new();
        holding.spawn(slots.keep_once_warm(followed, known_at_start, stop.clone()));
        let mut end = tokio::select! {
            biased;
            end = ended(&mut handlers) => end,
            // Nobody could take a share over any more.
            failed = ended(&mut following) => return failed,
        };
        stop.request();
        while !handlers.is_empty() {
            let other = tokio::select! {
                biased;
                other = ended(&mut handlers) => other,
                failed = ended(&mut following) => return failed,
            };
            if !is_final(&end) && is_final(&other) {
                end = other;
            }
        }
        holding.join_all().await;
        done.request();
        ended(&mut following).await.and(end)
    }

    /// The reader of ids for all handlers, and the end of OUTCOMES as it is now.
    async fn open_feed(&self, index: &IdIndex) -> Result<(IdFeed<B::Reader>, u64), HandlerError> {
        let feed = IdFeed::open(&self.broker, &self.ids, &self.settings.name, index).await?;
        Ok((feed, state_of(&self.broker, &self.ids, OUTCOMES).await?.last_sequence))
    }

    fn handler(&self, share: Share, index: IdIndex) -> Result<CommandHandler<B>, HandlerError> {
        let run = match (share, self.made) {
            (Share::ALL, 1) => self.run.to_string(),
            (share, made) => format!("{}-{}-{made}", self.run, share.name()),
        };
        let SharePlace { snapshots, observed } = (self.make_place)(share)?;
        let settings = HandlerSettings { share, cache: self.part_of_cache(), ..self.settings.clone() };
        let (broker, registry) = (self.broker.clone(), self.registry.clone());
        Ok(CommandHandler::new(broker, registry, settings, &run, index, snapshots, observed))
    }

    /// A process may have to carry all shares.
    fn part_of_cache(&self) -> CacheLimits {
        let CacheLimits { states, bytes } = self.settings.cache;
        let parts = usize::try_from(self.shares).unwrap_or(1).max(1);
        let part = NonZeroUsize::new(states.get() / parts).unwrap_or(NonZeroUsize::MIN);
        CacheLimits { states: part, bytes: bytes / u64::from(self.shares.max(1)) }
    }
}

/// Whether a handler's end is the end of the process, whatever those of other shares ended with.
fn is_final(end: &Result<(), HandlerError>) -> bool {
    let passing = |error: &HandlerError| {
        matches!(error, HandlerError::Journal(JournalError::OtherLayout { .. } | JournalError::Closed { .. }))
    };
    end.as_ref().is_err_and(|error| !passing(error))
}
