//! Where a handler learns the ids of commands that others recorded: from OUTCOMES while it stands by, when it has all
//! partitions, since nobody else records during its turn; all the time, once for all handlers of the process, when there are
//! several shares.

use std::sync::Arc;

use millstream_contract::{outcome::OutcomeRecord, stream_names::OUTCOMES};
use millstream_jetstream::{
    broker::{Broker, ReaderConfig, StreamReader},
    retry::RunIds,
};
use millstream_runtime::shutdown::Shutdown;

use super::{HandlerError, latest_value::LatestValue, recorder, standby::message_at, state_of};
use crate::{id_index::IdIndex, outcome_journal::JournalError};

/// How many records are read at a time.
const RECORDS_MAX: usize = 256;

/// Where ids come from.
#[derive(Debug)]
pub(super) enum IdFeed<R> {
    /// A reader of its own.
    Own(R),
    /// Somebody who follows for all, and tells how far.
    Shared(LatestValue<u64>),
}

impl<R: StreamReader> IdFeed<R> {
    /// Checks that the index belongs to OUTCOMES as it is now, and opens OUTCOMES where the index ends.
    pub(super) async fn open<B: Broker<Reader = R>>(
        broker: &B,
        ids: &RunIds,
        process: &str,
        index: &IdIndex,
    ) -> Result<Self, HandlerError> {
        let state = state_of(broker, ids, OUTCOMES).await?;
        let last = message_at(broker, ids, OUTCOMES, index.through()).await?;
        let last = last.as_ref().map(OutcomeRecord::from_stored).transpose().map_err(JournalError::from)?;
        let found = last.map(|record| record.record_id);
        let after = index.follow(&state.generation, state.last_sequence, found.as_deref())?;
        let config = ReaderConfig {
            stream: OUTCOMES.to_owned(),
            name: format!("{process}-ids"),
            description: "ids of commands that were decided before".to_owned(),
            after,
            filters: Vec::new(),
            replace_live: false,
        };
        Ok(Self::Own(broker.read(config).await?))
    }

    /// Learns ids, for ever. Cancelling loses nothing: the index keeps how far it has come.
    pub(super) async fn follow(&mut self, index: &Arc<IdIndex>) -> Result<(), HandlerError> {
        match self {
            Self::Own(reader) => loop {
                learn(reader, index).await?;
            },
            Self::Shared(_) => std::future::pending().await,
        }
    }

    /// Learns, and tells how far, until `done`; then gives the consumer back.
    pub(super) async fn follow_for_all(
        mut self,
        index: Arc<IdIndex>,
        followed: LatestValue<u64>,
        done: Shutdown,
    ) -> Result<(), HandlerError> {
        while let Self::Own(reader) = &mut self {
            followed.set(index.through());
            tokio::select! {
                biased;
                learnt = learn(reader, &index) => learnt?,
                () = done.requested() => break,
            }
        }
        self.close().await;
        Ok(())
    }

    /// Learns the ids of all records up to the one at `until`.
    pub(super) async fn catch_up(&mut self, index: &Arc<IdIndex>, until: u64) -> Result<(), HandlerError> {
        match self {
            Self::Own(reader) => {
                while index.through() < until {
                    learn(reader, index).await?;
                }
            }
            Self::Shared(followed) => followed.wait_until(|through| *through >= until).await,
        }
        Ok(())
    }

    /// Gives the consumer back.
    pub(super) async fn close(self) {
        if let Self::Own(reader) = self {
            reader.close().await;
        }
    }
}

async fn learn<R: StreamReader>(reader: &mut R, index: &Arc<IdIndex>) -> Result<(), HandlerError> {
    for message in reader.next_batch(RECORDS_MAX).await? {
        let record = OutcomeRecord::from_stored(&message).map_err(JournalError::from)?;
        index.note(&record, message.sequence);
    }
    if index.flush_due() {
        recorder::flush(index).await?;
    }
    Ok(())
}
