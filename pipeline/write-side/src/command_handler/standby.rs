//! Standing by: waiting for the lease, and keeping it.
//!
//! A standby keeps warm so that a takeover is short. It follows OUTCOMES to learn the ids that the active handler records, and
//! EVENTS to keep the states of aggregates.

use std::time::Duration;

use millstream_contract::{
    commit::{StoredCommit, commit_hash},
    leases::COMMAND_HANDLER_LEASE,
    stored_message::StoredMessage,
    stream_names::EVENTS,
};
use millstream_jetstream::{
    broker::{Broker, BrokerError, ReaderConfig, StreamReader},
    retry::{RunIds, answered},
};
use millstream_runtime::{health::ProgressWatch, shutdown::Shutdown};

use super::{CommandHandler, HandlerError, TurnEnd, id_follower::IdFollower, state_of, write_snapshots};
use crate::state_cache::StateCache;

/// Commits followed at a time. Between two batches the standby can notice that the lease is free.
const COMMITS_MAX: usize = 1000;

impl<B: Broker> CommandHandler<B> {
    /// Waits until this handler holds the lease. Returns the feed from which it learns ids, which need not have caught up yet;
    /// `None` when the process is asked to stop.
    pub(super) async fn stand_by(
        &mut self,
        shutdown: &Shutdown,
    ) -> Result<Option<IdFollower<B::Reader>>, HandlerError> {
        let mut ids = tokio::select! {
            biased;
            ids = self.open() => ids?,
            () = shutdown.requested() => return Ok(None),
        };
        let mut events = None;
        let mut active = None;
        self.observed.ready.holds();
        let time_to_live = self.settings.lease_time_to_live;
        let progress = self.observed.progress.clone();
        progress.lease.reached(0);
        progress.states.reached(self.cache.through());
        loop {
            progress.ids.reached(self.index.through());
            match self.broker.hold_lease(COMMAND_HANDLER_LEASE, self.ids.run(), time_to_live).await {
                Ok(true) => {
                    close(events).await;
                    return Ok(Some(ids));
                }
                Ok(false) => {
                    progress.lease.nothing_waits();
                    self.say_who_is_active(&mut active).await?;
                }
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(operation, detail, "the lease cannot be asked for now");
                    progress.lease.held(detail);
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                biased;
                () = self.broker.lease_freed(COMMAND_HANDLER_LEASE, time_to_live / 3) => {}
                followed = ids.follow(&self.index) => followed?,
                followed = follow_events(&self.broker, &self.settings.name, &mut self.cache, &mut events, &progress.states) => followed?,
                () = shutdown.requested() => {
                    ids.close().await;
                    close(events).await;
                    return Ok(None);
                }
            }
            self.observe_cache();
        }
    }

    /// Says for whom this handler waits, once for each holder of the lease.
    async fn say_who_is_active(&self, active: &mut Option<String>) -> Result<(), HandlerError> {
        let owner = match self.broker.lease_owner(COMMAND_HANDLER_LEASE).await {
            Ok(owner) => owner,
            Err(BrokerError::Unavailable { operation, detail }) => {
                tracing::debug!(operation, detail, "who is active is not known");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(owner) = owner.filter(|owner| Some(owner) != active.as_ref()) {
            tracing::info!(
                lease = COMMAND_HANDLER_LEASE,
                active = owner,
                "standing by until the active handler gives its lease back or falls silent"
            );
            *active = Some(owner);
        }
        Ok(())
    }

    /// Checks that the id index and the snapshots belong to the streams as they are now, and opens OUTCOMES where the index ends.
    /// A server that came back with an older copy of a stream must not meet ids and states from its lost future.
    async fn open(&mut self) -> Result<IdFollower<B::Reader>, HandlerError> {
        let events = state_of(&self.broker, &self.ids, EVENTS).await?;
        let newest = match self.cache.newest()? {
            Some(newest) => message_at(&self.broker, &self.ids, EVENTS, newest.sequence).await?,
            None => None,
        };
        let found = newest.map(|message| commit_hash(&message.payload));
        self.cache.follow_events(&events.generation, events.last_sequence, found)?;
        IdFollower::open(&self.broker, &self.ids, &self.settings.name, &self.index).await
    }
}

/// The message of a stream at `sequence`, if there is one. Waits while the server does not answer.
pub(super) async fn message_at<B: Broker>(
    broker: &B,
    ids: &RunIds,
    stream: &str,
    sequence: u64,
) -> Result<Option<StoredMessage>, BrokerError> {
    if sequence == 0 {
        return Ok(None);
    }
    answered(ids, || broker.get(stream, sequence)).await
}

/// Follows the states of all aggregates, for ever. Cancelling it loses nothing but time, because the cache keeps how far it has
/// come and the reader starts there again.
async fn follow_events<B: Broker>(
    broker: &B,
    process: &str,
    cache: &mut StateCache,
    reader: &mut Option<B::Reader>,
    progress: &ProgressWatch,
) -> Result<(), HandlerError> {
    loop {
        let events = match reader {
            Some(events) => events,
            None => {
                let config = ReaderConfig {
                    stream: EVENTS.to_owned(),
                    name: format!("{process}-states"),
                    description: "states of aggregates, to be warm when it is this process's turn".to_owned(),
                    after: cache.through(),
                    filters: Vec::new(),
                    replace_live: false,
                };
                reader.insert(broker.read(config).await?)
            }
        };
        let messages = events.next_batch(COMMITS_MAX).await?;
        let last = messages.last().map(|message| message.sequence);
        for message in messages {
            match StoredCommit::from_stored(&message) {
                Ok(commit) => cache.follow(&commit),
                // The active handler meets the same commit when it decides on this aggregate, and sets its commands aside.
                Err(error) => {
                    tracing::debug!(%error, sequence = message.sequence, "a commit cannot be followed")
                }
            }
        }
        if let Some(batch) = cache.end_round() {
            write_snapshots(cache.snapshots(), batch).await;
        }
        if let Some(last) = last {
            progress.reached(last);
        }
    }
}

/// Deletes the reader's consumer on the server, if there is one.
async fn close<R: StreamReader>(reader: Option<R>) {
    if let Some(reader) = reader {
        reader.close().await;
    }
}

/// Renews the lease until it is lost, or may be lost because no renewal was confirmed in time.
pub(super) async fn keep_lease<B: Broker>(
    broker: B,
    ids: RunIds,
    time_to_live: Duration,
) -> Result<(), TurnEnd> {
    millstream_jetstream::lease::keep(&broker, COMMAND_HANDLER_LEASE, ids.run(), time_to_live).await;
    Err(TurnEnd::Lost)
}
