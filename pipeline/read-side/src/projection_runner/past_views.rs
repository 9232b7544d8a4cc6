//! Views as they were at a past moment: projections folded over EVENTS from the first commit up to a position, into a store of
//! their own, by the same applier that fills the live one. They can be moved forward, but not back.
//!
//! Deliberately absent: periodic syncs and readiness. The caller waits until the fold is done.

use std::sync::{Arc, Mutex, PoisonError};

use millstream_contract::{
    exit_code::{ExitCode, Failure},
    position::StreamPosition,
    stored_message::StoredMessage,
    stream_names::EVENTS,
};
use millstream_jetstream::{
    broker::Broker,
    set_aside::is_set_aside,
    stream_feed::{FeedError, StreamFeed},
};
use millstream_runtime::{file_work::end_of, metrics::Metrics};
use millstream_store::read_store::{Checkpoint, Durability, ProjectionId, ReadStore, StoreError};

use super::{
    applier::{Applier, Batch},
    decoding::{CommitSorter, Item, Reach},
    follower::ApplyError,
    projection_set::ProjectionSet,
    status::{Halt, StatusBoard, ViewDirectory},
};

/// The most commits that a transaction applies.
const BATCH_MAX: usize = 2_000;
/// How many transactions are followed by a durable one. redb can reuse the space of overwritten rows only after a durable commit,
/// so without these the temporary file would only grow.
const DURABLE_EVERY: u64 = 50;

/// Why a fold ends early.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// EVENTS cannot be read.
    #[error(transparent)]
    Input(#[from] FeedError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A projection cannot go on.
    #[error("{projection} halted at {EVENTS} {}: {}", halt.sequence, halt.reason)]
    Halted {
        /// The projection.
        projection: ProjectionId,
        /// Where and why.
        halt: Halt,
    },
}

impl Failure for FoldError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input(error) => error.exit_code(),
            Self::Store(error) => error.exit_code(),
            Self::Halted { .. } => ExitCode::Data,
        }
    }
}

/// Projections as of a stream position in EVENTS.
pub struct PastViews<B: Broker> {
    broker: B,
    feed: StreamFeed<B>,
    fold: Arc<Mutex<Fold>>,
    set: Arc<ProjectionSet>,
    statuses: StatusBoard,
    views: ViewDirectory,
    store: ReadStore,
}

/// The part that works away from the async threads.
struct Fold {
    applier: Applier,
    sorter: CommitSorter,
    set: Arc<ProjectionSet>,
    transactions: u64,
}

impl Fold {
    fn decode(&mut self, messages: Vec<StoredMessage>) -> Vec<Item> {
        messages.into_iter().map(|message| self.sorter.item(&self.set.members, message)).collect()
    }

    fn apply(&mut self, commits: Vec<Item>) -> Result<(), StoreError> {
        let batch = Batch::of_commits(commits);
        self.transactions += 1;
        let durable = self.transactions.is_multiple_of(DURABLE_EVERY);
        let durability = if durable { Durability::Durable } else { Durability::Volatile };
        self.applier.apply(&batch, durability, false).map_err(ApplyError::of_file)
    }
}

impl<B: Broker> PastViews<B> {
    /// Begins with the projections of events of `set`, before the first commit of this `generation`, in an empty `store`.
    /// `nats consumer ls` shows `purpose`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(
        broker: &B,
        store: ReadStore,
        set: ProjectionSet,
        generation: &str,
        purpose: &str,
    ) -> Result<Self, StoreError> {
        let set = Arc::new(set);
        let statuses = StatusBoard::new(&set, &Metrics::new());
        let mut applier = Applier::new(store.clone(), Arc::clone(&set), statuses.clone(), &Metrics::new());
        for member in set.members_of_events() {
            let version = set.members.get(member).map_or(0, |each| each.version);
            applier.begin(member, generation);
            applier.reset(member, Checkpoint::start(generation, version, 0)).map_err(ApplyError::of_file)?;
        }
        let views = ViewDirectory::new(&set, &statuses);
        let sorter = CommitSorter::new(&set.members_of_events());
        let fold = Fold { applier, sorter, set: Arc::clone(&set), transactions: 0 };
        let feed = StreamFeed::behind(broker, EVENTS, 0, purpose);
        Ok(Self {
            broker: broker.clone(),
            feed,
            fold: Arc::new(Mutex::new(fold)),
            set,
            statuses,
            views,
            store,
        })
    }

    /// Folds up to `position`, which EVENTS must have reached. `reached` is called with each sequence that has been applied. A
    /// position that the views have already passed changes nothing.
    ///
    /// # Errors
    /// [`FoldError`]; the views then stay where they are.
    pub async fn advance(
        &mut self,
        position: &StreamPosition,
        mut reached: impl FnMut(u64),
    ) -> Result<(), FoldError> {
        self.feed.extend(position.sequence);
        let mut batch = self.feed.batch_through(position.sequence, BATCH_MAX).await?;
        while let Some(last) = batch.last().map(|message| message.sequence) {
            let applying = self.apply(batch);
            // The next commits are read while these are applied.
            let (applied, next) =
                tokio::join!(applying, self.feed.batch_through(position.sequence, BATCH_MAX));
            applied?;
            self.check()?;
            reached(last);
            batch = next?;
        }
        Ok(())
    }

    /// The views that were folded, to be queried.
    pub fn views(&self) -> &ViewDirectory {
        &self.views
    }

    /// The store that has the rows.
    pub fn store(&self) -> &ReadStore {
        &self.store
    }

    /// Deletes its consumer. Without this call the server does so by itself, later.
    pub async fn close(self) {
        self.feed.close().await;
    }

    fn apply(&self, messages: Vec<StoredMessage>) -> impl Future<Output = Result<(), FoldError>> + use<B> {
        let (broker, fold, statuses) = (self.broker.clone(), Arc::clone(&self.fold), self.statuses.clone());
        async move {
            let mut items = away(&fold, move |fold| fold.decode(messages)).await;
            let mut reach = Reach::new(&statuses);
            for item in &mut items {
                if !reach.covers(item) {
                    continue;
                }
                match is_set_aside(&broker, &item.message).await.map_err(FeedError::from)? {
                    true => item.pass_over(),
                    false => reach.ends_at(item),
                }
            }
            Ok(away(&fold, move |fold| fold.apply(items)).await?)
        }
    }

    fn check(&self) -> Result<(), FoldError> {
        for (member, each) in (0..).zip(&self.set.members) {
            if let Some(halt) = self.statuses.subscribe(member).borrow().halted.clone() {
                return Err(FoldError::Halted { projection: each.id.clone(), halt });
            }
        }
        Ok(())
    }
}

/// Works away from the async threads.
async fn away<T: Send + 'static>(
    fold: &Arc<Mutex<Fold>>,
    work: impl FnOnce(&mut Fold) -> T + Send + 'static,
) -> T {
    let fold = Arc::clone(fold);
    let work = move || work(&mut fold.lock().unwrap_or_else(PoisonError::into_inner));
    end_of(tokio::task::spawn_blocking(work)).await
}
