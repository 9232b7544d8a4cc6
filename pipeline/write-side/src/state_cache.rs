//! The states of recently used aggregates in memory, bounded in number and in bytes. What falls out becomes a snapshot.
//!
//! The state of an aggregate is taken out, decided on and put back. If it is not in memory, it comes from the snapshots. It may
//! then be stale, and is therefore not [`AggregateState::current`].

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use millstream_contract::{
    commit::{COMMIT_HASH_LENGTH, StoredCommit},
    seeded_bug::{SeededBug, planted},
    subject::StreamId,
};
use millstream_domain::decider::{AggregateRegistry, AggregateType};

use crate::{
    aggregate_state::AggregateState,
    state_snapshots::{NamedCommit, SnapshotBatch, SnapshotError, SnapshotReader, StateSnapshots},
};

/// The memory that a state takes besides its fields: its place in the cache and its id.
const STATE_BYTES_MIN: u64 = 512;
/// The memory for each byte of an encoded state, because of pointers, spare capacity and tree nodes. This is an assumption, not a
/// measurement.
const MEMORY_FACTOR: u64 = 3;
/// After this many events, a state that never falls out of memory becomes a snapshot all the same. A handler that was killed then
/// folds at most this much of a long history again.
const EVENTS_BETWEEN_SNAPSHOTS: u64 = 1000;
/// How many snapshots make a transaction worthwhile.
const BATCH_MIN: usize = 1024;

/// How much may be kept in memory.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// States.
    pub states: NonZeroUsize,
    /// Bytes, estimated from the size of encoded states. One state is always kept, however large it is.
    pub bytes: u64,
}

#[derive(Debug)]
struct Cached {
    state: AggregateState,
    bytes: u64,
}

/// The cache.
#[derive(Debug)]
pub struct StateCache {
    states: LruCache<StreamId, Cached>,
    bytes: u64,
    limits: CacheLimits,
    registry: AggregateRegistry,
    snapshots: StateSnapshots,
    /// The file as it was at the beginning of this round, opened when it is first needed.
    stored: Option<Option<SnapshotReader>>,
    /// Snapshots that are encoded and not in the file yet.
    leaving: HashMap<StreamId, Vec<u8>>,
    /// The EVENTS sequence up to which commits of others have been followed.
    through: u64,
    /// The newest commit that went into any state.
    newest: Option<NamedCommit>,
}

impl StateCache {
    /// An empty cache of states of the aggregates in `registry`.
    pub fn new(limits: CacheLimits, registry: AggregateRegistry, snapshots: StateSnapshots) -> Self {
        Self {
            states: LruCache::unbounded(),
            bytes: 0,
            limits,
            registry,
            snapshots,
            stored: None,
            leaving: HashMap::new(),
            through: 0,
            newest: None,
        }
    }

    /// The newest commit that went into any state, in memory or in the file.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn newest(&self) -> Result<Option<NamedCommit>, SnapshotError> {
        if self.newest.is_some() { Ok(self.newest) } else { self.snapshots.newest() }
    }

    /// Begins to follow EVENTS of `generation`, which ends at `last_sequence` and has a commit with the hash `found` at the
    /// sequence of [`StateCache::newest`]. If that is another commit, the server has lost its tail. States and snapshots are then
    /// dropped, as those of another generation are: their expected sequences might match by chance what has grown since.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn follow_events(
        &mut self,
        generation: &str,
        last_sequence: u64,
        found: Option<[u8; COMMIT_HASH_LENGTH]>,
    ) -> Result<(), SnapshotError> {
        self.stored = None;
        self.newest = self.newest()?;
        let intact =
            self.through <= last_sequence && self.newest.is_none_or(|newest| found == Some(newest.hash));
        let intact = intact || planted(SeededBug::StatesBySequenceAlone);
        match self.snapshots.follow(generation, last_sequence, intact)? {
            Some(through) => self.through = self.through.max(through),
            None => {
                self.states.clear();
                self.leaving.clear();
                (self.bytes, self.through, self.newest) = (0, 0, None);
            }
        }
        Ok(())
    }

    /// Takes a state out. While commands are decided on it, it is ahead of EVENTS, and nobody else may see it.
    pub fn take(&mut self, stream_id: &StreamId) -> Option<AggregateState> {
        match self.states.pop(stream_id) {
            Some(cached) => {
                self.bytes -= cached.bytes;
                Some(cached.state)
            }
            None => self.snapshot(stream_id),
        }
    }

    /// The state as it was when its last snapshot was made.
    pub fn snapshot(&mut self, stream_id: &StreamId) -> Option<AggregateState> {
        let aggregate = self.aggregate(stream_id)?;
        if let Some(leaving) = self.leaving.get(stream_id) {
            return AggregateState::decode(&aggregate, leaving);
        }
        let stored = self.stored.get_or_insert_with(|| {
            self.snapshots.reader().unwrap_or_else(|error| {
                tracing::warn!(%error, "deciding without snapshots");
                None
            })
        });
        match stored.as_ref()?.get(stream_id) {
            Ok(bytes) => AggregateState::decode(&aggregate, &bytes?),
            Err(error) => {
                tracing::warn!(%error, %stream_id, "deciding without the snapshot");
                None
            }
        }
    }

    /// Puts a settled state in. The least recently used states make room for it.
    pub fn put(&mut self, stream_id: StreamId, mut state: AggregateState) {
        let Some(aggregate) = self.aggregate(&stream_id) else { return };
        if let Some(hash) = state.last_hash
            && self.newest.is_none_or(|newest| newest.sequence < state.last_sequence)
        {
            self.newest = Some(NamedCommit { sequence: state.last_sequence, hash });
        }
        if state.version >= state.snapshot_version + EVENTS_BETWEEN_SNAPSHOTS {
            state.snapshot_version = state.version;
            self.leaving.insert(stream_id.clone(), state.encode(&aggregate));
        }
        let bytes = weigh(&aggregate, &mut state);
        self.bytes += bytes;
        if let Some(before) = self.states.put(stream_id, Cached { state, bytes }) {
            self.bytes -= before.bytes;
        }
        while self.states.len() > self.limits.states.get()
            || (self.bytes > self.limits.bytes && self.states.len() > 1)
        {
            let Some((stream_id, cached)) = self.states.pop_lru() else { return };
            self.bytes -= cached.bytes;
            self.leave(stream_id, &cached.state);
        }
    }

    fn leave(&mut self, stream_id: StreamId, state: &AggregateState) {
        if state.version > state.snapshot_version
            && let Some(aggregate) = self.aggregate(&stream_id)
        {
            self.leaving.insert(stream_id, state.encode(&aggregate));
        }
    }

    /// Applies a commit that any handler appended. If the state lacks commits in between, it is dropped, because an append on it
    /// would only be refused.
    pub fn follow(&mut self, commit: &StoredCommit) {
        self.through = self.through.max(commit.broker_sequence);
        let Some(aggregate) = self.aggregate(&commit.stream_id) else { return };
        let mut state = match self.take(&commit.stream_id) {
            Some(state) => state,
            None if commit.commit.first_version == 1 => AggregateState::initial(&aggregate),
            None => return,
        };
        if commit.broker_sequence > state.last_sequence
            && let Err(error) = state.apply(&aggregate, commit)
        {
            tracing::debug!(%error, "a state is not followed any more");
            return;
        }
        self.put(commit.stream_id.clone(), state);
    }

    /// Marks all states as possibly stale, because another handler may have been active. `through` is the sequence of EVENTS up to
    /// which this handler knows all commits.
    pub fn doubt_all(&mut self, through: u64) {
        self.through = self.through.max(through);
        for (_, cached) in &mut self.states {
            cached.state.current = false;
        }
    }

    /// The sequence of EVENTS after which to follow.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Ends a round. Returns the snapshots to write to the file, once there are enough of them.
    pub fn end_round(&mut self) -> Option<SnapshotBatch> {
        self.stored = None;
        (self.leaving.len() >= BATCH_MIN).then(|| self.batch(false))
    }

    /// Snapshots of everything that the file lacks. The states stay in memory.
    pub fn snapshot_all(&mut self) -> SnapshotBatch {
        self.stored = None;
        let mut unsaved = Vec::new();
        for (stream_id, Cached { state, .. }) in &mut self.states {
            if state.version > state.snapshot_version
                && let Some(aggregate) = self.registry.get(stream_id.context(), stream_id.aggregate())
            {
                state.snapshot_version = state.version;
                unsaved.push((stream_id.clone(), state.encode(aggregate)));
            }
        }
        self.leaving.extend(unsaved);
        self.batch(true)
    }

    fn batch(&mut self, durable: bool) -> SnapshotBatch {
        let mut snapshots: Vec<_> = self.leaving.drain().collect();
        snapshots.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        SnapshotBatch { snapshots, through: self.through, newest: self.newest, durable }
    }

    /// The file to which batches are written.
    pub fn snapshots(&self) -> &StateSnapshots {
        &self.snapshots
    }

    /// How many states are in memory.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether none is in memory.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The memory that they take, estimated.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn aggregate(&self, stream_id: &StreamId) -> Option<Arc<dyn AggregateType>> {
        self.registry.get(stream_id.context(), stream_id.aggregate()).cloned()
    }
}

/// The memory that a state takes. It is measured whenever the version has doubled, because encoding costs time, and estimated in
/// proportion in between.
fn weigh(aggregate: &Arc<dyn AggregateType>, state: &mut AggregateState) -> u64 {
    let known = state.weighed.filter(|(version, _)| state.version < version * 2);
    let (version, encoded) =
        known.unwrap_or_else(|| (state.version.max(1), state.encode(aggregate).len() as u64));
    state.weighed = Some((version, encoded));
    let grown = encoded * state.version.max(1) / version;
    STATE_BYTES_MIN + grown * MEMORY_FACTOR
}

#[cfg(test)]
mod tests {
    use millstream_proof::testing::account::Account;

    use super::*;

    fn cache(states: usize, bytes: u64) -> StateCache {
        let limits = CacheLimits { states: NonZeroUsize::new(states).unwrap(), bytes };
        let snapshots = StateSnapshots::in_memory().unwrap();
        StateCache::new(limits, AggregateRegistry::new().with::<Account>(), snapshots)
    }

    fn id(name: &str) -> StreamId {
        StreamId::new("bank", "account", name).unwrap()
    }

    fn put(cache: &mut StateCache, name: &str, version: u64) {
        let aggregate = cache.aggregate(&id(name)).unwrap();
        let mut state = AggregateState::initial(&aggregate);
        (state.version, state.last_sequence, state.current) = (version, version * 10, true);
        state.last_hash = Some([7; 16]);
        cache.put(id(name), state);
    }

    #[test]
    fn what_falls_out_of_memory_comes_back_and_is_not_known_to_be_current() {
        let mut cache = cache(1, u64::MAX);
        put(&mut cache, "old", 3);
        put(&mut cache, "new", 1);
        assert_eq!(cache.len(), 1);
        for written in [false, true] {
            if written {
                let batch = cache.snapshot_all();
                cache.snapshots().write(&batch).unwrap();
            }
            let state = cache.take(&id("old")).unwrap();
            assert_eq!((state.version, state.last_sequence, state.current), (3, 30, false));
            assert_eq!(state.last_hash, Some([7; 16]));
        }
        assert!(cache.take(&id("new")).unwrap().current);
        assert!(cache.take(&id("unknown")).is_none());
    }

    #[test]
    fn memory_is_bounded_in_bytes_and_given_back() {
        let mut cache = cache(1000, 3000);
        for number in 0..100 {
            put(&mut cache, &number.to_string(), 1);
            assert!(cache.bytes() <= 3000, "{}", cache.bytes());
        }
        assert!((2..6).contains(&cache.len()), "{}", cache.len());
        while !cache.is_empty() {
            let (oldest, _) = cache.states.peek_lru().unwrap();
            let oldest = oldest.clone();
            cache.take(&oldest).unwrap();
        }
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn states_of_a_lost_tail_are_forgotten_in_memory_and_in_the_file() {
        let mut cache = cache(10, u64::MAX);
        cache.follow_events("g", 0, None).unwrap();
        put(&mut cache, "one", 1);
        put(&mut cache, "two", 3);
        let batch = cache.snapshot_all();
        cache.snapshots().write(&batch).unwrap();
        let newest = NamedCommit { sequence: 30, hash: [7; COMMIT_HASH_LENGTH] };
        assert_eq!(cache.newest().unwrap(), Some(newest));
        cache.follow_events("g", 40, Some(newest.hash)).unwrap();
        assert_eq!(cache.len(), 2, "the commit is there");
        cache.follow_events("g", 40, Some([8; COMMIT_HASH_LENGTH])).unwrap();
        assert_eq!((cache.len(), cache.bytes(), cache.through()), (0, 0, 0));
        assert!(cache.take(&id("one")).is_none(), "its snapshot is gone too");
    }

    #[test]
    fn nothing_is_current_after_a_turn() {
        let mut cache = cache(10, u64::MAX);
        put(&mut cache, "one", 1);
        cache.doubt_all(40);
        assert!(!cache.take(&id("one")).unwrap().current);
        assert_eq!(cache.through(), 40);
    }

    #[test]
    fn a_snapshot_of_another_shape_is_not_read() {
        let aggregate = cache(1, 1).aggregate(&id("one")).unwrap();
        let mut bytes = AggregateState::initial(&aggregate).encode(&aggregate);
        assert!(AggregateState::decode(&aggregate, &bytes).is_some());
        // The first field of the array: the version of the state's shape.
        *bytes.get_mut(1).unwrap() += 1;
        assert!(AggregateState::decode(&aggregate, &bytes).is_none());
    }
}
