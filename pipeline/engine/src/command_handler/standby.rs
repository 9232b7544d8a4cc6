//! Waiting for the turn, and keeping it: the lease. Meanwhile the ids of what others record are learnt.

use std::time::Duration;

use super::{CommandHandler, HandlerError, TurnEnd, lease_key};
use crate::{
    broker::{Broker, BrokerError, ReaderConfig, StreamReader},
    contract::{outcome::OutcomeRecord, stream_names::OUTCOMES},
    retry::RunIds,
    shutdown::Shutdown,
};

/// Records read at a time.
const RECORDS_MAX: usize = 256;

impl<B: Broker> CommandHandler<B> {
    /// Waits for the lease. Answers the reader of OUTCOMES, which has not necessarily seen all records; `None` when asked
    /// to stop.
    pub(super) async fn stand_by(&mut self, shutdown: &Shutdown) -> Result<Option<B::Reader>, HandlerError> {
        let mut outcomes = tokio::select! {
            biased;
            reader = self.open_outcomes() => reader?,
            () = shutdown.requested() => return Ok(None),
        };
        let key = lease_key(self.settings.share);
        self.observed.ready.holds();
        let time_to_live = self.settings.lease_time_to_live;
        loop {
            match self.broker.hold_lease(&key, self.ids.run(), time_to_live).await {
                Ok(true) => return Ok(Some(outcomes)),
                Ok(false) => {}
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::warn!(operation, detail, "the lease cannot be asked for now");
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                biased;
                () = self.broker.lease_freed(&key, time_to_live / 3) => {}
                followed = self.follow_outcomes(&mut outcomes, None) => followed?,
                () = shutdown.requested() => {
                    outcomes.close().await;
                    return Ok(None);
                }
            }
        }
    }

    async fn open_outcomes(&self) -> Result<B::Reader, HandlerError> {
        let state = self.state_of(OUTCOMES).await?;
        let after = self.index.follow(&state.generation, state.last_sequence)?;
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

    /// Learns the ids of records, up to the record at `until`; for ever without it. Cancelling loses nothing.
    pub(super) async fn follow_outcomes(
        &self,
        outcomes: &mut B::Reader,
        until: Option<u64>,
    ) -> Result<(), HandlerError> {
        while until.is_none_or(|until| self.index.through() < until) {
            for message in outcomes.next_batch(RECORDS_MAX).await? {
                let record = OutcomeRecord::from_stored(&message)
                    .map_err(crate::outcome_journal::JournalError::from)?;
                self.index.feed(&record, message.sequence);
            }
            if self.index.flush_due() {
                super::recorder::flush(&self.index).await?;
            }
        }
        Ok(())
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
