//! Removes rows about commands whose records OUTCOMES no longer has (docs/adr/0046-a-row-about-a-command-stays-as-long-as-its-record.md).
//!
//! A pass goes through the rows of a projection of outcomes in the order of their keys, some hundreds at a time with a pause after them, so
//! that it takes little of the machine. It reads beside the writer, which removes a row only if it is still what was read: a row that a repeat
//! has changed in the meantime stays. Removals are as durable as the checkpoint beside them. The progress of a pass is not stored, so a
//! restarted process begins a pass at the first key.
//!
//! Deliberately absent: an index of rows by position, which would have to be written with each row.

use std::{ops::Bound, ops::ControlFlow, sync::Arc, time::Duration};

use millstream_contract::{error_text::one_line, outcome::OutcomeRecord, stream_names::OUTCOMES};
use millstream_jetstream::broker::{Broker, BrokerError};
use millstream_runtime::file_work::do_file_work;
use millstream_store::read_store::{Direction, KeyRange, ProjectionId, ReadStore, StoreError, TableName};
use tokio_util::sync::CancellationToken;

use super::{
    projection_set::{Input, ProjectionSet},
    status::StatusBoard,
    writer::{RemovalError, RowRemover},
};

/// A pass is due when the commands whose records have gone since the last pass are a tenth of those whose records OUTCOMES holds. So each removed row
/// costs reading about ten that stay, and a view has about a tenth more rows than it needs.
const SHARE_GONE: u64 = 10;

/// How fast rows are removed.
#[derive(Debug, Clone, Copy)]
pub struct SweepPace {
    /// How often the sweep asks what OUTCOMES holds.
    pub interval: Duration,
    /// The most rows that are read at once, and removed in one transaction.
    pub rows_max: usize,
    /// The pause after them.
    pub pause: Duration,
}

impl Default for SweepPace {
    /// At most 10,000 rows a second are read. Up to about 900 commands a second, day and night, a pass ends before the next one is due. With
    /// more commands, a view has more rows that could be removed: at 5,000 a second, up to as many as it has to keep.
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), rows_max: 500, pause: Duration::from_millis(50) }
    }
}

/// Sweeps the rows of one projection of outcomes.
pub(super) struct Sweep<B> {
    broker: B,
    rows: SweptRows,
    remover: RowRemover,
    statuses: StatusBoard,
    pace: SweepPace,
}

/// Where the rows are.
#[derive(Clone)]
struct SweptRows {
    store: ReadStore,
    set: Arc<ProjectionSet>,
    member: usize,
}

/// The commands whose records OUTCOMES holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    /// The generation of OUTCOMES.
    generation: String,
    /// It holds records of none up to this position.
    after: u64,
    /// It holds records of none after this position.
    through: u64,
}

impl Held {
    /// Whether a pass is worthwhile, after the previous one that found `swept`.
    fn is_due(&self, swept: Option<&Self>) -> bool {
        let swept = swept.filter(|swept| swept.generation == self.generation).map_or(0, |swept| swept.after);
        let gone = self.after.saturating_sub(swept);
        gone > 0 && gone.saturating_mul(SHARE_GONE) >= self.through.saturating_sub(self.after)
    }
}

/// Some rows that were read.
#[derive(Debug, Default)]
struct Stretch {
    /// Those that can be removed.
    gone: Vec<(String, Vec<u8>)>,
    /// The key of the last row, if more may follow it.
    last: Option<String>,
}

/// Why a pass ended early. The next one begins from the first key.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Removal(#[from] RemovalError),
    #[error("OUTCOMES is another stream than the rows come from")]
    OtherGeneration,
}

impl<B: Broker> Sweep<B> {
    pub(super) fn new(
        broker: B,
        store: ReadStore,
        set: &Arc<ProjectionSet>,
        member: usize,
        statuses: &StatusBoard,
        remover: RowRemover,
        pace: SweepPace,
    ) -> Self {
        let rows = SweptRows { store, set: Arc::clone(set), member };
        Self { broker, rows, remover, statuses: statuses.clone(), pace }
    }

    /// Sweeps until `stop`. No failure here ends anything else.
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.sweep_again_and_again() => {}
        }
    }

    async fn sweep_again_and_again(&self) {
        let mut swept: Option<Held> = None;
        loop {
            tokio::time::sleep(self.pace.interval).await;
            // Rows that are being built are not read a second time.
            let complete = self.statuses.subscribe(self.rows.member).borrow().is_complete();
            let held = if complete { self.held().await } else { Ok(None) };
            let held = match held {
                Ok(Some(held)) if held.is_due(swept.as_ref()) => held,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "what OUTCOMES holds is not known; it is asked again");
                    continue;
                }
            };
            let projection = self.rows.projection().map(ProjectionId::as_str);
            match self.pass(&held).await {
                Ok(removed) => {
                    let through = held.after;
                    tracing::info!(
                        projection,
                        removed,
                        through,
                        "rows about commands that OUTCOMES lost are removed"
                    );
                    swept = Some(held);
                }
                Err(error) => {
                    tracing::warn!(
                        projection,
                        error = one_line(&error),
                        "the removal of old rows is put off"
                    );
                }
            }
        }
    }

    /// The commands whose records OUTCOMES holds; `None` if it holds no records.
    async fn held(&self) -> Result<Option<Held>, BrokerError> {
        let state = self.broker.state(OUTCOMES).await?;
        if state.first_sequence > state.last_sequence {
            return Ok(None);
        }
        let record_at = async |sequence| {
            let message = self.broker.get(OUTCOMES, sequence).await?;
            Ok(message.and_then(|message| OutcomeRecord::from_stored(&message).ok()))
        };
        let (first, last) = (record_at(state.first_sequence).await?, record_at(state.last_sequence).await?);
        Ok(first.zip(last).map(|(first, last)| Held {
            generation: state.generation,
            after: first.after,
            through: last.through,
        }))
    }

    /// Goes through all rows once. Returns how many could be removed.
    async fn pass(&self, held: &Held) -> Result<usize, SweepError> {
        let mut removed = 0;
        let Some(projection) = self.rows.projection() else { return Ok(removed) };
        let tables = self.rows.store.snapshot()?.tables_of(projection)?;
        for table in tables {
            let mut after = None;
            loop {
                let (rows, read, held) = (self.rows.clone(), table.clone(), held.clone());
                let rows_max = self.pace.rows_max;
                let Stretch { gone, last } =
                    do_file_work(move || rows.read(&read, after.as_deref(), rows_max, &held)).await?;
                removed += gone.len();
                self.remover.remove(projection, &table, gone).await?;
                tokio::time::sleep(self.pace.pause).await;
                if last.is_none() {
                    break;
                }
                after = last;
            }
        }
        Ok(removed)
    }
}

impl SweptRows {
    fn projection(&self) -> Option<&ProjectionId> {
        self.set.members.get(self.member).map(|member| &member.id)
    }

    /// Reads the next rows of a table behind the key `after`.
    fn read(
        &self,
        table: &str,
        after: Option<&str>,
        rows_max: usize,
        held: &Held,
    ) -> Result<Stretch, SweepError> {
        let mut stretch = Stretch::default();
        let Some(member) = self.set.members.get(self.member) else { return Ok(stretch) };
        let Input::Outcomes(projection) = &member.input else { return Ok(stretch) };
        let snapshot = self.store.snapshot()?;
        let checkpoint = snapshot.checkpoint(&member.id)?;
        if checkpoint.is_none_or(|checkpoint| checkpoint.generation != held.generation) {
            return Err(SweepError::OtherGeneration);
        }
        let range =
            KeyRange { lower: after.map_or(Bound::Unbounded, Bound::Excluded), upper: Bound::Unbounded };
        let mut read = 0;
        snapshot.visit(&TableName::new(&member.id, table), range, Direction::Ascending, |key, row| {
            if projection.newest_command(row).is_some_and(|position| position <= held.after) {
                stretch.gone.push((key.to_owned(), row.to_vec()));
            }
            read += 1;
            if read < rows_max {
                return ControlFlow::Continue(());
            }
            stretch.last = Some(key.to_owned());
            ControlFlow::Break(())
        })?;
        Ok(stretch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_is_due_when_a_tenth_has_gone() {
        let held = |generation: &str, after, through| Held { generation: generation.into(), after, through };
        assert!(!held("g", 0, 1_000).is_due(None), "nothing has gone");
        assert!(!held("g", 90, 1_000).is_due(None));
        assert!(held("g", 91, 1_000).is_due(None));
        assert!(!held("g", 91, 1_000).is_due(Some(&held("g", 91, 900))));
        assert!(held("g", 10_000, 10_000).is_due(Some(&held("g", 9_999, 10_000))));
        assert!(
            held("h", 91, 1_000).is_due(Some(&held("g", 91, 900))),
            "of another stream nothing was swept"
        );
    }
}
