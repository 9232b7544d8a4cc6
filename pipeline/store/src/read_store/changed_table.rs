//! The changes of one table in one transaction. They are found by key while projections work, and sorted by key when they are
//! written.

use std::{
    cell::OnceCell,
    collections::BTreeSet,
    ops::{Bound, Deref},
    sync::Arc,
};

use bytes::Bytes;
use hashbrown::HashMap;
use millstream_domain::projection::DecodedRow;

use super::TableName;

/// What will happen to a key.
pub(super) enum Change {
    Removed,
    Bytes(Vec<u8>),
    Decoded(DecodedRow),
}

impl Change {
    /// The row afterwards.
    pub(super) fn row(&self) -> Option<RowBytes<'_>> {
        match self {
            Self::Removed => None,
            Self::Bytes(value) => Some(RowBytes::Borrowed(value)),
            Self::Decoded(row) => Some(RowBytes::Shared(row.bytes())),
        }
    }
}

/// The JSON of a row.
pub enum RowBytes<'c> {
    /// As it was written.
    Borrowed(&'c [u8]),
    /// Made from the decoded row, and kept with it.
    Shared(Bytes),
}

impl Deref for RowBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A table that is being changed. Nearly all keys are looked up one by one, so they are hashed, and sorted only for a scan.
pub(super) struct ChangingTable {
    name: TableName,
    changes: HashMap<Arc<str>, Change>,
    /// The same keys in order, once a scan has asked.
    ordered: OnceCell<BTreeSet<Arc<str>>>,
}

impl ChangingTable {
    /// No changes yet.
    pub(super) fn new(name: TableName) -> Self {
        Self { name, changes: HashMap::new(), ordered: OnceCell::new() }
    }

    pub(super) fn name(&self) -> &TableName {
        &self.name
    }

    /// How many keys are changed.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Change> {
        self.changes.get(key)
    }

    /// Sets what will happen to `key`, and replaces what was set before.
    pub(super) fn set(&mut self, key: &str, change: Change) {
        if let Some(place) = self.changes.get_mut(key) {
            *place = change;
            return;
        }
        let key = Arc::from(key);
        if let Some(ordered) = self.ordered.get_mut() {
            ordered.insert(Arc::clone(&key));
        }
        self.changes.insert(key, change);
    }

    /// The changes of keys that start with `prefix`, in the order of the keys.
    pub(super) fn starting_with<'t>(
        &'t self,
        prefix: &'t str,
    ) -> impl Iterator<Item = (&'t str, &'t Change)> {
        let ordered = self.ordered.get_or_init(|| self.changes.keys().cloned().collect());
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let keys = ordered.range::<str, _>(from).take_while(move |key| key.starts_with(prefix));
        keys.filter_map(|key| Some((&**key, self.changes.get(key)?)))
    }

    /// The changes in the form in which they are written.
    pub(super) fn finish(self) -> ChangedTable {
        let mut keys: Vec<_> = self.changes.keys().cloned().collect();
        keys.sort_unstable();
        ChangedTable { name: self.name, changes: self.changes, keys }
    }
}

/// A table with all its changes.
pub(super) struct ChangedTable {
    name: TableName,
    changes: HashMap<Arc<str>, Change>,
    /// In order.
    keys: Vec<Arc<str>>,
}

impl ChangedTable {
    pub(super) fn name(&self) -> &TableName {
        &self.name
    }

    /// How many keys are changed.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The changed keys, in order.
    pub(super) fn keys(&self) -> &[Arc<str>] {
        &self.keys
    }

    pub(super) fn get(&self, key: &str) -> Option<&Change> {
        self.changes.get(key)
    }

    /// All changes, in the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.from(0)
    }

    /// The changes of keys that start with `prefix`, in the order of the keys.
    pub(super) fn starting_with<'t>(
        &'t self,
        prefix: &'t str,
    ) -> impl Iterator<Item = (&'t str, &'t Change)> {
        let first = self.keys.partition_point(|key| &**key < prefix);
        self.from(first).take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn from(&self, first: usize) -> impl Iterator<Item = (&str, &Change)> {
        let keys = self.keys.iter().skip(first);
        keys.filter_map(|key| Some((&**key, self.changes.get(key)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_store::ProjectionId;

    fn table() -> ChangingTable {
        ChangingTable::new(TableName::new(&ProjectionId::of_context("test", "counts"), "counts"))
    }

    fn bytes(text: &str) -> Change {
        Change::Bytes(text.as_bytes().to_vec())
    }

    fn texts<'t>(changes: impl Iterator<Item = (&'t str, &'t Change)>) -> Vec<String> {
        let text = |change: &Change| {
            change.row().map_or("removed".to_owned(), |row| String::from_utf8_lossy(&row).into_owned())
        };
        changes.map(|(key, change)| format!("{key}={}", text(change))).collect()
    }

    #[test]
    fn scan_is_in_order_and_knows_what_was_changed_before_and_after_the_first_one() {
        let mut table = table();
        for (key, value) in [("b/2", "1"), ("a/1", "1"), ("b/1", "1"), ("b", "1"), ("c", "1")] {
            table.set(key, bytes(value));
        }
        assert_eq!(texts(table.starting_with("b/")), ["b/1=1", "b/2=1"]);
        table.set("b/2", Change::Removed);
        table.set("b/10", bytes("2"));
        assert_eq!(texts(table.starting_with("b/")), ["b/1=1", "b/10=2", "b/2=removed"]);
        assert_eq!(texts(table.starting_with("d")), [""; 0]);
        assert_eq!(table.len(), 6);
        let finished = table.finish();
        assert_eq!(texts(finished.iter()), ["a/1=1", "b=1", "b/1=1", "b/10=2", "b/2=removed", "c=1"]);
        assert_eq!(texts(finished.starting_with("b/")), ["b/1=1", "b/10=2", "b/2=removed"]);
        assert_eq!(finished.len(), 6);
        assert!(finished.get("b/3").is_none() && finished.get("c").is_some());
    }
}
