//! Empties the outboxes: carries out their effects in the order in which the processes asked for them, and records its progress.

use std::{
    convert::Infallible,
    ops::{Bound, ControlFlow},
    sync::Arc,
    time::Duration,
};

use millstream_contract::stream_names::EVENTS;
use millstream_jetstream::{
    broker::{Broker, BrokerError, StreamState},
    id_source::IdSource,
    lost_tail::state_reaching,
};
use millstream_read_side::projection_runner::{ProjectionStatus, RemovalError, RowRemover, any_changed};
use millstream_runtime::{
    health::{ProgressWatch, Readiness},
    metrics::{Metrics, ProcessMetrics},
};
use millstream_store::read_store::{Direction, KeyRange, ProjectionId, ReadStore, StoreError, TableName};
use tokio::{sync::watch, time::Instant};

use super::{
    Begin, ProcessRunnerError,
    carrier::{Carrier, Issuer, Waiting},
    outbox::{OUTBOX, key_behind, sequence},
    progress::{self, KnownProgress, Progress, RECORD_INTERVAL},
};

/// How many rows are taken out of an outbox at once.
const ROWS_MAX: usize = 4_000;
/// The pause before effects that could not be carried out are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A process and its outbox.
pub(super) struct Seat {
    process: &'static str,
    projection: ProjectionId,
    outbox: TableName,
    status: watch::Receiver<ProjectionStatus>,
    progress: Arc<KnownProgress>,
    metrics: ProcessMetrics,
    /// The progress that the server has recorded, as far as this replica knows.
    recorded: Progress,
    /// Where it begins, if it has never run.
    begin: Begin,
    /// Whether the server accepts the effects.
    effects: ProgressWatch,
}

impl Seat {
    pub(super) fn new(
        process: &'static str,
        projection: ProjectionId,
        status: watch::Receiver<ProjectionStatus>,
        progress: Arc<KnownProgress>,
        begin: Begin,
        metrics: &Metrics,
        readiness: &Readiness,
    ) -> Self {
        let effects = readiness.progress(&format!("effects of {process}"));
        let outbox = TableName::new(&projection, OUTBOX);
        let metrics = metrics.process(process);
        Self {
            process,
            projection,
            outbox,
            status,
            progress,
            metrics,
            recorded: Progress::default(),
            begin,
            effects,
        }
    }
}

/// The contents of an outbox, as of one commit.
struct Taken {
    rows: Vec<Waiting>,
    /// The process's position.
    reached: Progress,
    /// Whether there are more rows.
    more: bool,
}

/// The result of one pass over an outbox.
#[derive(Debug, Clone, Copy, Default)]
struct Pass {
    /// There may be more to do at once.
    progressed: bool,
    /// Something could not be carried out at the moment.
    left: bool,
}

/// The outboxes of all processes.
pub(super) struct Sender<B> {
    broker: B,
    carrier: Carrier<B>,
    store: ReadStore,
    remover: RowRemover,
    seats: Vec<Seat>,
    ids: IdSource,
    recorded_at: Instant,
}

impl<B: Broker> Sender<B> {
    pub(super) fn new(
        broker: B,
        store: ReadStore,
        remover: RowRemover,
        seats: Vec<Seat>,
        ids: IdSource,
    ) -> Self {
        let carrier = Carrier::new(broker.clone());
        Self { broker, carrier, store, remover, seats, ids, recorded_at: Instant::now() }
    }

    /// Reads the recorded progress of every process. Waits as long as the server does not answer.
    pub(super) async fn learn(&mut self) -> Result<(), ProcessRunnerError> {
        for seat in &mut self.seats {
            let mut backoff = self.ids.backoff();
            let (state, found) = loop {
                match standing(&self.broker, &self.ids, seat).await {
                    Err(ProcessRunnerError::Broker(BrokerError::Unavailable { operation, detail })) => {
                        tracing::warn!(operation, detail, "waiting for the server");
                        backoff.pause().await;
                    }
                    standing => break standing?,
                }
            };
            let Some(found) = found else { continue };
            if found.generation != state.generation {
                tracing::warn!(
                    process = seat.process,
                    recorded = found.generation,
                    found = state.generation,
                    "EVENTS was made anew: its effects are carried out from the first event on"
                );
                continue;
            }
            if found.sequence > state.last_sequence {
                return Err(ProcessRunnerError::LostTail {
                    process: seat.process.to_owned(),
                    named: found.sequence,
                    last: state.last_sequence,
                });
            }
            seat.recorded = found.clone();
            seat.progress.learn(found);
        }
        Ok(())
    }

    /// Removes rows from the outboxes whose effects have already been carried out, by another replica or before a crash.
    pub(super) async fn forget_done(&self) -> Result<(), ProcessRunnerError> {
        for seat in &self.seats {
            loop {
                let done = self.done_rows(seat)?;
                let more = done.len() == ROWS_MAX;
                if self.remover.remove(&seat.projection, OUTBOX, done).await.is_err() || !more {
                    break;
                }
            }
        }
        Ok(())
    }

    fn done_rows(&self, seat: &Seat) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let snapshot = self.store.snapshot()?;
        let progress = seat.progress.progress();
        let checkpoint = snapshot.checkpoint(&seat.projection)?;
        let mut rows = Vec::new();
        if checkpoint.is_none_or(|checkpoint| checkpoint.generation != progress.generation) {
            return Ok(rows);
        }
        let behind = key_behind(progress.sequence);
        let range = KeyRange { lower: Bound::Unbounded, upper: Bound::Excluded(&behind) };
        snapshot.visit(&seat.outbox, range, Direction::Ascending, |key, value| {
            rows.push((key.to_owned(), value.to_vec()));
            if rows.len() < ROWS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(rows)
    }

    /// Carries out effects as they come, until an error ends it.
    pub(super) async fn run(&mut self) -> Result<Infallible, ProcessRunnerError> {
        self.learn().await?;
        self.forget_done().await?;
        loop {
            let mut all = Pass::default();
            for index in 0..self.seats.len() {
                let pass = self.carry_out(index).await?;
                all = Pass { progressed: all.progressed || pass.progressed, left: all.left || pass.left };
            }
            if self.recorded_at.elapsed() >= RECORD_INTERVAL {
                self.record().await?;
            }
            match all {
                Pass { progressed: true, .. } => {}
                Pass { left: true, .. } => tokio::time::sleep(RETRY_PAUSE).await,
                Pass { .. } => self.changed().await,
            }
        }
    }

    /// Notes that this replica no longer carries effects out, so that no effect counts as waiting here.
    pub(super) fn stand_by(&mut self) {
        for seat in &mut self.seats {
            seat.effects.rest();
            seat.metrics.effects_held.set(0);
        }
    }

    /// Waits until there may be something to carry out or to record.
    async fn changed(&mut self) {
        let unrecorded = self.seats.iter().any(|seat| seat.recorded != seat.progress.progress());
        let record_due = self.recorded_at + RECORD_INTERVAL;
        tokio::select! {
            () = any_changed(self.seats.iter_mut().map(|seat| &mut seat.status)) => {}
            () = tokio::time::sleep_until(record_due), if unrecorded => {}
        }
    }

    /// Records how far every process has come. What cannot be recorded now is recorded later.
    pub(super) async fn record(&mut self) -> Result<(), ProcessRunnerError> {
        self.recorded_at = Instant::now();
        for seat in &mut self.seats {
            let progress = seat.progress.progress();
            if progress == seat.recorded || progress.generation.is_empty() {
                continue;
            }
            match progress::store(&self.broker, seat.process, progress).await {
                Ok(recorded) => seat.recorded = recorded,
                Err(BrokerError::Unavailable { operation, detail }) => {
                    tracing::debug!(process = seat.process, operation, detail, "progress is recorded later");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Carries out the effects of one outbox.
    async fn carry_out(&mut self, index: usize) -> Result<Pass, ProcessRunnerError> {
        let Some(seat) = self.seats.get_mut(index) else { return Ok(Pass::default()) };
        seat.status.borrow_and_update();
        let Some(taken) = take(&self.store, seat)? else { return Ok(Pass::default()) };
        let last = taken.rows.last().and_then(|waiting| sequence(&waiting.key));
        let issuer = Issuer { process: seat.process, metrics: &seat.metrics };
        let carried = self.carrier.carry_out(&issuer, taken.rows).await?;
        seat.metrics.effects_held.set(i64::try_from(carried.left).unwrap_or(i64::MAX));
        let progressed = !carried.done.is_empty();
        if progressed || carried.held.is_none() {
            seat.effects.nothing_waits();
        }
        if let Some(reason) = &carried.held {
            tracing::warn!(process = seat.process, reason, left = carried.left, "effects of a process wait");
            seat.effects.held(format!("{} of them wait: {reason}", carried.left));
        }
        let through = match (carried.first_left, taken.more) {
            (Some(left), _) => left.saturating_sub(1),
            (None, true) => last.map_or(0, |last| last.saturating_sub(1)),
            (None, false) => taken.reached.sequence,
        };
        if let Err(RemovalError) = self.remover.remove(&seat.projection, OUTBOX, carried.done).await {
            // The projection runner has ended. The task that waits for it reports why.
            return std::future::pending().await;
        }
        if through > 0 {
            seat.progress.learn(Progress { sequence: through, ..taken.reached });
        }
        Ok(Pass { progressed, left: carried.first_left.is_some() })
    }
}

/// The state of EVENTS, and how far the effects of a process have been carried out.
async fn standing<B: Broker>(
    broker: &B,
    ids: &IdSource,
    seat: &Seat,
) -> Result<(StreamState, Option<Progress>), ProcessRunnerError> {
    let found = match progress::load(broker, seat.process).await? {
        None => begin(broker, ids, seat).await?,
        found => found,
    };
    // EVENTS is asked after the progress is known, because another replica may just have recorded progress of newer events.
    let state = broker.state(EVENTS).await?;
    match &found {
        Some(found) if found.generation == state.generation && found.sequence > state.last_sequence => {
            Ok((state_reaching(broker, ids, EVENTS, found.sequence).await?, Some(found.clone())))
        }
        _ => Ok((state, found)),
    }
}

/// Before a process that has never run folds anything, records its configured beginning as its progress, so that every replica and every
/// rebuild begins there, too. `None` if it begins at the first event.
async fn begin<B: Broker>(
    broker: &B,
    ids: &IdSource,
    seat: &Seat,
) -> Result<Option<Progress>, ProcessRunnerError> {
    let (state, sequence) = match seat.begin {
        Begin::Start => return Ok(None),
        Begin::Now => {
            let state = broker.state(EVENTS).await?;
            let end = state.last_sequence;
            (state, end)
        }
        Begin::After(sequence) => (state_reaching(broker, ids, EVENTS, sequence).await?, sequence),
    };
    if sequence > state.last_sequence {
        return Err(ProcessRunnerError::BeginsBehindEnd {
            process: seat.process.to_owned(),
            named: sequence,
            last: state.last_sequence,
        });
    }
    let begin = Progress { generation: state.generation.clone(), sequence };
    let begin = progress::begin(broker, seat.process, begin).await?;
    tracing::info!(
        process = seat.process,
        after = begin.sequence,
        "a process begins: effects of events up to there are never carried out"
    );
    Ok(Some(begin))
}

/// Reads the rows of an outbox; none if the process has not begun yet.
fn take(store: &ReadStore, seat: &Seat) -> Result<Option<Taken>, StoreError> {
    let snapshot = store.snapshot()?;
    let Some(checkpoint) = snapshot.checkpoint(&seat.projection)? else { return Ok(None) };
    let reached = Progress { generation: checkpoint.generation, sequence: checkpoint.sequence };
    let everything = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
    let mut rows = Vec::new();
    let mut damage = None;
    snapshot.visit(&seat.outbox, everything, Direction::Ascending, |key, value| {
        match serde_json::from_slice(value) {
            Ok(row) => rows.push(Waiting { key: key.to_owned(), value: value.to_vec(), row }),
            Err(error) => damage = Some(format!("row {key:?} of {}: {error}", seat.outbox)),
        }
        if rows.len() < ROWS_MAX && damage.is_none() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    match damage {
        Some(detail) => Err(store.found_damaged(detail)),
        None => Ok(Some(Taken { more: rows.len() == ROWS_MAX, rows, reached })),
    }
}

#[cfg(test)]
mod tests;
