//! Reading: single rows, pages of rows, checkpoints; all as of one commit.

use std::{
    ops::{Bound, ControlFlow},
    path::Path,
    sync::Arc,
};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, TableError, TableHandle};

use super::{Checkpoint, ProjectionId, StoreError, TableName, damage::Damage};
use crate::{sealed::unseal_json, text_key::TextKey};

/// Keys and JSON values with their checksums. `'static` because handles of a snapshot keep their transaction alive.
pub(super) type RowTable = ReadOnlyTable<TextKey, &'static [u8]>;

/// The table of checkpoints. No projection's table can be called so: contexts start with a letter or are `*`.
pub(super) const CHECKPOINTS: &str = "$checkpoints";

pub(super) fn definition(name: &str) -> TableDefinition<'_, TextKey, &'static [u8]> {
    TableDefinition::new(name)
}

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By rising keys.
    Ascending,
    /// By falling keys.
    Descending,
}

/// Which rows of a table, by their keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyRange<'a> {
    /// Keys from here on.
    pub lower: Bound<&'a str>,
    /// Keys up to here.
    pub upper: Bound<&'a str>,
}

/// The file as of one commit.
pub struct Snapshot {
    transaction: ReadTransaction,
    path: Arc<Path>,
    damage: Damage,
}

impl Snapshot {
    pub(super) fn new(transaction: ReadTransaction, path: Arc<Path>, damage: Damage) -> Self {
        Self { transaction, path, damage }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A handle to a table; `None` while nothing was ever written to it.
    pub(super) fn table(&self, name: &str) -> Result<Option<RowTable>, StoreError> {
        match self.transaction.open_table(definition(name)) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(StoreError::from_table(&self.path, error)),
        }
    }

    /// The value of one key.
    ///
    /// # Errors
    /// [`StoreError`] when the file can no longer be read.
    pub fn get(&self, table: &TableName, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.damage.noted(|| {
            let Some(rows) = self.table(table.as_str())? else { return Ok(None) };
            let value = rows.get(key).map_err(|source| StoreError::from_storage(&self.path, source))?;
            value.map(|value| Ok(self.row(table.as_str(), key, value.value())?.to_vec())).transpose()
        })
    }

    /// The row that is stored as `stored`, once its checksum has shown that it is what was written.
    pub(super) fn row<'v>(&self, table: &str, key: &str, stored: &'v [u8]) -> Result<&'v [u8], StoreError> {
        unseal_json(key.as_bytes(), stored).ok_or_else(|| {
            let detail = format!("the row {key:?} of {table} is not what was written");
            self.damage.note(&detail);
            StoreError::Damaged { path: self.path.to_path_buf(), detail }
        })
    }

    /// Shows the rows of a range to `visit`, one after the other, until it breaks or there are no more. Nothing is copied.
    ///
    /// # Errors
    /// [`StoreError`] when the file can no longer be read.
    pub fn visit(
        &self,
        table: &TableName,
        range: KeyRange<'_>,
        direction: Direction,
        mut visit: impl FnMut(&str, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        self.damage.noted(|| {
            let Some(stored) = self.table(table.as_str())? else { return Ok(()) };
            let failed = |source| StoreError::from_storage(&self.path, source);
            let mut rows =
                ReadableTable::range::<&str>(&stored, (range.lower, range.upper)).map_err(failed)?;
            loop {
                let row = match direction {
                    Direction::Ascending => rows.next(),
                    Direction::Descending => rows.next_back(),
                };
                let Some((key, value)) = row.transpose().map_err(failed)? else { return Ok(()) };
                let row = self.row(table.as_str(), key.value(), value.value())?;
                if visit(key.value(), row).is_break() {
                    return Ok(());
                }
            }
        })
    }

    /// How far a projection has come; `None` when it never started.
    ///
    /// # Errors
    /// [`StoreError`], also when the checkpoint does not decode.
    pub fn checkpoint(&self, projection: &ProjectionId) -> Result<Option<Checkpoint>, StoreError> {
        let failed = |source| StoreError::from_storage(&self.path, source);
        self.damage.noted(|| {
            let Some(table) = self.table(CHECKPOINTS)? else { return Ok(None) };
            let Some(value) = table.get(projection.as_str()).map_err(failed)? else { return Ok(None) };
            let checkpoint = self.row(CHECKPOINTS, projection.as_str(), value.value())?;
            parse_checkpoint(&self.path, projection.as_str(), checkpoint).map(Some)
        })
    }

    /// All tables except that of the checkpoints, by name.
    pub(super) fn row_tables(&self) -> Result<Vec<String>, StoreError> {
        let tables =
            self.transaction.list_tables().map_err(|source| StoreError::from_storage(&self.path, source))?;
        let mut names: Vec<String> =
            tables.map(|table| table.name().to_owned()).filter(|name| name != CHECKPOINTS).collect();
        names.sort_unstable();
        Ok(names)
    }
}

pub(super) fn parse_checkpoint(path: &Path, name: &str, value: &[u8]) -> Result<Checkpoint, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        detail: format!("checkpoint of {name}: {error}"),
    })
}

impl KeyRange<'_> {
    /// redb takes a range whose start lies behind its end for a mistake of the program; here it holds no rows.
    fn is_empty(&self) -> bool {
        match (self.lower, self.upper) {
            (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
            (
                Bound::Included(lower) | Bound::Excluded(lower),
                Bound::Included(upper) | Bound::Excluded(upper),
            ) => lower >= upper,
            _ => false,
        }
    }
}
