//! Waiting for the turn, and keeping it: the lease. Meanwhile the handler keeps warm: it learns the ids that others record,
//! and follows the states of their aggregates.

use std::{sync::Arc, time::Duration};

use super::{CommandHandler, HandlerError, TurnEnd, lease_key, recorder, state_of, write_snapshots};
use crate::{
    broker::{Broker, BrokerError, ReaderConfig, StreamReader},
    contract::{
        commit::{StoredCommit, commit_hash},
        outcome::OutcomeRecord,
        stored_message::StoredMessage,
        stream_names::{EVENTS, OUTCOMES},
    },
    id_index::IdIndex,
    outcome_journal::JournalError,
    retry::RunIds,
    shutdown::Shutdown,
    state_cache::StateCache,
};

/// Records read at a time.
const RECORDS_MAX: usize = 256;
/// Commits followed at a time; the wait for the turn is looked at in between.
const COMMITS_MAX: usize = 1000;

impl<B: Broker> CommandHandler<B> {
    /// Waits for the lease. Answers the reader of OUTCOMES, which has not necessarily seen all records; `None` when asked
    /// to stop.
    pub(super) async fn stand_by(&mut self, shutdown: &Shutdown) -> Result<Option<B::Reader>, HandlerError> {
        let mut outcomes = tokio::select! {
            biased;
            reader = self.open() => reader?,
            () = shutdown.requested() => return Ok(None),
        };
        let mut events = None;
        let key = lease_key(self.settings.share);
        self.observed.ready.holds();
        let time_to_live = self.settings.lease_time_to_live;
        loop {
            match self.broker.hold_lease(&key, self.ids.run(), time_to_live).await {
                Ok(true) => {
                    close(events).await;
                    return Ok(Some(outcomes));
                }
                Ok(false) => {}
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(operation, detail, "the lease cannot be asked for now");
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                biased;
                () = self.broker.lease_freed(&key, time_to_live / 3) => {}
                followed = follow_outcomes(&self.index, &mut outcomes, None) => followed?,
                followed = follow_events(&self.broker, &self.settings.name, &mut self.cache, &mut events) => followed?,
                () = shutdown.requested() => {
                    outcomes.close().await;
                    close(events).await;
                    return Ok(None);
                }
            }
            self.observe_cache();
        }
    }

    /// Checks that index and snapshots belong to the streams as they are, and opens OUTCOMES where the index ends.
    async fn open(&mut self) -> Result<B::Reader, HandlerError> {
        let events = state_of(&self.broker, &self.ids, EVENTS).await?;
        let newest = match self.cache.newest()? {
            Some(newest) => self.message_at(EVENTS, newest.sequence).await?,
            None => None,
        };
        let found = newest.map(|message| commit_hash(&message.payload));
        self.cache.follow_events(&events.generation, events.last_sequence, found)?;
        let state = state_of(&self.broker, &self.ids, OUTCOMES).await?;
        let last = self.message_at(OUTCOMES, self.index.through()).await?;
        let last = last.as_ref().map(OutcomeRecord::from_stored).transpose().map_err(JournalError::from)?;
        let found = last.map(|record| record.record_id);
        let after = self.index.follow(&state.generation, state.last_sequence, found.as_deref())?;
        let config = ReaderConfig {
            stream: OUTCOMES.to_owned(),
            name: format!("{}-ids", self.settings.name),
            description: "ids of commands that were decided before".to_owned(),
            after,
            filters: Vec::new(),
            replace_live: false,
        };
        Ok(self.broker.read(config).await?)
    }

    /// What a stream holds at `sequence`, if anything; waits for a server that does not answer.
    async fn message_at(&self, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, BrokerError> {
        if sequence == 0 {
            return Ok(None);
        }
        let mut backoff = self.ids.backoff();
        loop {
            match self.broker.get(stream, sequence).await {
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(stream, operation, detail, "waiting for the server");
                    backoff.pause().await;
                }
                answer => return answer,
            }
        }
    }
}

/// Learns the ids of records, up to the record at `until`; for ever without it. Cancelling loses nothing.
pub(super) async fn follow_outcomes<R: StreamReader>(
    index: &Arc<IdIndex>,
    outcomes: &mut R,
    until: Option<u64>,
) -> Result<(), HandlerError> {
    while until.is_none_or(|until| index.through() < until) {
        for message in outcomes.next_batch(RECORDS_MAX).await? {
            let record = OutcomeRecord::from_stored(&message).map_err(JournalError::from)?;
            index.note(&record, message.sequence);
        }
        if index.flush_due() {
            recorder::flush(index).await?;
        }
    }
    Ok(())
}

/// Follows the states of all aggregates, for ever. Cancelling loses nothing but time.
async fn follow_events<B: Broker>(
    broker: &B,
    process: &str,
    cache: &mut StateCache,
    reader: &mut Option<B::Reader>,
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
        for message in events.next_batch(COMMITS_MAX).await? {
            match StoredCommit::from_stored(&message) {
                Ok(commit) => cache.follow(&commit),
                // Whoever decides on this aggregate finds it too, and sets its commands aside.
                Err(error) => {
                    tracing::debug!(%error, sequence = message.sequence, "a commit cannot be followed")
                }
            }
        }
        if let Some(batch) = cache.end_round() {
            write_snapshots(cache.snapshots(), batch).await;
        }
    }
}

/// Gives a consumer back.
async fn close<R: StreamReader>(reader: Option<R>) {
    if let Some(reader) = reader {
        reader.close().await;
    }
}

/// Keeps the lease; ends when it is lost, or may be.
pub(super) async fn keep_lease<B: Broker>(
    broker: B,
    key: String,
    ids: RunIds,
    time_to_live: Duration,
) -> Result<TurnEnd, HandlerError> {
    crate::lease::keep(&broker, &key, ids.run(), time_to_live).await;
    Ok(TurnEnd::Lost)
}
