//! Reading: single rows, pages of rows, and checkpoints, all as of one commit.

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

/// The table of checkpoints. No projection's table can have this name, because contexts start with a letter or are `*`.
pub(super) const CHECKPOINTS: &str = "$checkpoints";

pub(super) fn definition(name: &str) -> TableDefinition<'_, TextKey, &'static [u8]> {
    TableDefinition::new(name)
}

/// Which end of a range comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By increasing keys.
    Ascending,
    /// By decreasing keys.
    Descending,
}

/// Which rows of a table, by their keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyRange<'a> {
    /// Keys from this one on.
    pub lower: Bound<&'a str>,
    /// Keys up to this one.
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

    /// Runs code of redb only, and notes if it shows damage.
    pub(super) fn noted<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.damage.noted(work)
    }

    /// A handle to a table; `None` if nothing was ever written to it.
    pub(super) fn table(&self, name: &str) -> Result<Option<RowTable>, StoreError> {
        self.noted(|| match self.transaction.open_table(definition(name)) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(StoreError::from_table(&self.path, error)),
        })
    }

    /// The value of one key.
    ///
    /// # Errors
    /// [`StoreError`] when the file can no longer be read.
    pub fn get(&self, table: &TableName, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.table(table.as_str())?.map_or(Ok(None), |rows| self.value(table.as_str(), &rows, key))
    }

    /// The value of one key in `rows`, the redb table of `table`.
    pub(super) fn value(
        &self,
        table: &str,
        rows: &RowTable,
        key: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.noted(|| {
            let value = rows.get(key).map_err(|source| StoreError::from_storage(&self.path, source))?;
            value.map(|value| Ok(self.unsealed(table, key, value.value())?.to_vec())).transpose()
        })
    }

    /// The row in `stored`, after its checksum has shown that it is unaltered.
    pub(super) fn row<'v>(&self, table: &str, key: &str, stored: &'v [u8]) -> Result<&'v [u8], StoreError> {
        self.noted(|| self.unsealed(table, key, stored))
    }

    fn unsealed<'v>(&self, table: &str, key: &str, stored: &'v [u8]) -> Result<&'v [u8], StoreError> {
        unseal_json(key.as_bytes(), stored).ok_or_else(|| StoreError::Damaged {
            path: self.path.to_path_buf(),
            detail: format!("the row {key:?} of {table} is not what was written"),
        })
    }

    /// Passes the rows of a range to `visit`, one after the other, until it breaks or there are no more. Nothing is copied.
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
        let name = table.as_str();
        let Some(rows) = self.table(name)? else { return Ok(()) };
        self.each_stored(&rows, range, direction, |key, stored| Ok(visit(key, self.row(name, key, stored)?)))
    }

    /// Passes what is stored in a range, unchecked, to `visit`, until it breaks, fails, or there is no more. A panic of `visit` says nothing
    /// about the file, so only redb's own work is guarded.
    pub(super) fn each_stored(
        &self,
        rows: &RowTable,
        range: KeyRange<'_>,
        direction: Direction,
        mut visit: impl FnMut(&str, &[u8]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let failed = |source| StoreError::from_storage(&self.path, source);
        let range = (range.lower, range.upper);
        let mut rows = self.noted(|| ReadableTable::range::<&str>(rows, range).map_err(failed))?;
        loop {
            let row = self.noted(|| {
                let row = match direction {
                    Direction::Ascending => rows.next(),
                    Direction::Descending => rows.next_back(),
                };
                row.transpose().map_err(failed)
            })?;
            let Some((key, value)) = row else { return Ok(()) };
            // redb panics when the key is no text, or when either would reach beyond its page.
            let (key, stored) = self.noted(|| Ok((key.value(), value.value())))?;
            if visit(key, stored)?.is_break() {
                return Ok(());
            }
        }
    }

    /// How far a projection has come; `None` if it never started.
    ///
    /// # Errors
    /// [`StoreError`], also when the checkpoint does not decode.
    pub fn checkpoint(&self, projection: &ProjectionId) -> Result<Option<Checkpoint>, StoreError> {
        let name = projection.as_str();
        let Some(table) = self.table(CHECKPOINTS)? else { return Ok(None) };
        let Some(value) = self.value(CHECKPOINTS, &table, name)? else { return Ok(None) };
        self.parse_checkpoint(name, &value).map(Some)
    }

    pub(super) fn parse_checkpoint(&self, name: &str, value: &[u8]) -> Result<Checkpoint, StoreError> {
        self.noted(|| {
            serde_json::from_slice(value).map_err(|error| StoreError::Damaged {
                path: self.path.to_path_buf(),
                detail: format!("checkpoint of {name}: {error}"),
            })
        })
    }

    /// The tables of a projection to which something was written, by their names in the projection.
    ///
    /// # Errors
    /// [`StoreError`] when the file can no longer be read.
    pub fn tables_of(&self, projection: &ProjectionId) -> Result<Vec<String>, StoreError> {
        let (prefix, names) = (projection.table_prefix(), self.row_tables()?);
        Ok(names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    /// The names of all tables except that of the checkpoints.
    pub(super) fn row_tables(&self) -> Result<Vec<String>, StoreError> {
        self.noted(|| {
            let tables = self
                .transaction
                .list_tables()
                .map_err(|source| StoreError::from_storage(&self.path, source))?;
            let mut names: Vec<String> =
                tables.map(|table| table.name().to_owned()).filter(|name| name != CHECKPOINTS).collect();
            names.sort_unstable();
            Ok(names)
        })
    }
}

impl KeyRange<'_> {
    /// redb treats a range whose start is after its end as a mistake of the program. Here such a range holds no rows.
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
