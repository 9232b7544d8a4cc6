//! Learns the ids of commands that previous handlers have recorded, from OUTCOMES. It does so all the time while this handler stands by, and
//! reads the rest when this handler takes over. During its turn, nobody else records.

use std::sync::Arc;

use millstream_contract::{outcome::OutcomeRecord, stream_names::OUTCOMES};
use millstream_jetstream::{
    broker::{Broker, ReaderConfig, StreamReader},
    id_source::IdSource,
    lost_tail::state_reaching,
    retry::answered,
};
use millstream_runtime::{file_work::do_file_work, health::ProgressWatch};

use super::{HandlerError, id_flush, standby::message_at};
use crate::{id_index::IdIndex, outcome_journal::JournalError};

/// How many records are read at a time.
const RECORDS_MAX: usize = 256;
/// With this many records still to be read, the ids count as far behind.
const FAR_BEHIND: u64 = 256;

/// Reads OUTCOMES into an index of ids.
#[derive(Debug)]
pub(super) struct IdFollower<R>(R);

impl<R: StreamReader> IdFollower<R> {
    /// Checks that the index belongs to the current OUTCOMES, and continues to read where the index ends.
    pub(super) async fn open<B: Broker<Reader = R>>(
        broker: &B,
        ids: &IdSource,
        process: &str,
        index: &Arc<IdIndex>,
    ) -> Result<Self, HandlerError> {
        let state = answered(ids, || state_reaching(broker, ids, OUTCOMES, index.through())).await?;
        let last = message_at(broker, ids, OUTCOMES, index.through()).await?;
        let last = last.as_ref().map(OutcomeRecord::from_stored).transpose().map_err(JournalError::from)?;
        let found = last.map(|record| record.record_id);
        let index = index.clone();
        let after =
            do_file_work(move || index.follow(&state.generation, state.last_sequence, found.as_deref()))
                .await?;
        let config = ReaderConfig {
            stream: OUTCOMES.to_owned(),
            name: format!("{process}-ids"),
            description: "ids of commands that were decided before".to_owned(),
            after,
            filters: Vec::new(),
            replace_live: false,
        };
        Ok(Self(broker.read(config).await?))
    }

    /// Learns ids for ever. Cancelling loses nothing.
    pub(super) async fn follow(
        &mut self,
        index: &Arc<IdIndex>,
        progress: &ProgressWatch,
    ) -> Result<(), HandlerError> {
        loop {
            progress.reached(index.through());
            self.learn(index).await?;
        }
    }

    /// Learns all ids up to the record at `until`.
    pub(super) async fn catch_up(&mut self, index: &Arc<IdIndex>, until: u64) -> Result<(), HandlerError> {
        while index.through() < until {
            self.learn(index).await?;
        }
        Ok(())
    }

    /// Gives the consumer back.
    pub(super) async fn close(self) {
        self.0.close().await;
    }

    async fn learn(&mut self, index: &Arc<IdIndex>) -> Result<(), HandlerError> {
        for message in self.0.next_batch(RECORDS_MAX).await? {
            let record = OutcomeRecord::from_stored(&message).map_err(JournalError::from)?;
            index.note(&record, message.sequence);
        }
        if index.flush_due(self.0.pending() >= FAR_BEHIND) {
            id_flush::flush(index).await?;
        }
        Ok(())
    }
}
