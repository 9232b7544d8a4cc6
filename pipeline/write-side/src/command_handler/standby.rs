//! Standing by: waiting for the lease, and keeping it.
//!
//! A standby keeps warm, so that a takeover is short. It follows OUTCOMES to learn the ids that the active handler records, and to forget ids
//! whose records the active handler purges. It follows EVENTS to know the states of aggregates. A standby that is not warm yet lets others go
//! first: it takes the lease only if nobody else has wanted it for the lifetime of a lease.

use std::{sync::Arc, time::Duration};

use millstream_contract::{leases::COMMAND_HANDLER_LEASE, stored_message::StoredMessage};
use millstream_jetstream::{
    broker::{Broker, BrokerError},
    id_source::IdSource,
    retry::answered,
};
use millstream_runtime::{health::ProgressWatch, shutdown::Shutdown};
use tokio::{sync::watch, time::Instant};

use super::{
    CommandHandler, HandlerError, Observed, PurgeSettings, TurnEnd,
    id_follower::IdFollower,
    purge,
    state_keeper::{StateFollower, StateKeeper},
};
use crate::id_index::IdIndex;

/// What a standby reads. It need not have caught up when its turn begins.
pub(super) struct Followers<B: Broker> {
    pub(super) ids: IdFollower<B::Reader>,
    pub(super) states: StateFollower<B>,
}

impl<B: Broker> Followers<B> {
    /// Removes the consumers. If they were only dropped, their names might still be taken when this handler stands by again.
    pub(super) async fn close(self) {
        self.ids.close().await;
        self.states.close().await;
    }
}

impl<B: Broker> CommandHandler<B> {
    /// Waits until this handler holds the lease. Returns its followers; `None` if the process is asked to stop.
    pub(super) async fn stand_by(
        &mut self,
        shutdown: &Shutdown,
    ) -> Result<Option<Followers<B>>, HandlerError> {
        // A handler that cannot find out where the streams end cannot ask for the lease, either.
        self.observed.progress.lease.reached(0);
        self.observed.progress.lease.held("OUTCOMES and EVENTS are being opened");
        let mut followers = tokio::select! {
            biased;
            followers = self.open() => followers?,
            () = shutdown.requested() => return Ok(None),
        };
        let Followers { ids, states } = &mut followers;
        let warm = watch::Sender::new(states.is_warm(&self.states));
        show_warmth(&warm, states, &self.states, &self.observed);
        let waiting = Waiting {
            broker: &self.broker,
            owner: self.ids.run(),
            time_to_live: self.settings.lease_time_to_live,
            warm: warm.subscribe(),
            progress: &self.observed.progress.lease,
        };
        let held = tokio::select! {
            biased;
            held = waiting.for_lease() => held.map(|()| true),
            followed = ids.follow(&self.index, &self.observed.progress.ids) => followed.map(|()| false),
            forgotten = forget_ids(&self.broker, &self.index, self.settings.purge) => forgotten.map(|()| false),
            followed = follow_states(states, &mut self.states, &warm, &self.observed) => followed.map(|()| false),
            () = shutdown.requested() => Ok(false),
        };
        if matches!(held, Ok(true)) {
            return Ok(Some(followers));
        }
        followers.close().await;
        held.map(|_| None)
    }

    /// Checks that the id index and the snapshots belong to the current streams, and opens OUTCOMES and EVENTS where they end. If a server came
    /// back with an older copy of a stream, ids and states from its lost future must not be used.
    async fn open(&mut self) -> Result<Followers<B>, HandlerError> {
        let states = self.states.open(&self.broker, &self.ids, &self.settings.name).await?;
        let ids = IdFollower::open(&self.broker, &self.ids, &self.settings.name, &self.index).await?;
        Ok(Followers { ids, states })
    }
}

/// Forgets purged ids for ever.
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

/// Follows the states of all aggregates, for ever.
async fn follow_states<B: Broker>(
    follower: &mut StateFollower<B>,
    keeper: &mut StateKeeper,
    warm: &watch::Sender<bool>,
    observed: &Observed,
) -> Result<(), HandlerError> {
    loop {
        observed.progress.states.reached(keeper.cache.through());
        follower.follow(keeper).await?;
        observed.observe_cache(&keeper.cache);
        let now = follower.is_warm(keeper);
        if now != *warm.borrow() {
            warm.send_replace(now);
            show_warmth(warm, follower, keeper, observed);
        }
    }
}

/// Whether this handler could decide at once.
fn show_warmth<B: Broker>(
    warm: &watch::Sender<bool>,
    follower: &StateFollower<B>,
    keeper: &StateKeeper,
    observed: &Observed,
) {
    let (warm, through, end) = (*warm.borrow(), keeper.cache.through(), follower.end());
    observed.metrics.warm.set(i64::from(warm));
    if warm {
        tracing::info!(through, "warm: the states of aggregates are known");
        observed.ready.holds();
    } else {
        tracing::info!(through, end, "reading EVENTS to know the states of aggregates");
        observed
            .ready
            .fails(format!("EVENTS is read from {through} to {end} to know the states of aggregates"));
    }
}

/// Waits for the lease.
struct Waiting<'a, B> {
    broker: &'a B,
    owner: &'a str,
    time_to_live: Duration,
    warm: watch::Receiver<bool>,
    progress: &'a ProgressWatch,
}

impl<B: Broker> Waiting<'_, B> {
    async fn for_lease(mut self) -> Result<(), HandlerError> {
        let mut active = None;
        let mut free_since = None;
        self.progress.reached(0);
        loop {
            match self.ask(&mut active, &mut free_since).await {
                Ok(true) => return Ok(()),
                Ok(false) => self.progress.nothing_waits(),
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(operation, detail, "the lease cannot be asked for now");
                    self.progress.held(detail);
                    free_since = None;
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = self.broker.lease_freed(COMMAND_HANDLER_LEASE, self.time_to_live / 3) => {}
                Ok(()) = self.warm.changed() => {}
            }
        }
    }

    /// Takes the lease if it is free and this handler is warm, or if it is free and nobody else is there. Logs once for each holder that it
    /// waits.
    async fn ask(
        &self,
        active: &mut Option<String>,
        free_since: &mut Option<Instant>,
    ) -> Result<bool, BrokerError> {
        let alone = free_since.is_some_and(|since| since.elapsed() >= self.time_to_live);
        if (*self.warm.borrow() || alone)
            && self.broker.hold_lease(COMMAND_HANDLER_LEASE, self.owner, self.time_to_live).await?
        {
            return Ok(true);
        }
        let Some(owner) = self.broker.lease_owner(COMMAND_HANDLER_LEASE).await? else {
            free_since.get_or_insert_with(Instant::now);
            return Ok(false);
        };
        *free_since = None;
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

/// The message at `sequence` of a stream, if there is one. Waits as long as the server does not answer.
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
