//! The states of recently used aggregates in memory, limited in number and in bytes, and a file of snapshots that holds what does not fit into
//! memory.
//!
//! Together, memory and file know the aggregates up to [`StateCache::through`], a sequence of EVENTS. An aggregate that is in neither is
//! probably new, and the expected sequence of its next append shows whether it is. Changes since the file was last complete are written after a
//! fixed number of commits: snapshots are made between two rounds, and written while further rounds are decided. So a handler that was killed
//! reads only about this number of commits again.
//!
//! The state of an aggregate is taken out, decided on and put back. If it is not in memory, it comes from the snapshots. It may still be stale,
//! so it is not marked [`AggregateState::current`].

use std::{collections::HashMap, fmt::Write as _, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use millstream_contract::{
    commit::{COMMIT_HASH_LENGTH, StoredCommit},
    subject::StreamId,
};
use millstream_domain::decider::{AggregateRegistry, AggregateType};

use crate::{
    aggregate_state::AggregateState,
    state_snapshots::{
        FollowedEvents, NamedCommit, SnapshotBatch, SnapshotReader, StateSnapshots, StoreError,
    },
};

/// The memory that a state takes besides its fields, for its place in the cache and its id.
const STATE_BYTES_MIN: u64 = 512;
/// The memory for each byte of an encoded state, because of pointers, spare capacity and tree nodes. This is an assumption, not a
/// measurement.
const MEMORY_FACTOR: u64 = 3;
/// The number of snapshots that make a transaction worthwhile.
const BATCH_MIN: usize = 1024;
/// At most this many wait in memory while a batch is written.
const LEAVING_MAX: usize = 16 * BATCH_MIN;

/// Limits of the memory.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// The most states.
    pub states: NonZeroUsize,
    /// The most bytes, estimated from the size of encoded states. One state is always kept, however large it is.
    pub bytes: u64,
    /// After this many commits, all states that changed are written to the file.
    pub unsaved_commits: NonZeroUsize,
}

/// Commits that a handler has appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// How many.
    pub count: u64,
    /// The lowest of their sequences in EVENTS, or 0.
    pub first: u64,
    /// The highest, or 0.
    pub last: u64,
}

impl Appended {
    /// A commit at `sequence`.
    pub fn one(sequence: u64) -> Self {
        Self { count: 1, first: sequence, last: sequence }
    }

    /// Includes other appended commits.
    pub fn add(&mut self, others: Self) {
        self.first = match (self.count, others.count) {
            (0, _) => others.first,
            (_, 0) => self.first,
            _ => self.first.min(others.first),
        };
        self.last = self.last.max(others.last);
        self.count += others.count;
    }
}

#[derive(Debug)]
struct Cached {
    state: AggregateState,
    bytes: u64,
}

/// The snapshots in the file, as far as this round has asked for them.
#[derive(Debug)]
enum StoredSnapshots {
    /// Nobody has asked yet.
    NotOpened,
    /// The file has none.
    Empty,
    /// The file as it was when it was first asked.
    Open(SnapshotReader),
}

/// The cache.
#[derive(Debug)]
pub struct StateCache {
    states: LruCache<StreamId, Cached>,
    bytes: u64,
    limits: CacheLimits,
    registry: AggregateRegistry,
    snapshots: StateSnapshots,
    /// The file as it was at the beginning of this round. It is opened when it is first needed.
    stored: StoredSnapshots,
    /// Encoded snapshots that are not in the file yet.
    leaving: HashMap<StreamId, Vec<u8>>,
    /// Snapshots that are being written to the file.
    writing: Option<Arc<SnapshotBatch>>,
    /// The sequence of EVENTS up to which all commits are known.
    through: u64,
    /// The sequence of EVENTS up to which the file is complete.
    saved_through: u64,
    /// The newest commit in any state.
    newest: Option<NamedCommit>,
    /// Whether a read or a write has failed. After most failures, redb refuses both until the file is opened again.
    file_failed: bool,
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
            stored: StoredSnapshots::NotOpened,
            leaving: HashMap::new(),
            writing: None,
            through: 0,
            saved_through: 0,
            newest: None,
            file_failed: false,
        }
    }

    /// The newest commit in any state, in memory or in the file.
    pub fn newest(&self) -> Option<NamedCommit> {
        self.newest
    }

    /// Learns from the file which commit was the last one in it, unless a newer one is known.
    pub fn recall(&mut self, in_file: Option<NamedCommit>) {
        self.newest = self.newest.or(in_file);
    }

    /// Decides whether snapshots are usable: they must be from EVENTS of `generation`, which ends at `last_sequence` and has a commit with the
    /// hash `found` at the sequence of [`StateCache::newest`]. If it has another commit there, it has lost its tail. States and snapshots are
    /// then dropped, like those of another generation, because their expected sequences might by chance match commits that were stored since.
    pub fn followed(
        &self,
        generation: &str,
        last_sequence: u64,
        found: Option<[u8; COMMIT_HASH_LENGTH]>,
    ) -> FollowedEvents {
        let intact =
            self.through <= last_sequence && self.newest.is_none_or(|newest| found == Some(newest.hash));
        FollowedEvents { generation: generation.to_owned(), last_sequence, aggregates: self.shapes(), intact }
    }

    /// Begins to follow EVENTS after [`StateSnapshots::follow`], which has returned how far the file is `complete`. If that call dropped the
    /// snapshots, the states in memory are dropped, too.
    pub fn follow_from(&mut self, complete: Option<u64>) {
        self.stored = StoredSnapshots::NotOpened;
        match complete {
            Some(through) => {
                self.saved_through = through;
                self.through = self.through.max(through);
            }
            None => {
                self.states.clear();
                self.leaving.clear();
                (self.bytes, self.through, self.saved_through, self.newest) = (0, 0, 0, None);
                self.file_failed = false;
            }
        }
    }

    /// The aggregates whose states are kept, each with the version of its state's shape.
    fn shapes(&self) -> String {
        let mut shapes = String::new();
        for each in self.registry.iter() {
            let (context, aggregate, version) = (each.context(), each.aggregate(), each.state_version());
            write!(shapes, "{context}.{aggregate} {version};").expect("text takes all text");
        }
        shapes
    }

    /// Takes a state out of the cache. While commands are decided on it, it is ahead of EVENTS, so nobody else may see it.
    pub fn take(&mut self, stream_id: &StreamId) -> Option<AggregateState> {
        match self.states.pop(stream_id) {
            Some(cached) => {
                self.bytes -= cached.bytes;
                Some(cached.state)
            }
            None => self.snapshot(stream_id),
        }
    }

    /// The state as of its last snapshot.
    pub fn snapshot(&mut self, stream_id: &StreamId) -> Option<AggregateState> {
        let aggregate = self.aggregate(stream_id)?;
        let writing = || self.writing.as_ref().and_then(|batch| batch.get(stream_id));
        if let Some(unsaved) = self.leaving.get(stream_id).map(Vec::as_slice).or_else(writing) {
            return AggregateState::decode(&aggregate, unsaved);
        }
        match self.stored(stream_id) {
            Ok(bytes) => AggregateState::decode(&aggregate, &bytes?),
            Err(error) => {
                self.give_file_up(&error);
                None
            }
        }
    }

    fn stored(&mut self, stream_id: &StreamId) -> Result<Option<Vec<u8>>, StoreError> {
        if self.file_failed {
            return Ok(None);
        }
        if matches!(self.stored, StoredSnapshots::NotOpened) {
            self.stored = self.snapshots.reader()?.map_or(StoredSnapshots::Empty, StoredSnapshots::Open);
        }
        match &self.stored {
            StoredSnapshots::Open(reader) => reader.get(stream_id),
            StoredSnapshots::NotOpened | StoredSnapshots::Empty => Ok(None),
        }
    }

    /// From now on, the file is neither written nor read until it is opened again. It stays complete up to the last successful write, and the
    /// next start continues from there, or sets a damaged file aside.
    fn give_file_up(&mut self, error: &StoreError) {
        tracing::warn!(
            %error,
            "the file of snapshots cannot be used any more; aggregates that are not in memory are read from EVENTS until this process \
             is started again"
        );
        self.snapshots.mark(error);
        self.file_failed = true;
        (self.stored, self.leaving) = (StoredSnapshots::NotOpened, HashMap::new());
    }

    /// Puts a settled state into the cache. The least recently used states make room for it.
    pub fn put(&mut self, stream_id: StreamId, mut state: AggregateState) {
        let Some(aggregate) = self.aggregate(&stream_id) else { return };
        if let Some(hash) = state.last_hash
            && self.newest.is_none_or(|newest| newest.sequence < state.last_sequence)
        {
            self.newest = Some(NamedCommit { sequence: state.last_sequence, hash });
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

    /// Without the file, a state that falls out of memory is gone. The aggregate's next command then costs a refused append or a read of its
    /// history.
    fn leave(&mut self, stream_id: StreamId, state: &AggregateState) {
        if !self.file_failed
            && state.version > state.snapshot_version
            && let Some(aggregate) = self.aggregate(&stream_id)
        {
            self.leaving.insert(stream_id, state.encode(&aggregate));
        }
    }

    /// Applies a commit that any handler appended. A state that lacks commits in between is dropped, because an append on it would only be
    /// refused.
    pub fn follow(&mut self, commit: &StoredCommit) {
        self.pass(commit.broker_sequence);
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

    /// Notes that everything up to `sequence` of EVENTS is known, apart from messages that cannot be read as commits.
    pub fn pass(&mut self, sequence: u64) {
        self.through = self.through.max(sequence);
    }

    /// Adds what this handler has just appended. Returns whether nothing else came up to its last commit.
    #[must_use]
    pub fn knows_also(&mut self, appended: Appended) -> bool {
        if self.through + appended.count < appended.last {
            return false;
        }
        self.pass(appended.last);
        true
    }

    /// Marks all states as possibly stale, because another handler may have been active.
    pub fn doubt_all(&mut self) {
        for (_, cached) in &mut self.states {
            cached.state.current = false;
        }
    }

    /// Some states were taken out and will not be put back, so only what the file and memory hold is known.
    pub fn back_to_file(&mut self) {
        self.through = self.saved_through;
    }

    /// The sequence of EVENTS up to which all commits are known, and after which to read.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Ends a round. The next one sees what others have written to the file.
    pub fn end_round(&mut self) {
        self.stored = StoredSnapshots::NotOpened;
    }

    /// Whether a batch should be written to the file.
    pub fn write_due(&self) -> bool {
        self.leaving.len() >= BATCH_MIN || self.save_due()
    }

    /// Whether so many snapshots wait for the file that no more may be added before they are written.
    pub fn must_write(&self) -> bool {
        self.leaving.len() >= LEAVING_MAX
    }

    fn save_due(&self) -> bool {
        !self.file_failed
            && self.through.saturating_sub(self.saved_through) >= self.limits.unsaved_commits.get() as u64
    }

    /// The next batch to write. If enough commits have come, or `all` is asked for, the file is complete with it. No other batch may be under
    /// way; [`StateCache::end_write`] reports the result. `None` if the file has failed.
    ///
    /// Nothing is decided in the meantime. For 100,000 changed states, a complete batch took 0.06 s at best and usually 0.2 s, on two cores
    /// that were also compiling (`examples/state_batch.rs`).
    pub fn begin_write(&mut self, all: bool) -> Option<Arc<SnapshotBatch>> {
        if self.file_failed {
            return None;
        }
        self.stored = StoredSnapshots::NotOpened;
        let complete = all || self.save_due();
        if complete {
            self.leave_all();
        }
        let mut snapshots: Vec<_> = self.leaving.drain().collect();
        snapshots.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        let through = complete.then_some(self.through);
        let batch = Arc::new(SnapshotBatch { snapshots, through, newest: self.newest });
        self.writing = Some(batch.clone());
        Some(batch)
    }

    /// Makes snapshots of all changed states. The states stay in memory.
    fn leave_all(&mut self) {
        for (stream_id, Cached { state, .. }) in &mut self.states {
            if state.version > state.snapshot_version
                && let Some(aggregate) = self.registry.get(stream_id.context(), stream_id.aggregate())
            {
                state.snapshot_version = state.version;
                self.leaving.insert(stream_id.clone(), state.encode(aggregate));
            }
        }
    }

    /// Ends the write that was begun; `written` is its result.
    pub fn end_write(&mut self, written: Result<(), StoreError>) {
        self.stored = StoredSnapshots::NotOpened;
        let Some(batch) = self.writing.take() else { return };
        match written {
            Ok(()) => self.saved_through = batch.through.unwrap_or(self.saved_through),
            Err(error) => self.give_file_up(&error),
        }
    }

    /// The file to which batches are written.
    pub fn snapshots(&self) -> &StateSnapshots {
        &self.snapshots
    }

    /// The number of states in memory.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether memory holds no state.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The memory that the states take, estimated.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn aggregate(&self, stream_id: &StreamId) -> Option<Arc<dyn AggregateType>> {
        self.registry.get(stream_id.context(), stream_id.aggregate()).cloned()
    }
}

/// The memory that a state takes. It is measured when the version has doubled, because encoding takes time, and estimated in proportion in
/// between.
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
    use std::{io, os::unix::fs::FileExt, path::Path};

    use millstream_proof::testing::account::Account;
    use millstream_runtime::metrics::Count;
    use millstream_store::sealed::{SEAL_LENGTH, seal};

    use super::*;

    fn cache(states: usize, bytes: u64) -> StateCache {
        let limits = CacheLimits {
            states: NonZeroUsize::new(states).unwrap(),
            bytes,
            unsaved_commits: NonZeroUsize::new(100).unwrap(),
        };
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

    fn follow(cache: &mut StateCache, generation: &str, last: u64, found: Option<[u8; COMMIT_HASH_LENGTH]>) {
        cache.recall(cache.snapshots().newest().unwrap());
        let events = cache.followed(generation, last, found);
        cache.follow_from(cache.snapshots().follow(&events).unwrap());
    }

    fn save(cache: &mut StateCache) {
        let batch = cache.begin_write(true).unwrap();
        cache.snapshots().write(&batch).unwrap();
        cache.end_write(Ok(()));
    }

    #[test]
    fn what_falls_out_of_memory_comes_back_and_is_not_known_to_be_current() {
        let mut cache = cache(1, u64::MAX);
        put(&mut cache, "old", 3);
        put(&mut cache, "new", 1);
        assert_eq!(cache.len(), 1);
        for written in [false, true] {
            if written {
                save(&mut cache);
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
        follow(&mut cache, "g", 0, None);
        put(&mut cache, "one", 1);
        put(&mut cache, "two", 3);
        save(&mut cache);
        let newest = NamedCommit { sequence: 30, hash: [7; COMMIT_HASH_LENGTH] };
        assert_eq!(cache.newest(), Some(newest));
        follow(&mut cache, "g", 40, Some(newest.hash));
        assert_eq!(cache.len(), 2, "the commit is there");
        follow(&mut cache, "g", 40, Some([8; COMMIT_HASH_LENGTH]));
        assert_eq!((cache.len(), cache.bytes(), cache.through()), (0, 0, 0));
        assert!(cache.take(&id("one")).is_none(), "its snapshot is gone too");
    }

    #[test]
    fn nothing_is_current_after_a_turn() {
        let mut cache = cache(10, u64::MAX);
        put(&mut cache, "one", 1);
        cache.doubt_all();
        assert!(!cache.take(&id("one")).unwrap().current);
    }

    /// The file once said that it was complete up to the newest commit whenever a thousand states had fallen out of memory, though those
    /// that stayed there were not in it.
    #[test]
    fn file_is_complete_only_with_all_that_changed() {
        let mut cache = cache(1, u64::MAX);
        follow(&mut cache, "g", 1000, None);
        let through = |cache: &mut StateCache| {
            follow(cache, "g", 1000, cache.newest.map(|newest| newest.hash));
            cache.saved_through
        };
        for number in 0..BATCH_MIN as u64 {
            put(&mut cache, &format!("left-{number}"), 1);
        }
        put(&mut cache, "stays", 1);
        cache.pass(99);
        assert!(cache.write_due());
        let batch = cache.begin_write(false).unwrap();
        assert_eq!((batch.snapshots.len(), batch.through), (BATCH_MIN, None));
        cache.snapshots().write(&batch).unwrap();
        cache.end_write(Ok(()));
        assert_eq!(through(&mut cache), 0);
        assert!(!cache.write_due());
        cache.pass(100);
        assert!(cache.write_due());
        let batch = cache.begin_write(false).unwrap();
        assert_eq!((batch.snapshots.len(), batch.through), (1, Some(100)));
        cache.snapshots().write(&batch).unwrap();
        cache.end_write(Ok(()));
        assert_eq!(through(&mut cache), 100);
    }

    /// Each failed batch once waited for the next write, which redb refused as well: memory grew without bound.
    #[test]
    fn after_a_failed_write_nothing_more_waits_for_the_file() {
        let mut cache = cache(1, u64::MAX);
        follow(&mut cache, "g", 1_000_000, None);
        put(&mut cache, "saved", 1);
        cache.pass(10);
        save(&mut cache);
        put(&mut cache, "unsaved", 1);
        let _batch = cache.begin_write(true).unwrap();
        put(&mut cache, "left-meanwhile", 1);
        cache.end_write(Err(StoreError::from_io(Path::new("x"), io::ErrorKind::StorageFull.into())));
        for number in 0..2 * LEAVING_MAX as u64 {
            put(&mut cache, &number.to_string(), 1);
            cache.pass(11 + number);
            assert!(!cache.write_due() && !cache.must_write());
        }
        assert!(cache.begin_write(false).is_none() && cache.begin_write(true).is_none());
        assert_eq!((cache.len(), cache.leaving.len()), (1, 0));
        assert!(cache.take(&id("unsaved")).is_none(), "its history has to be read");
        assert_eq!(cache.saved_through, 10, "where the next start reads on");
    }

    /// redb panics on a page of a kind that it does not know, and such a panic once ended the handler. What redb reads when it opens a
    /// file depends on how it was compiled, so pages are damaged before that and after it.
    #[test]
    fn file_with_a_damaged_page_is_given_up_or_set_aside() {
        const PAGE: usize = 4096;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.redb");
        let damaged = Count::default();
        // redb keeps no page in memory, and sees what changes on the disk.
        let open = || StateCache {
            snapshots: StateSnapshots::open(&path, 0, &damaged).unwrap(),
            ..cache(1, u64::MAX)
        };
        let begin = |cache: &mut StateCache| follow(cache, "g", 1000, Some([7; COMMIT_HASH_LENGTH]));
        let names: Vec<_> = (0..200_u64).map(|number| number.to_string()).collect();
        let mut whole = open();
        begin(&mut whole);
        for name in &names {
            put(&mut whole, name, 1);
        }
        whole.pass(10);
        save(&mut whole);
        drop(whole);
        let bytes = std::fs::read(&path).unwrap();
        let pages = bytes.chunks(PAGE).enumerate().skip(1);
        let used = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0)).map(|(page, _)| page);
        let (mut set_aside, mut given_up) = (0, 0);
        for (page, opened_before) in used.flat_map(|page| [(page, false), (page, true)]) {
            std::fs::write(&path, &bytes).unwrap();
            let before = damaged.get();
            let mut opened = opened_before.then(open);
            if let Some(cache) = &mut opened {
                begin(cache);
            }
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0xee; PAGE], (page * PAGE) as u64).unwrap();
            let mut cache = opened.unwrap_or_else(|| {
                let mut cache = open();
                begin(&mut cache);
                cache
            });
            let at_the_start = damaged.get() - before;
            let missing = names.iter().filter(|name| cache.snapshot(&id(name)).is_none()).count();
            let failed = cache.file_failed;
            assert_eq!(missing > 0, at_the_start > 0 || failed, "page {page}, {missing} missing");
            drop(cache);
            drop(open());
            assert!(damaged.get() > before || missing == 0, "page {page}: the next start takes it for whole");
            (set_aside, given_up) = (set_aside + at_the_start, given_up + u64::from(failed));
        }
        assert!(set_aside > 0 && given_up > 0, "{set_aside} set aside, {given_up} given up");
    }

    #[test]
    fn a_snapshot_of_another_shape_is_not_read() {
        let aggregate = cache(1, 1).aggregate(&id("one")).unwrap();
        let mut bytes = AggregateState::initial(&aggregate).encode(&aggregate);
        assert!(AggregateState::decode(&aggregate, &bytes).is_some());
        // The first field of the array: the version of the state's shape.
        *bytes.get_mut(1).unwrap() += 1;
        assert!(AggregateState::decode(&aggregate, &bytes).is_none(), "a byte has changed");
        let mut other_shape = bytes.get(..bytes.len() - SEAL_LENGTH).unwrap().to_vec();
        seal(&[], &mut other_shape);
        assert!(AggregateState::decode(&aggregate, &other_shape).is_none());
    }
}
