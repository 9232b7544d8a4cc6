//! Carries out what stands in the outboxes, in the order in which it was asked for, and records how far that has come.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ops::{Bound, ControlFlow},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use super::{
    ProcessRunnerError,
    outbox::{Command, OUTBOX, Row, key_behind, sequence, timer_subject},
    progress::{self, KnownProgress, Progress},
};
use crate::{
    broker::{AppendError, Broker, BrokerError, NewMessage},
    contract::{
        stored_message::Headers,
        stream_names::{COMMANDS, EVENTS, TIMERS},
    },
    metrics::{Metrics, ProcessMetrics},
    projection_runner::{ProjectionStatus, RemovalError, RowRemover},
    read_store::{Direction, KeyRange, ProjectionId, ReadStore, StoreError, TableName},
    retry::RunIds,
};

/// Rows taken out of an outbox at once.
const ROWS_MAX: usize = 4_000;
/// Lanes carried out at once.
const LANES_AT_ONCE: usize = 256;
/// Pause before what could not be carried out is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often progress is recorded while there is some. What lies between is repeated after a crash, without effect.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// A process and its outbox.
pub(super) struct Seat {
    process: &'static str,
    projection: ProjectionId,
    outbox: TableName,
    status: watch::Receiver<ProjectionStatus>,
    progress: Arc<KnownProgress>,
    metrics: ProcessMetrics,
    /// What is recorded with the server, as far as is known.
    recorded: Progress,
}

impl Seat {
    pub(super) fn new(
        process: &'static str,
        projection: ProjectionId,
        status: watch::Receiver<ProjectionStatus>,
        progress: Arc<KnownProgress>,
        metrics: &Metrics,
    ) -> Self {
        let outbox = TableName::new(&projection, OUTBOX);
        let metrics = metrics.process(process);
        Self { process, projection, outbox, status, progress, metrics, recorded: Progress::default() }
    }
}

/// A row as it stands in the file, and what it says.
struct Waiting {
    key: String,
    value: Vec<u8>,
    row: Row,
}

/// What an outbox holds, as of one commit.
struct Taken {
    rows: Vec<Waiting>,
    /// The process's position.
    reached: Progress,
    /// Whether there is more behind.
    more: bool,
}

/// What became of a look at an outbox.
#[derive(Debug, Clone, Copy, Default)]
struct Pass {
    /// There may be more to do at once.
    progressed: bool,
    /// Something could not be carried out now.
    left: bool,
}

/// The outboxes of all processes.
pub(super) struct Sender<B> {
    broker: B,
    store: ReadStore,
    remover: RowRemover,
    seats: Vec<Seat>,
    ids: RunIds,
    recorded_at: Instant,
}

impl<B: Broker> Sender<B> {
    pub(super) fn new(
        broker: B,
        store: ReadStore,
        remover: RowRemover,
        seats: Vec<Seat>,
        ids: RunIds,
    ) -> Self {
        Self { broker, store, remover, seats, ids, recorded_at: Instant::now() }
    }

    /// Learns what is recorded of every process. Waits for a server that does not answer.
    pub(super) async fn learn(&mut self) -> Result<(), ProcessRunnerError> {
        for seat in &mut self.seats {
            let mut backoff = self.ids.backoff();
            let (state, found) = loop {
                let answers = async {
                    let found = progress::load(&self.broker, seat.process).await?;
                    Ok((self.broker.state(EVENTS).await?, found))
                };
                match answers.await {
                    Err(BrokerError::Unavailable { operation, detail }) => {
                        tracing::warn!(operation, detail, "waiting for the server");
                        backoff.pause().await;
                    }
                    answers => break answers?,
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

    /// Forgets what stands in the outboxes although it has been carried out: by another replica, or before a crash.
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

    /// Carries out what there is, until it cannot go on.
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

    /// Waits until there may be something to carry out or to record.
    async fn changed(&mut self) {
        let unrecorded = self.seats.iter().any(|seat| seat.recorded != seat.progress.progress());
        let record_due = self.recorded_at + RECORD_INTERVAL;
        let changes: Vec<_> = self.seats.iter_mut().map(|seat| Box::pin(seat.status.changed())).collect();
        let changed = async {
            if changes.is_empty() || futures::future::select_all(changes).await.0.is_err() {
                // There are no processes, or the runner has ended: nothing will ever change again.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
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

    /// Carries out what stands in one outbox.
    async fn carry_out(&mut self, index: usize) -> Result<Pass, ProcessRunnerError> {
        let Some(seat) = self.seats.get_mut(index) else { return Ok(Pass::default()) };
        seat.status.borrow_and_update();
        let Some(taken) = take(&self.store, seat)? else { return Ok(Pass::default()) };
        let seat = self.seats.get(index).expect("it was there");
        let last = taken.rows.last().and_then(|waiting| sequence(&waiting.key));
        let (done, left) = self.carry_out_rows(seat, taken.rows).await?;
        let progressed = !done.is_empty();
        let through = match (left, taken.more) {
            (Some(left), _) => left.saturating_sub(1),
            (None, true) => last.map_or(0, |last| last.saturating_sub(1)),
            (None, false) => taken.reached.sequence,
        };
        if let Err(RemovalError) = self.remover.remove(&seat.projection, OUTBOX, done).await {
            // The runner has ended, and whoever waits for it learns why.
            return std::future::pending().await;
        }
        if through > 0 {
            seat.progress.learn(Progress { sequence: through, ..taken.reached });
        }
        Ok(Pass { progressed, left: left.is_some() })
    }

    /// The rows that are done, and the sequence of the first event of which something is left.
    async fn carry_out_rows(
        &self,
        seat: &Seat,
        rows: Vec<Waiting>,
    ) -> Result<(Vec<(String, Vec<u8>)>, Option<u64>), BrokerError> {
        let mut lanes: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
        for waiting in rows {
            lanes.entry(waiting.row.lane()).or_default().push(waiting);
        }
        let mut lanes = stream::iter(lanes.into_values())
            .map(|lane| self.carry_out_lane(&seat.metrics, lane))
            .buffer_unordered(LANES_AT_ONCE);
        let mut done = Vec::new();
        let mut first_left: Option<u64> = None;
        while let Some(ended) = lanes.next().await {
            let (lane, left) = ended?;
            done.extend(lane);
            first_left = first_left.into_iter().chain(left).min();
        }
        Ok((done, first_left))
    }

    /// In order, up to the first that cannot be carried out now.
    async fn carry_out_lane(
        &self,
        metrics: &ProcessMetrics,
        lane: Vec<Waiting>,
    ) -> Result<(Vec<(String, Vec<u8>)>, Option<u64>), BrokerError> {
        let mut done: Vec<(String, Vec<u8>)> = Vec::new();
        let mut overtaken: Vec<Waiting> = Vec::new();
        let mut rows = lane.into_iter().peekable();
        while let Some(waiting) = rows.next() {
            if waiting.row.is_overtaken() && rows.peek().is_some() {
                overtaken.push(waiting);
                continue;
            }
            if !self.perform(metrics, &waiting.row).await? {
                let first = overtaken.first().unwrap_or(&waiting);
                return Ok((done, Some(sequence(&first.key).unwrap_or(0))));
            }
            done.extend(overtaken.drain(..).chain([waiting]).map(|waiting| (waiting.key, waiting.value)));
        }
        Ok((done, None))
    }

    /// Carries out one effect; says whether that is done.
    async fn perform(&self, metrics: &ProcessMetrics, row: &Row) -> Result<bool, BrokerError> {
        let (count, done) = match row {
            Row::Send { command } => {
                let done = self.append(COMMANDS, command.subject(), command.headers(), command).await;
                (&metrics.commands, done)
            }
            Row::SetTimer { name, at, command } => {
                let headers = command.schedule_headers(*at);
                (&metrics.timers_set, self.append(TIMERS, timer_subject(name), headers, command).await)
            }
            Row::CancelTimer { name } => {
                let done = match self.broker.purge_subject(TIMERS, &timer_subject(name), None).await {
                    Ok(_) => true,
                    Err(BrokerError::Unavailable { operation, detail }) => {
                        tracing::warn!(timer = name, operation, detail, "a timer cannot be cancelled yet");
                        false
                    }
                    Err(error) => return Err(error),
                };
                (&metrics.timers_cancelled, done)
            }
        };
        if done {
            count.inc();
        }
        Ok(done)
    }

    async fn append(&self, stream: &str, subject: String, headers: Headers, command: &Command) -> bool {
        let message = NewMessage { subject, expected_last: None, headers, payload: command.payload() };
        match self.broker.append(stream, message).await {
            Ok(_) => true,
            Err(error @ AppendError::Refused { .. }) => {
                tracing::error!(id = command.id, stream, %error, "the process waits behind a command that is refused");
                false
            }
            Err(error) => {
                tracing::warn!(id = command.id, stream, %error, "a command of a process waits");
                false
            }
        }
    }
}

/// Reads what stands in an outbox; nothing while the process has not begun.
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
        Some(detail) => Err(StoreError::Damaged { path: store.path().to_owned(), detail }),
        None => Ok(Some(Taken { more: rows.len() == ROWS_MAX, rows, reached })),
    }
}
