//! Learns the ids of commands that handlers before have recorded, from OUTCOMES: all the time while this one stands by, the rest when
//! it takes over. During its turn nobody else records.

use std::sync::Arc;

use millstream_contract::{
    outcome::{OUTCOME_SUBJECT, OutcomeRecord},
    stream_names::OUTCOMES,
};
use millstream_jetstream::{
    broker::{Broker, ReaderConfig, StreamReader},
    id_source::IdSource,
    retry::{answered, state_reaching},
};
use millstream_runtime::file_work::do_file_work;

use super::{
    HandlerError,
    id_flush::IdFlush,
    standby::{Lack, message_at},
};
use crate::{id_index::IdIndex, outcome_journal::JournalError};

/// Records read at a time.
const RECORDS_MAX: usize = 256;
/// From so many records that are still to come the ids are far behind.
const FAR_BEHIND: u64 = 256;

/// Whoever comes so near to the last record is warm. A record holds some thousand ids at most.
const WARM_WITHIN: u64 = 64;
/// Whoever is warm stays so until it is so many records behind: under load they come by the hundred each second.
const WARM_UNTIL: u64 = 1024;

/// Reads OUTCOMES into an index of ids.
#[derive(Debug)]
pub(super) struct IdFollower<R> {
    reader: R,
    /// The last record when this was opened, or 0.
    end: u64,
    is_warm: bool,
    flush: IdFlush,
}

impl<R: StreamReader> IdFollower<R> {
    /// Checks that the index belongs to OUTCOMES as it is, and reads on where it ends.
    pub(super) async fn open<B: Broker<Reader = R>>(
        broker: &B,
        ids: &IdSource,
        process: &str,
        index: &Arc<IdIndex>,
    ) -> Result<Self, HandlerError> {
        let state = answered(ids, || state_reaching(broker, ids, OUTCOMES, index.through())).await?;
        // Not what the stream calls its last sequence: where that message is gone, it never comes.
        let end = answered(ids, || broker.last(OUTCOMES, OUTCOME_SUBJECT)).await?;
        let end = end.map_or(0, |message| message.sequence);
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
        Ok(Self { reader: broker.read(config).await?, end, is_warm: false, flush: IdFlush::default() })
    }

    /// What is lacking of OUTCOMES before this handler is warm.
    pub(super) fn lacks(&mut self, index: &IdIndex) -> Option<Lack> {
        let (through, pending) = (index.through(), self.reader.pending());
        let behind = self.end.saturating_sub(through).max(pending);
        self.is_warm = behind <= if self.is_warm { WARM_UNTIL } else { WARM_WITHIN };
        (!self.is_warm).then_some(Lack { through, end: through + behind })
    }

    /// Learns what there is up to the record at `until`.
    pub(super) async fn catch_up(&mut self, index: &Arc<IdIndex>, until: u64) -> Result<(), HandlerError> {
        while index.through() < until {
            self.learn(index).await?;
        }
        Ok(())
    }

    /// Gives the consumer back.
    pub(super) async fn close(self) {
        self.reader.close().await;
    }

    /// Learns what comes next. Cancelling loses nothing.
    pub(super) async fn learn(&mut self, index: &Arc<IdIndex>) -> Result<(), HandlerError> {
        for message in self.reader.next_batch(RECORDS_MAX).await? {
            let record = OutcomeRecord::from_stored(&message).map_err(JournalError::from)?;
            index.note(&record, message.sequence);
        }
        Ok(self.flush.keep_up(index, self.reader.pending() >= FAR_BEHIND).await?)
    }
}
