//! The writing thread: it takes what waits, applies it in one transaction, and syncs the file from time to time.

use std::{cell::OnceCell, sync::Arc};

use jiff::Timestamp;
use millstream_contract::stream_names::{EVENTS, OUTCOMES};
use millstream_runtime::{
    metrics::{Metrics, ReaderMetrics},
    stage_needs::consumer_behind,
};
use millstream_store::read_store::{Durability, ProjectionId};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    RunnerConfig, RunnerError,
    applier::{Applier, Batch, Removal},
    checkpoint_check::Verdict,
    decoding::Item,
    follower::ApplyError,
    pace::{Hurry, Pace},
    projection_set::ProjectionSet,
    reader_lane::{ByLane, Lane},
    sync_schedule::SyncSchedule,
};

/// Work of fewer messages than this waits for more.
const READS_FEW: usize = 200;
/// But only if fewer pieces of work than this wait already.
const TASKS_FEW: usize = 16;

/// Where a projection of the set begins.
pub(super) struct Start {
    pub(super) member: usize,
    pub(super) verdict: Verdict,
    /// Whether the message before which it halted was set aside.
    pub(super) goes_on: bool,
    /// Which reader feeds it.
    pub(super) lane: Lane,
    /// Whether the follower's checkpoint belongs to the stream.
    pub(super) follower_belongs: bool,
}

/// Messages that were read together.
pub(super) struct Messages {
    /// The reader that has read them.
    pub(super) lane: Lane,
    pub(super) items: Vec<Item>,
    /// Their share of the memory, freed when they are applied.
    pub(super) memory: Option<OwnedSemaphorePermit>,
    /// The last sequence of their stream when the source last asked for it.
    pub(super) stream_end: u64,
}

/// The work for the thread, which does it in the order in which it was sent.
pub(super) enum WriterTask {
    /// Commits, in the order of EVENTS.
    Commits(Messages),
    /// Records, in the order of OUTCOMES.
    Records(Messages),
    /// Rows that are done with and can be removed, such as those of an outbox.
    Remove { removals: Vec<Removal>, done: oneshot::Sender<()> },
    /// Where projections begin, after their checkpoints have been checked.
    Start { stream: &'static str, starts: Vec<Start>, done: oneshot::Sender<()> },
    /// Answers when everything before it is committed.
    Barrier { done: oneshot::Sender<()> },
}

/// The thread, while it runs.
pub(super) struct WriterThread {
    ended: oneshot::Receiver<Result<(), ApplyError>>,
}

pub(super) struct Writer {
    applier: Applier,
    inbox: mpsc::Receiver<WriterTask>,
    batch_max: usize,
    /// The most messages that one piece of work brings.
    read_max: usize,
    schedule: SyncSchedule,
    pace: Pace,
    hurry: Hurry,
    commits: ByLane<Counted>,
    records: ByLane<Counted>,
}

impl WriterThread {
    /// Starts the thread. It ends when nobody can send it work any more.
    pub(super) fn start(writer: Writer) -> Result<Self, RunnerError> {
        let (report, ended) = oneshot::channel();
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name("read-store".to_owned())
            .spawn(move || {
                // The receiver is gone if the runner itself was dropped.
                let _ = report.send(runtime.block_on(writer.run()));
            })
            .map_err(|error| RunnerError::Writer(error.to_string()))?;
        Ok(Self { ended })
    }

    /// Runs the writer as a task instead of a thread, because a simulation does everything on one thread.
    #[cfg(feature = "testing")]
    pub(super) fn start_as_task(writer: Writer) -> Self {
        let (report, ended) = oneshot::channel();
        tokio::spawn(async move { report.send(writer.run().await).is_ok() });
        Self { ended }
    }

    /// Waits for the end of the thread, and then ends the sources through `stop`.
    pub(super) async fn ended(self, stop: CancellationToken) -> Result<(), RunnerError> {
        let ended = self.ended.await;
        stop.cancel();
        match ended {
            Ok(result) => Ok(result?),
            Err(_) => Err(RunnerError::Writer("it panicked".to_owned())),
        }
    }
}

impl Writer {
    pub(super) fn new(
        applier: Applier,
        config: &RunnerConfig,
        inbox: mpsc::Receiver<WriterTask>,
        hurry: Hurry,
    ) -> Self {
        Self {
            applier,
            inbox,
            batch_max: config.batch_max,
            read_max: config.read_max(),
            schedule: SyncSchedule::new(config.durable_interval),
            pace: Pace::default(),
            hurry,
            commits: counted(config, EVENTS, &config.events_consumer),
            records: counted(config, OUTCOMES, &config.outcomes_consumer),
        }
    }

    /// Waits for work and does it. The work blocks, which is why the writer has a thread of its own.
    async fn run(mut self) -> Result<(), ApplyError> {
        let mut held = None;
        loop {
            let work = match held.take() {
                Some(work) => work,
                None => match self.wait().await? {
                    Wake::WriterTask(work) => work,
                    Wake::SyncDue => {
                        self.sync()?;
                        continue;
                    }
                    Wake::Closed => return if self.schedule.is_pending() { self.sync() } else { Ok(()) },
                },
            };
            self.pause(&work).await?;
            held = self.perform(work)?;
        }
    }

    /// Waits for work, or until a sync is due. Before waiting, it finishes the batch that is being written in parallel, so that readers learn
    /// of it now instead of with the next work.
    async fn wait(&mut self) -> Result<Wake, ApplyError> {
        if self.inbox.is_empty() {
            self.applier.written()?;
        }
        let received = match self.schedule.due(self.applier.sync_took()) {
            Some(due) => match tokio::time::timeout_at(due, self.inbox.recv()).await {
                Ok(received) => received,
                Err(_) => return Ok(Wake::SyncDue),
            },
            None => self.inbox.recv().await,
        };
        Ok(received.map_or(Wake::Closed, Wake::WriterTask))
    }

    /// Waits a moment for more work if little waits and the last transaction has only just ended. What comes meanwhile stays in the inbox;
    /// if the inbox is full, those who read wait, too. As before any wait, the batch that is being written in parallel is finished first.
    async fn pause(&mut self, work: &WriterTask) -> Result<(), ApplyError> {
        let few = match work {
            WriterTask::Commits(messages) | WriterTask::Records(messages) => messages.items.len() < READS_FEW,
            WriterTask::Remove { .. } => true,
            WriterTask::Start { .. } | WriterTask::Barrier { .. } => false,
        };
        if few
            && self.inbox.len() < TASKS_FEW
            && let Some(due) = self.pace.due()
        {
            self.applier.written()?;
            self.hurry.or_until(due).await;
        }
        Ok(())
    }

    /// Does `first`, together with all waiting work that fits into the same transaction. Returns work that it has already taken but that must
    /// follow the transaction.
    fn perform(&mut self, first: WriterTask) -> Result<Option<WriterTask>, ApplyError> {
        let mut batch = Batch::default();
        let mut memory = Vec::new();
        let mut removed = Vec::new();
        let mut later = None;
        let mut next = Some(first);
        while let Some(work) = next.take() {
            match work {
                WriterTask::Commits(messages) => {
                    extend(batch.commits.of_mut(messages.lane), messages.items);
                    self.commits.of_mut(messages.lane).stream_end = messages.stream_end;
                    memory.extend(messages.memory);
                }
                WriterTask::Records(messages) => {
                    extend(batch.records.of_mut(messages.lane), messages.items);
                    self.records.of_mut(messages.lane).stream_end = messages.stream_end;
                    memory.extend(messages.memory);
                }
                WriterTask::Remove { removals, done } => {
                    batch.removals.extend(removals);
                    removed.push(done);
                }
                control if batch.is_empty() => return self.control(control).map(|()| None),
                control => {
                    later = Some(control);
                    break;
                }
            }
            if batch.messages() + self.read_max <= self.batch_max {
                next = self.inbox.try_recv().ok();
            }
        }
        self.apply(&batch)?;
        for done in removed {
            // The sender of the request may have gone.
            let _ = done.send(());
        }
        Ok(later)
    }

    fn control(&mut self, work: WriterTask) -> Result<(), ApplyError> {
        self.applier.written()?;
        let done = match work {
            WriterTask::Start { stream, starts, done } => {
                if starts.iter().all(|start| start.lane == Lane::Ahead) {
                    self.read_together(stream);
                }
                for Start { member, verdict, lane, goes_on, follower_belongs } in starts {
                    self.applier.begin(member, verdict.generation());
                    self.applier.assign(member, lane);
                    if goes_on {
                        self.applier.go_on(member);
                    }
                    match verdict {
                        Verdict::Resume { checkpoint, .. } => self.applier.resume(member, checkpoint),
                        Verdict::Rebuild { checkpoint, .. } => self.applier.reset(member, checkpoint)?,
                    }
                    self.applier.follower_begins(member, follower_belongs)?;
                }
                done
            }
            WriterTask::Barrier { done } => done,
            WriterTask::Commits(_) | WriterTask::Records(_) | WriterTask::Remove { .. } => return Ok(()),
        };
        // The sender of the request may have gone.
        let _ = done.send(());
        Ok(())
    }

    /// No projection of `stream` has a reader of its own any more.
    fn read_together(&self, stream: &str) {
        match stream {
            OUTCOMES => self.records.behind.joined(),
            _ => self.commits.behind.joined(),
        }
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        let sync_took = self.applier.sync_took();
        let durability = self.schedule.durability(Instant::now(), sync_took, batch.is_large());
        let began = Instant::now();
        self.applier.apply(batch, durability, !self.inbox.is_empty())?;
        self.pace.wrote(began);
        if durability == Durability::Durable {
            self.schedule.synced();
        }
        for lane in [Lane::Ahead, Lane::Behind] {
            self.commits.of_mut(lane).count(batch.commits.of(lane));
            self.records.of_mut(lane).count(batch.records.of(lane));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ApplyError> {
        self.schedule.synced();
        self.applier.sync()
    }
}

/// The metrics of one reader. Those of the first reader exist from the beginning, those of the second from its first message on.
struct Counted {
    metrics: OnceCell<ReaderMetrics>,
    all: Metrics,
    stream: &'static str,
    reader: String,
    stream_end: u64,
}

fn counted(config: &RunnerConfig, stream: &'static str, consumer: &str) -> ByLane<Counted> {
    let of = |reader: String| Counted {
        metrics: OnceCell::new(),
        all: config.metrics.clone(),
        stream,
        reader,
        stream_end: 0,
    };
    let counted = ByLane { ahead: of(consumer.to_owned()), behind: of(consumer_behind(consumer)) };
    counted.ahead.metrics();
    counted
}

impl Counted {
    fn metrics(&self) -> &ReaderMetrics {
        self.metrics.get_or_init(|| self.all.reader(self.stream, &self.reader))
    }

    /// The reader ends, because others read for its projections.
    fn joined(&self) {
        if let Some(metrics) = self.metrics.get() {
            metrics.lag_events.set(0);
            metrics.lag_seconds.set(0.0);
        }
    }

    fn count(&self, items: &[Item]) {
        if let Some(last) = items.last() {
            let age = Timestamp::now().duration_since(last.message.stored_at).unsigned_abs();
            let sequence = last.message.sequence;
            let pending = self.stream_end.saturating_sub(sequence);
            self.metrics().handled(sequence, items.len() as u64, pending, age);
        }
    }
}

enum Wake {
    WriterTask(WriterTask),
    SyncDue,
    Closed,
}

fn extend(all: &mut Vec<Item>, more: Vec<Item>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.extend(more);
    }
}

/// The runner that should remove a row has ended.
#[derive(Debug, thiserror::Error)]
#[error("the read store is closed")]
pub struct RemovalError;

/// Removes rows on behalf of others than their projection, such as rows of an outbox that have been carried out.
#[derive(Clone)]
pub struct RowRemover {
    set: Arc<ProjectionSet>,
    /// A weak handle, so that holding a remover does not keep the writer from ending.
    inbox: mpsc::WeakSender<WriterTask>,
}

impl RowRemover {
    pub(super) fn new(set: Arc<ProjectionSet>, inbox: &mpsc::Sender<WriterTask>) -> Self {
        Self { set, inbox: inbox.downgrade() }
    }

    /// Removes the rows of a projection's `table` that still have the given value. Rows that have changed since stay. Returns when
    /// the removal is committed.
    ///
    /// # Errors
    /// [`RemovalError`] when the runner has ended.
    pub async fn remove(
        &self,
        projection: &ProjectionId,
        table: &str,
        rows: Vec<(String, Vec<u8>)>,
    ) -> Result<(), RemovalError> {
        if rows.is_empty() {
            return Ok(());
        }
        let member =
            self.set.members.iter().position(|member| member.id == *projection).ok_or(RemovalError)?;
        let removals = rows
            .into_iter()
            .map(|(key, value)| Removal { member, table: table.to_owned(), key, value })
            .collect();
        let inbox = self.inbox.upgrade().ok_or(RemovalError)?;
        let (done, removed) = oneshot::channel();
        inbox.send(WriterTask::Remove { removals, done }).await.map_err(|_| RemovalError)?;
        drop(inbox);
        removed.await.map_err(|_| RemovalError)
    }
}
