//! States of recently used aggregates, bounded in number.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::{aggregate_state::AggregateState, contract::subject::StreamId};

/// Keeps the states used last. What falls out is folded again from EVENTS when it is needed.
#[derive(Debug)]
pub struct StateCache {
    states: LruCache<StreamId, AggregateState>,
}

impl StateCache {
    /// A cache of at most `capacity` states.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { states: LruCache::new(capacity) }
    }

    /// Takes a state out: while commands are decided on it, nobody else may see it.
    pub fn take(&mut self, stream_id: &StreamId) -> Option<AggregateState> {
        self.states.pop(stream_id)
    }

    /// Puts a settled state in.
    pub fn put(&mut self, stream_id: StreamId, state: AggregateState) {
        self.states.put(stream_id, state);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Forgets all: another handler may have been active meanwhile.
    pub fn clear(&mut self) {
        self.states.clear();
    }
}
