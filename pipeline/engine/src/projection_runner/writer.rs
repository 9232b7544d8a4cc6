//! The thread that writes: it takes what waits, applies it in one transaction, and syncs the file from time to time.

use std::{sync::Arc, time::Duration};

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
    feed::Item,
    projection_set::ProjectionSet,
    status::StatusBoard,
};
use crate::read_store::{Durability, ProjectionId, ReadStore, StoreError};

/// Where a member begins.
pub(super) struct Start {
    pub(super) member: usize,
    pub(super) verdict: Verdict,
}

/// What the thread is given to do. Everything is done in the order in which it was sent.
pub(super) enum Work {
    /// Commits, in the order of EVENTS.
    Commits { items: Vec<Item>, memory: Option<OwnedSemaphorePermit> },
    /// Records, in the order of OUTCOMES.
    Records { items: Vec<Item>, memory: Option<OwnedSemaphorePermit> },
    /// Rows of work in hand that are done.
    Remove { removals: Vec<Removal> },
    /// Where members begin, after judging their checkpoints.
    Start { starts: Vec<Start>, done: oneshot::Sender<()> },
    /// Answers when everything before it is committed.
    Barrier { done: oneshot::Sender<()> },
}

/// The thread, while it runs.
pub(super) struct WriterThread {
    ended: oneshot::Receiver<Result<(), StoreError>>,
}

struct Writer {
    applier: Applier,
    inbox: mpsc::Receiver<Work>,
    runtime: Handle,
    batch_max: usize,
    durable_interval: Duration,
    /// When the file must be synced; `None` while everything is.
    sync_due: Option<Instant>,
}

impl WriterThread {
    /// Starts it. It ends when nobody can send it work any more.
    pub(super) fn start(
        store: ReadStore,
        set: Arc<ProjectionSet>,
        statuses: StatusBoard,
        config: &RunnerConfig,
        inbox: mpsc::Receiver<Work>,
    ) -> Result<Self, RunnerError> {
        let writer = Writer {
            applier: Applier::new(store, set, statuses),
            inbox,
            runtime: Handle::current(),
            batch_max: config.batch_max,
            durable_interval: config.durable_interval,
            sync_due: None,
        };
        let (report, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("read-store".to_owned())
            .spawn(move || {
                // Nobody listens when the runner itself was dropped.
                let _ = report.send(writer.run());
            })
            .map_err(|error| RunnerError::Writer(error.to_string()))?;
        Ok(Self { ended })
    }

    /// Waits for its end, which also ends everybody else through `stop`.
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
    fn run(mut self) -> Result<(), StoreError> {
        let mut held = None;
        loop {
            let work = match held.take() {
                Some(work) => work,
                None => match self.wait() {
                    Wake::Work(work) => work,
                    Wake::SyncDue => {
                        self.sync()?;
                        continue;
                    }
                    Wake::Closed => return if self.sync_due.is_some() { self.sync() } else { Ok(()) },
                },
            };
            held = self.perform(work)?;
        }
    }

    fn wait(&mut self) -> Wake {
        let Self { inbox, runtime, sync_due, .. } = self;
        runtime.block_on(async {
            let received = match *sync_due {
                Some(due) => match tokio::time::timeout_at(due, inbox.recv()).await {
                    Ok(received) => received,
                    Err(_) => return Wake::SyncDue,
                },
                None => inbox.recv().await,
            };
            received.map_or(Wake::Closed, Wake::Work)
        })
    }

    /// Does `first` and what of the same kind waits behind it; returns what it took but must come after.
    fn perform(&mut self, first: Work) -> Result<Option<Work>, StoreError> {
        let mut batch = Batch::default();
        let mut memory = Vec::new();
        let mut next = Some(first);
        while let Some(work) = next.take() {
            match work {
                Work::Commits { items, memory: permit } => {
                    extend(&mut batch.commits, items);
                    memory.extend(permit);
                }
                Work::Records { items, memory: permit } => {
                    extend(&mut batch.records, items);
                    memory.extend(permit);
                }
                Work::Remove { removals } => batch.removals.extend(removals),
                control if batch.is_empty() => return self.control(control).map(|()| None),
                control => {
                    self.apply(&batch)?;
                    return Ok(Some(control));
                }
            }
            if batch.messages() < self.batch_max {
                next = self.inbox.try_recv().ok();
            }
        }
        self.apply(&batch).map(|()| None)
    }

    fn control(&mut self, work: Work) -> Result<(), StoreError> {
        let done = match work {
            Work::Start { starts, done } => {
                for Start { member, verdict } in starts {
                    match verdict {
                        Verdict::Resume { checkpoint, .. } => self.applier.resume(member, checkpoint),
                        Verdict::Rebuild { checkpoint, .. } => self.applier.reset(member, checkpoint)?,
                    }
                }
                done
            }
            Work::Barrier { done } => done,
            Work::Commits { .. } | Work::Records { .. } | Work::Remove { .. } => return Ok(()),
        };
        // Whoever asked may have gone.
        let _ = done.send(());
        Ok(())
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let now = Instant::now();
        let due = *self.sync_due.get_or_insert(now + self.durable_interval);
        let durability = if now >= due { Durability::Durable } else { Durability::Volatile };
        self.applier.apply(batch, durability)?;
        if durability == Durability::Durable {
            self.sync_due = None;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.sync_due = None;
        self.applier.sync()
    }
}

enum Wake {
    Work(Work),
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

/// The runner that would remove a row has ended.
#[derive(Debug, thiserror::Error)]
#[error("the read store is closed")]
pub struct RemovalError;

/// Removes rows of work in hand, such as an outbox, from outside of their projection.
#[derive(Clone)]
pub struct RowRemover {
    set: Arc<ProjectionSet>,
    /// Weak, so that whoever removes rows does not keep the writer from ending.
    inbox: mpsc::WeakSender<Work>,
}

impl RowRemover {
    pub(super) fn new(set: Arc<ProjectionSet>, inbox: &mpsc::Sender<Work>) -> Self {
        Self { set, inbox: inbox.downgrade() }
    }

    /// Removes the rows of a projection's `table` that still have the given value; others have changed since and stay.
    ///
    /// # Errors
    /// [`RemovalError`] when the runner has ended.
    pub async fn remove(
        &self,
        projection: &ProjectionId,
        table: &str,
        rows: Vec<(String, Vec<u8>)>,
    ) -> Result<(), RemovalError> {
        let member =
            self.set.members.iter().position(|member| member.id == *projection).ok_or(RemovalError)?;
        let removals = rows
            .into_iter()
            .map(|(key, value)| Removal { member, table: table.to_owned(), key, value })
            .collect();
        let inbox = self.inbox.upgrade().ok_or(RemovalError)?;
        inbox.send(Work::Remove { removals }).await.map_err(|_| RemovalError)
    }
}
