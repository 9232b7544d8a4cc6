//! Standing by: waiting for the lease, and keeping it.
//!
//! A standby keeps warm so that a takeover is short. It follows OUTCOMES to learn the ids that the active handler records, and to
//! forget those whose records that one purges; and EVENTS to know the states of aggregates. One that is not warm leaves the lease alone:
//! before it is, it could decide nothing with it either, and whoever is warm can.

use std::{sync::Arc, time::Duration};

use millstream_contract::{leases::COMMAND_HANDLER_LEASE, stored_message::StoredMessage};
use millstream_jetstream::{
    broker::{Broker, BrokerError, StreamReader},
    id_source::IdSource,
    retry::answered,
};
use millstream_runtime::{health::ProgressWatch, shutdown::Shutdown};
use tokio::sync::watch;

use super::{
    CommandHandler, HandlerError, Observed, PurgeSettings, TurnEnd,
    id_follower::IdFollower,
    purge,
    state_keeper::{StateFollower, StateKeeper},
};
use crate::id_index::IdIndex;

/// What a standby reads, which need not have caught up yet when its turn begins.
pub(super) struct Followers<B: Broker> {
    pub(super) ids: IdFollower<B::Reader>,
    pub(super) states: StateFollower<B>,
}

impl<B: Broker> Followers<B> {
    /// Gives the consumers back. Whoever only drops them may find that their names are taken when it stands by again.
    pub(super) async fn close(self) {
        self.ids.close().await;
        self.states.close().await;
    }
}

impl<B: Broker> CommandHandler<B> {
    /// Waits until this handler holds the lease. Returns what it has followed meanwhile; `None` when the process is asked to stop.
    pub(super) async fn stand_by(
        &mut self,
        shutdown: &Shutdown,
    ) -> Result<Option<Followers<B>>, HandlerError> {
        // Whoever cannot find out where the streams end cannot ask for the lease either.
        self.observed.progress.lease.reached(0);
        self.observed.progress.lease.held("OUTCOMES and EVENTS are being opened");
        let mut followers = tokio::select! {
            biased;
            followers = self.open() => followers?,
            () = shutdown.requested() => return Ok(None),
        };
        let Followers { ids, states } = &mut followers;
        let warmth = Warmth::new(&self.observed);
        warmth.note(ids.lacks(&self.index), states.lacks(&self.states));
        let waiting = Waiting {
            broker: &self.broker,
            owner: self.ids.run(),
            time_to_live: self.settings.lease_time_to_live,
            warm: warmth.lacks.subscribe(),
            progress: &self.observed.progress.lease,
        };
        let held = tokio::select! {
            biased;
            held = waiting.for_lease() => held.map(|()| true),
            followed = follow_ids(ids, &self.index, &warmth) => followed.map(|()| false),
            forgotten = forget_ids(&self.broker, &self.index, self.settings.purge) => forgotten.map(|()| false),
            followed = follow_states(states, &mut self.states, &warmth) => followed.map(|()| false),
            () = shutdown.requested() => Ok(false),
        };
        if matches!(held, Ok(true)) {
            return Ok(Some(followers));
        }
        followers.close().await;
        held.map(|_| None)
    }

    /// Checks that the id index and the snapshots belong to the streams as they are now, and opens OUTCOMES and EVENTS where they end.
    /// A server that came back with an older copy of a stream must not meet ids and states from its lost future.
    async fn open(&mut self) -> Result<Followers<B>, HandlerError> {
        let states = self.states.open(&self.broker, &self.ids, &self.settings.name).await?;
        let ids = IdFollower::open(&self.broker, &self.ids, &self.settings.name, &self.index).await?;
        Ok(Followers { ids, states })
    }
}

/// Forgets ids, for ever.
async fn forget_ids<B: Broker>(
    broker: &B,
    index: &Arc<IdIndex>,
    settings: Option<PurgeSettings>,
) -> Result<(), HandlerError> {
    match settings {
        Some(settings) => purge::follow(broker, index, settings).await,
        None => std::future::pending().await,
    }
}

/// Learns the ids of commands, for ever.
async fn follow_ids<R: StreamReader>(
    follower: &mut IdFollower<R>,
    index: &Arc<IdIndex>,
    warmth: &Warmth<'_>,
) -> Result<(), HandlerError> {
    loop {
        warmth.observed.progress.ids.reached(index.through());
        follower.learn(index).await?;
        warmth.note_ids(follower.lacks(index));
    }
}

/// Follows the states of all aggregates, for ever.
async fn follow_states<B: Broker>(
    follower: &mut StateFollower<B>,
    keeper: &mut StateKeeper,
    warmth: &Warmth<'_>,
) -> Result<(), HandlerError> {
    loop {
        warmth.observed.progress.states.reached(keeper.cache.through());
        follower.follow(keeper).await?;
        warmth.observed.observe_cache(&keeper.cache);
        warmth.note_states(follower.lacks(keeper));
    }
}

/// What a stream still has that a standby does not know, if that is more than it could read while it takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) through: u64,
    pub(super) end: u64,
}

/// What a handler lacks before it could decide at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Lacks {
    ids: Option<Lack>,
    states: Option<Lack>,
}

impl Lacks {
    fn is_warm(&self) -> bool {
        self.ids.is_none() && self.states.is_none()
    }

    fn words(&self) -> String {
        let ids = self.ids.map(|Lack { through, end }| {
            format!("OUTCOMES is read from {through} to {end} to know the ids of commands")
        });
        let states = self.states.map(|Lack { through, end }| {
            format!("EVENTS is read from {through} to {end} to know the states of aggregates")
        });
        states.into_iter().chain(ids).collect::<Vec<_>>().join("; ")
    }
}

/// Says whether a handler could decide at once.
struct Warmth<'a> {
    lacks: watch::Sender<Lacks>,
    observed: &'a Observed,
}

impl<'a> Warmth<'a> {
    fn new(observed: &'a Observed) -> Self {
        Self { lacks: watch::Sender::default(), observed }
    }

    fn note(&self, ids: Option<Lack>, states: Option<Lack>) {
        self.lacks.send_replace(Lacks { ids, states });
        self.show();
    }

    fn note_ids(&self, now: Option<Lack>) {
        self.change(now, |lacks| &mut lacks.ids);
    }

    fn note_states(&self, now: Option<Lack>) {
        self.change(now, |lacks| &mut lacks.states);
    }

    /// How far reading has come is told when it begins and when it has ended.
    fn change(&self, now: Option<Lack>, part: impl FnOnce(&mut Lacks) -> &mut Option<Lack>) {
        let changed = self.lacks.send_if_modified(|lacks| {
            let before = part(lacks);
            let changed = before.is_some() != now.is_some();
            if changed {
                *before = now;
            }
            changed
        });
        if changed {
            self.show();
        }
    }

    fn show(&self) {
        let lacks = *self.lacks.borrow();
        self.observed.metrics.warm.set(i64::from(lacks.is_warm()));
        if lacks.is_warm() {
            tracing::info!("warm: the states of aggregates and the ids of commands are known");
            self.observed.ready.holds();
        } else {
            let reading = lacks.words();
            tracing::info!(reading, "not warm yet");
            self.observed.ready.fails(reading);
        }
    }
}

/// Waits for the lease.
struct Waiting<'a, B> {
    broker: &'a B,
    owner: &'a str,
    time_to_live: Duration,
    warm: watch::Receiver<Lacks>,
    progress: &'a ProgressWatch,
}

impl<B: Broker> Waiting<'_, B> {
    async fn for_lease(mut self) -> Result<(), HandlerError> {
        let mut active = None;
        self.progress.reached(0);
        loop {
            match self.ask(&mut active).await {
                Ok(true) => return Ok(()),
                Ok(false) => self.progress.nothing_waits(),
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(operation, detail, "the lease cannot be asked for now");
                    self.progress.held(detail);
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = self.broker.lease_freed(COMMAND_HANDLER_LEASE, self.time_to_live / 3) => {}
                Ok(()) = self.warm.changed() => {}
            }
        }
    }

    /// Takes the lease if it is free and this handler is warm. Says for whom it waits, once for each holder.
    async fn ask(&self, active: &mut Option<String>) -> Result<bool, BrokerError> {
        if self.warm.borrow().is_warm()
            && self.broker.hold_lease(COMMAND_HANDLER_LEASE, self.owner, self.time_to_live).await?
        {
            return Ok(true);
        }
        let Some(owner) = self.broker.lease_owner(COMMAND_HANDLER_LEASE).await? else { return Ok(false) };
        if active.as_ref() != Some(&owner) {
            tracing::info!(
                lease = COMMAND_HANDLER_LEASE,
                active = owner,
                "standing by until the active handler gives its lease back or falls silent"
            );
            *active = Some(owner);
        }
        Ok(false)
    }
}

/// The message of a stream at `sequence`, if there is one. Waits while the server does not answer.
pub(super) async fn message_at<B: Broker>(
    broker: &B,
    ids: &IdSource,
    stream: &str,
    sequence: u64,
) -> Result<Option<StoredMessage>, BrokerError> {
    if sequence == 0 {
        return Ok(None);
    }
    answered(ids, || broker.get(stream, sequence)).await
}

/// Renews the lease until it is lost, or may be lost because no renewal was confirmed in time.
pub(super) async fn keep_lease<B: Broker>(
    broker: B,
    ids: IdSource,
    time_to_live: Duration,
) -> Result<(), TurnEnd> {
    millstream_jetstream::lease::keep(&broker, COMMAND_HANDLER_LEASE, ids.run(), time_to_live).await;
    Err(TurnEnd::Lost)
}
