//! Collects which rows of watched views have changed and are not announced yet. The writing thread notes keys after each commit, and the
//! announcer takes everything collected so far. So the thread never waits, and what is collected stays bounded even if announcing is slow.
//!
//! Nothing is noted for a view that nobody watches, nor for one that is being built: when it is complete, any of its rows may have changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use millstream_contract::{
    position::StreamPosition,
    view_change::{KEYS_BYTES_MAX, KEYS_MAX, ViewChange},
};
use millstream_store::read_store::{TableName, Uncommitted};
use tokio::sync::Notify;

use super::{projection_set::ProjectionSet, status::StatusBoard};

/// The changes of the views of a process. Clones share it.
#[derive(Clone)]
pub struct ChangedRows(Arc<Shared>);

struct Shared {
    views: Vec<NotedView>,
    by_table: HashMap<TableName, usize>,
    by_name: HashMap<(String, String), usize>,
    /// The number of watched views.
    watched: AtomicUsize,
    statuses: StatusBoard,
    /// By index of the view.
    pending: Mutex<BTreeMap<usize, Pending>>,
    noted: Notify,
}

struct NotedView {
    context: String,
    view: String,
    member: usize,
    is_watched: AtomicBool,
}

/// Changes of a view that will be announced together.
struct Pending {
    position: StreamPosition,
    /// `None` if there are too many.
    keys: Option<BTreeSet<Arc<str>>>,
    bytes: usize,
}

/// Changes of one view to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToTell {
    /// The context.
    pub context: String,
    /// The view.
    pub view: String,
    /// The changes.
    pub change: ViewChange,
}

impl ChangedRows {
    pub(super) fn new(set: &ProjectionSet, statuses: &StatusBoard) -> Self {
        let views = set.views.iter().map(|each| NotedView {
            context: each.context.clone(),
            view: each.view.clone(),
            member: each.member,
            is_watched: AtomicBool::new(false),
        });
        let names = (0..).zip(&set.views);
        Self(Arc::new(Shared {
            views: views.collect(),
            by_table: names.clone().map(|(index, each)| (each.table.clone(), index)).collect(),
            by_name: names.map(|(index, each)| ((each.context.clone(), each.view.clone()), index)).collect(),
            watched: AtomicUsize::new(0),
            statuses: statuses.clone(),
            pending: Mutex::default(),
            noted: Notify::new(),
        }))
    }

    /// Notes whether somebody watches a view; returns false if there is no view with that name. At the beginning, any row may have changed
    /// since the watcher read it.
    pub fn watch(&self, context: &str, view: &str, watched: bool) -> bool {
        let name = (context.to_owned(), view.to_owned());
        let Some(index) = self.0.by_name.get(&name).copied() else { return false };
        let Some(view) = self.0.views.get(index) else { return false };
        if view.is_watched.swap(watched, Ordering::SeqCst) == watched {
            return true;
        }
        if watched {
            self.0.watched.fetch_add(1, Ordering::SeqCst);
            // The writer did not note what was committed before the swap. The position that is read after it includes these changes.
            self.note_any(index);
        } else {
            self.0.watched.fetch_sub(1, Ordering::SeqCst);
        }
        true
    }

    /// Notes the keys of a commit, after the statuses have announced its positions. In projections that this commit completed, any row may have
    /// changed.
    pub(super) fn note(&self, changes: &Uncommitted, built: &[usize]) {
        if self.0.watched.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut pending = self.pending();
        for (table, keys) in changes.keys() {
            let index = self.0.by_table.get(table).copied().filter(|_| !keys.is_empty());
            if let Some((index, position)) = index.and_then(|index| Some((index, self.noted_at(index)?))) {
                pending.entry(index).or_insert_with(Pending::nothing).add(position, keys);
            }
        }
        let of_built = (0..).zip(&self.0.views).filter(|(_, view)| built.contains(&view.member));
        for (index, _) in of_built {
            if let Some(position) = self.noted_at(index) {
                pending.entry(index).or_insert_with(Pending::nothing).add_any(position);
            }
        }
        let any = !pending.is_empty();
        drop(pending);
        if any {
            self.0.noted.notify_one();
        }
    }

    fn note_any(&self, index: usize) {
        if let Some(position) = self.noted_at(index) {
            self.pending().entry(index).or_insert_with(Pending::nothing).add_any(position);
            self.0.noted.notify_one();
        }
    }

    /// The position of a view whose changes are noted, because somebody watches it and it is complete. While it is being built there is nothing
    /// to announce; its completion is announced.
    fn noted_at(&self, index: usize) -> Option<StreamPosition> {
        let view = self.0.views.get(index).filter(|view| view.is_watched.load(Ordering::SeqCst))?;
        self.0.statuses.whole_position(view.member)
    }

    /// Waits for changes and takes all of them.
    pub async fn taken(&self) -> Vec<ToTell> {
        loop {
            let pending = std::mem::take(&mut *self.pending());
            if !pending.is_empty() {
                return pending
                    .into_iter()
                    .filter_map(|(index, pending)| self.to_tell(index, pending))
                    .collect();
            }
            self.0.noted.notified().await;
        }
    }

    fn to_tell(&self, index: usize, pending: Pending) -> Option<ToTell> {
        let NotedView { context, view, .. } = self.0.views.get(index)?;
        let Pending { position, keys, .. } = pending;
        let keys = keys.map(|keys| keys.iter().map(|key| (**key).to_owned()).collect());
        let change = ViewChange { position, keys };
        Some(ToTell { context: context.clone(), view: view.clone(), change })
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<usize, Pending>> {
        // Each change leaves the state complete, so a poisoned lock does no harm.
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn nothing() -> Self {
        Self { position: StreamPosition::new("", "", 0), keys: Some(BTreeSet::new()), bytes: 0 }
    }

    fn add(&mut self, position: StreamPosition, keys: &[Arc<str>]) {
        self.position = position;
        let Some(noted) = &mut self.keys else { return };
        for key in keys.iter().take(KEYS_MAX + 1) {
            if noted.insert(Arc::clone(key)) {
                self.bytes += key.len();
            }
        }
        if noted.len() > KEYS_MAX || self.bytes > KEYS_BYTES_MAX {
            self.keys = None;
        }
    }

    fn add_any(&mut self, position: StreamPosition) {
        self.position = position;
        self.keys = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: std::ops::Range<usize>) -> Vec<Arc<str>> {
        numbers.map(|number| format!("key-{number}").into()).collect()
    }

    #[test]
    fn what_comes_together_is_one_change_of_bounded_size() {
        let position = |sequence| StreamPosition::new("EVENTS", "01JD", sequence);
        let mut pending = Pending::nothing();
        pending.add(position(1), &keys(0..2));
        pending.add(position(2), &keys(1..3));
        assert_eq!(pending.keys.as_ref().map(BTreeSet::len), Some(3));
        assert_eq!(pending.position, position(2));
        pending.add(position(3), &keys(0..KEYS_MAX));
        assert_eq!(pending.keys.as_ref().map(BTreeSet::len), Some(KEYS_MAX));
        pending.add(position(4), &keys(KEYS_MAX..KEYS_MAX + 1));
        assert_eq!(pending.keys, None, "one more is many");
        pending.add(position(5), &keys(0..1));
        assert_eq!((pending.keys, pending.position), (None, position(5)), "and stays many");

        let mut long = Pending::nothing();
        long.add(position(1), &["x".repeat(KEYS_BYTES_MAX + 1).into()]);
        assert_eq!(long.keys, None);
    }
}
