//! Keeps the states of aggregates: reads EVENTS in order where commits are not known yet, and writes changes to the file while the handler does
//! other work.

use millstream_contract::{
    commit::{StoredCommit, commit_hash},
    stream_names::EVENTS,
};
use millstream_jetstream::{
    broker::{Broker, ReaderConfig, StreamReader},
    id_source::IdSource,
    lost_tail::state_reaching,
    retry::answered,
};
use millstream_runtime::file_work::{do_file_work, end_of};
use tokio::task::JoinHandle;

use super::{HandlerError, standby::message_at};
use crate::{
    state_cache::StateCache,
    state_snapshots::{StateSnapshots, StoreError},
};

/// How many commits are read at a time.
const COMMITS_MAX: usize = 1000;
/// A handler that is at most this many commits behind is warm, because reading them takes no longer than passing the turn to another.
const WARM_WITHIN: u64 = 20_000;

/// The cache, and the write to its file that may be under way.
pub(super) struct StateKeeper {
    pub(super) cache: StateCache,
    write: Option<JoinHandle<Result<(), StoreError>>>,
}

impl StateKeeper {
    pub(super) fn new(cache: StateCache) -> Self {
        Self { cache, write: None }
    }

    /// Checks that the states belong to the current EVENTS, and begins to read it where the states end. If a server came back with an older
    /// copy, states from its lost future must not be used.
    pub(super) async fn open<B: Broker>(
        &mut self,
        broker: &B,
        ids: &IdSource,
        process: &str,
    ) -> Result<StateFollower<B>, HandlerError> {
        self.await_write().await;
        if self.cache.newest().is_none() {
            let snapshots = self.cache.snapshots().clone();
            self.cache.recall(do_file_work(move || snapshots.newest()).await?);
        }
        let newest = self.cache.newest();
        let known = self.cache.through().max(newest.map_or(0, |newest| newest.sequence));
        let events = answered(ids, || state_reaching(broker, ids, EVENTS, known)).await?;
        let newest = match newest {
            Some(newest) => message_at(broker, ids, EVENTS, newest.sequence).await?,
            None => None,
        };
        let found = newest.map(|message| commit_hash(&message.payload));
        let followed = self.cache.followed(&events.generation, events.last_sequence, found);
        let snapshots = self.cache.snapshots().clone();
        self.cache.follow_from(do_file_work(move || snapshots.follow(&followed)).await?);
        Ok(StateFollower { end: events.last_sequence, ..StateFollower::new(broker, process) })
    }

    /// Ends a round: handles a write that has ended, and begins one if enough has changed. Cancelling it loses nothing.
    pub(super) async fn end_round(&mut self) {
        self.cache.end_round();
        if self.cache.must_write() || self.write.as_ref().is_some_and(JoinHandle::is_finished) {
            self.await_write().await;
        }
        if self.write.is_none() && self.cache.write_due() {
            self.begin_write(false);
        }
    }

    /// Writes everything that the file lacks.
    pub(super) async fn save_all(&mut self) {
        self.await_write().await;
        self.begin_write(true);
        self.await_write().await;
    }

    fn begin_write(&mut self, all: bool) {
        let snapshots: StateSnapshots = self.cache.snapshots().clone();
        let Some(batch) = self.cache.begin_write(all) else { return };
        self.write = Some(tokio::spawn(do_file_work(move || snapshots.write(&batch))));
    }

    /// Waits for the write that is under way. If the file fails, the handler gets slower but stays correct.
    async fn await_write(&mut self) {
        let Some(write) = &mut self.write else { return };
        // If the runtime has cancelled it, EVENTS is read again instead.
        let written = end_of(write).await;
        self.write = None;
        self.cache.end_write(written);
    }
}

/// Reads EVENTS into a keeper's cache.
pub(super) struct StateFollower<B: Broker> {
    broker: B,
    /// The name of its consumer.
    name: String,
    reader: Option<B::Reader>,
    /// The end of EVENTS when this was opened; 0 if it is not known.
    end: u64,
}

impl<B: Broker> StateFollower<B> {
    /// Reads what follows the cache, with a consumer named after `process`.
    pub(super) fn new(broker: &B, process: &str) -> Self {
        Self { broker: broker.clone(), name: format!("{process}-states"), reader: None, end: 0 }
    }

    /// Whether all commits are known, except possibly the last few.
    pub(super) fn is_warm(&self, keeper: &StateKeeper) -> bool {
        let pending = self.reader.as_ref().map_or(0, B::Reader::pending);
        keeper.cache.through() + WARM_WITHIN >= self.end && pending <= WARM_WITHIN
    }

    /// The end of EVENTS when this was opened.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Reads some commits. Cancelling it loses nothing.
    pub(super) async fn follow(&mut self, keeper: &mut StateKeeper) -> Result<(), HandlerError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let config = ReaderConfig {
                    stream: EVENTS.to_owned(),
                    name: self.name.clone(),
                    description: "states of aggregates, to be warm when it is this process's turn".to_owned(),
                    after: keeper.cache.through(),
                    filters: Vec::new(),
                    replace_live: false,
                };
                self.reader.insert(self.broker.read(config).await?)
            }
        };
        for message in reader.next_batch(COMMITS_MAX).await? {
            match StoredCommit::from_stored(&message) {
                Ok(commit) => keeper.cache.follow(&commit),
                // The active handler meets the same commit when it decides on this aggregate, and sets the aggregate's commands aside.
                Err(error) => {
                    tracing::debug!(%error, sequence = message.sequence, "a commit cannot be followed");
                    keeper.cache.pass(message.sequence);
                }
            }
        }
        keeper.end_round().await;
        // A task that never has to wait for messages must yield, so that other tasks can run.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Reads everything that EVENTS holds now.
    pub(super) async fn catch_up(
        &mut self,
        keeper: &mut StateKeeper,
        ids: &IdSource,
    ) -> Result<(), HandlerError> {
        // The stream's own last sequence cannot be used: that message may have been removed and never come.
        let last = answered(ids, || self.broker.last(EVENTS, ">")).await?;
        let last = last.map_or(0, |message| message.sequence);
        let begun = keeper.cache.through();
        while keeper.cache.through() < last {
            self.follow(keeper).await?;
        }
        if begun < last {
            tracing::info!(from = begun, to = last, "read the commits that were not known yet");
        }
        Ok(())
    }

    /// Removes the consumer.
    pub(super) async fn close(self) {
        if let Some(reader) = self.reader {
            reader.close().await;
        }
    }
}
