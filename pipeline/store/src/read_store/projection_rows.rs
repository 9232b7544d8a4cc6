//! The rows of one projection during one transaction, in three layers: what this transaction has changed so far; below it, what the previous
//! transaction changed, if that is still being written; and at the bottom, what the file has.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use millstream_domain::projection::{DecodedRow, FoundRow, ProjectionError, Rows};

use super::{
    Direction, KeyRange, ProjectionId, Snapshot, StoreError, TableName, Uncommitted,
    changed_table::{Change, ChangedTable, ChangingTable},
    snapshot::RowTable,
};

/// Reads from a snapshot and collects changes in memory, so that each changed key is written once and in the order of the keys, however often
/// it changed. Dropping it discards the changes.
pub struct ProjectionRows<'s> {
    snapshot: &'s Snapshot,
    beneath: Option<&'s Uncommitted>,
    projection: ProjectionId,
    tables: Vec<TouchedTable<'s>>,
    undeclared: Option<String>,
}

/// A table that the projection may touch.
struct TouchedTable<'s> {
    short_name: Box<str>,
    changed: ChangingTable,
    beneath: Option<&'s ChangedTable>,
    stored: OnceCell<Option<RowTable>>,
}

impl<'s> ProjectionRows<'s> {
    /// No changes yet, over `snapshot`. `tables` are all tables that the projection may touch.
    pub fn new<'t>(
        snapshot: &'s Snapshot,
        projection: &ProjectionId,
        tables: impl IntoIterator<Item = &'t str>,
    ) -> Self {
        Self::above(snapshot, None, projection, tables)
    }

    /// As [`Self::new`], but the changes of the previous transaction, `beneath`, may not be in the snapshot yet.
    pub fn above<'t>(
        snapshot: &'s Snapshot,
        beneath: Option<&'s Uncommitted>,
        projection: &ProjectionId,
        tables: impl IntoIterator<Item = &'t str>,
    ) -> Self {
        let projection = projection.clone();
        let mut rows = Self { snapshot, beneath, projection, tables: Vec::new(), undeclared: None };
        for table in tables {
            rows.declare(table);
        }
        rows
    }

    /// Adds a table that the projection may touch. Nothing happens if it is already there.
    pub fn declare(&mut self, table: &str) {
        if self.declared(table).is_err() {
            let name = TableName::new(&self.projection, table);
            self.tables.push(TouchedTable {
                short_name: table.into(),
                beneath: self.beneath.and_then(|beneath| beneath.table(&name)),
                changed: ChangingTable::new(name),
                stored: OnceCell::new(),
            });
        }
    }

    /// The first table that was written without being declared, if any. This is the projection's fault, and its changes are incomplete then.
    pub fn undeclared_table(&self) -> Option<&str> {
        self.undeclared.as_deref()
    }

    /// How many rows it has changed.
    pub fn changed(&self) -> usize {
        self.tables.iter().map(|table| table.changed.len()).sum()
    }

    pub(super) fn into_changed_tables(self) -> impl Iterator<Item = ChangedTable> {
        let changed = self.tables.into_iter().map(|table| table.changed).filter(|changed| changed.len() > 0);
        changed.map(ChangingTable::finish)
    }

    fn declared<'t>(&self, table: &'t str) -> Result<&TouchedTable<'s>, &'t str> {
        self.tables.iter().find(|each| &*each.short_name == table).ok_or(table)
    }

    fn change(&mut self, table: &str, key: &str, change: Change) {
        match self.tables.iter_mut().find(|each| &*each.short_name == table) {
            Some(TouchedTable { changed, .. }) => changed.set(key, change),
            None => {
                self.undeclared.get_or_insert_with(|| table.to_owned());
            }
        }
    }

    fn stored<'t>(&self, table: &'t TouchedTable<'s>) -> Result<Option<&'t RowTable>, StoreError> {
        if let Some(stored) = table.stored.get() {
            return Ok(stored.as_ref());
        }
        let opened = self.snapshot.table(table.changed.name().as_str())?;
        Ok(table.stored.get_or_init(|| opened).as_ref())
    }
}

impl Rows for ProjectionRows<'_> {
    fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, ProjectionError> {
        Ok(self.find(table, key)?.map(|found| match found {
            FoundRow::Bytes(value) => value,
            FoundRow::Decoded(row) => row.bytes().to_vec(),
        }))
    }

    fn find(&self, table: &str, key: &str) -> Result<Option<FoundRow>, ProjectionError> {
        let table = self.declared(table).map_err(undeclared)?;
        if let Some(change) = table.changed.get(key) {
            return Ok(match change {
                Change::Removed => None,
                Change::Bytes(value) => Some(FoundRow::Bytes(value.clone())),
                Change::Decoded(row) => Some(FoundRow::Decoded(row.clone())),
            });
        }
        if let Some(change) = table.beneath.and_then(|beneath| beneath.get(key)) {
            // Only its bytes are copied, because changing the decoded row itself would change what is being written.
            return Ok(change.row().map(|value| FoundRow::Bytes(value.to_vec())));
        }
        let Some(stored) = self.stored(table).map_err(store_failed)? else { return Ok(None) };
        let value = self.snapshot.value(table.changed.name().as_str(), stored, key).map_err(store_failed)?;
        Ok(value.map(FoundRow::Bytes))
    }

    fn put(&mut self, table: &str, key: &str, value: Vec<u8>) {
        self.change(table, key, Change::Bytes(value));
    }

    fn put_decoded(&mut self, table: &str, key: &str, row: DecodedRow) {
        self.change(table, key, Change::Decoded(row));
    }

    fn delete(&mut self, table: &str, key: &str) {
        self.change(table, key, Change::Removed);
    }

    fn scan(&self, table: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, ProjectionError> {
        let table = self.declared(table).map_err(undeclared)?;
        let beneath = table.beneath.into_iter().flat_map(|beneath| beneath.starting_with(prefix));
        // If both layers change a key, the later one wins.
        let changes: BTreeMap<&str, &Change> = beneath.chain(table.changed.starting_with(prefix)).collect();
        let mut changes = changes.into_iter().map(|(key, change)| (key, change.row())).peekable();
        let mut rows = Vec::new();
        if let Some(stored) = self.stored(table).map_err(store_failed)? {
            let from = KeyRange { lower: Bound::Included(prefix), upper: Bound::Unbounded };
            let merged = self.snapshot.each_stored(stored, from, Direction::Ascending, |key, stored| {
                if !key.starts_with(prefix) {
                    return Ok(ControlFlow::Break(()));
                }
                while let Some((new_key, change)) = changes.next_if(|(changed, _)| *changed < key) {
                    rows.extend(change.map(|value| (new_key.to_owned(), value.to_vec())));
                }
                match changes.next_if(|(changed, _)| *changed == key) {
                    Some((_, change)) => rows.extend(change.map(|value| (key.to_owned(), value.to_vec()))),
                    None => {
                        let row = self.snapshot.row(table.changed.name().as_str(), key, stored)?;
                        rows.push((key.to_owned(), row.to_vec()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            });
            merged.map_err(store_failed)?;
        }
        rows.extend(changes.filter_map(|(key, change)| Some((key.to_owned(), change?.to_vec()))));
        Ok(rows)
    }
}

fn store_failed(error: StoreError) -> ProjectionError {
    ProjectionError::Store(Box::new(error))
}

fn undeclared(table: &str) -> ProjectionError {
    ProjectionError::Inconsistent(format!("the projection uses table {table:?} but does not declare it"))
}
