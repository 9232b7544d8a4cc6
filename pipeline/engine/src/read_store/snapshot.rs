//! Reading: single rows, pages of rows, checkpoints; all as of one commit.

use std::{ops::Bound, path::Path, sync::Arc};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, TableError, TableHandle};

use super::{Checkpoint, ProjectionId, StoreError, TableName};

/// Keys and JSON values. `'static` because handles of a snapshot keep their transaction alive.
pub(super) type RowTable = ReadOnlyTable<&'static str, &'static [u8]>;

/// The table of checkpoints. No projection's table can be called so: contexts start with a letter or are `*`.
pub(super) const CHECKPOINTS: &str = "$checkpoints";

pub(super) fn definition(name: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(name)
}

/// Which way a page goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By rising keys.
    Ascending,
    /// By falling keys.
    Descending,
}

/// Which rows of a table.
#[derive(Debug, Clone)]
pub struct PageRequest<'a> {
    /// Keys from here on.
    pub lower: Bound<&'a str>,
    /// Keys up to here.
    pub upper: Bound<&'a str>,
    /// Which end comes first.
    pub direction: Direction,
    /// At most so many rows.
    pub limit: usize,
    /// At most so many bytes of keys and values together, but always at least one row.
    pub bytes_max: usize,
}

/// Rows, and whether there are more behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Keys and JSON values, in the order asked for.
    pub rows: Vec<(String, Vec<u8>)>,
    /// Whether a row follows the last one.
    pub more: bool,
}

/// The file as of one commit.
pub struct Snapshot {
    transaction: ReadTransaction,
    path: Arc<Path>,
}

impl Snapshot {
    pub(super) fn new(transaction: ReadTransaction, path: Arc<Path>) -> Self {
        Self { transaction, path }
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
        let Some(table) = self.table(table.as_str())? else { return Ok(None) };
        let value = table.get(key).map_err(|source| StoreError::from_storage(&self.path, source))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// The rows of a range, as many as fit.
    ///
    /// # Errors
    /// [`StoreError`] when the file can no longer be read.
    pub fn page(&self, table: &TableName, request: &PageRequest<'_>) -> Result<Page, StoreError> {
        let mut page = Page { rows: Vec::new(), more: false };
        if is_empty_range(request.lower, request.upper) {
            return Ok(page);
        }
        let Some(table) = self.table(table.as_str())? else { return Ok(page) };
        let failed = |source| StoreError::from_storage(&self.path, source);
        let mut range =
            ReadableTable::range::<&str>(&table, (request.lower, request.upper)).map_err(failed)?;
        let mut bytes = 0;
        loop {
            let row = match request.direction {
                Direction::Ascending => range.next(),
                Direction::Descending => range.next_back(),
            };
            let Some((key, value)) = row.transpose().map_err(failed)? else { return Ok(page) };
            let (key, value) = (key.value(), value.value());
            bytes += key.len() + value.len();
            if page.rows.len() >= request.limit || (bytes > request.bytes_max && !page.rows.is_empty()) {
                page.more = true;
                return Ok(page);
            }
            page.rows.push((key.to_owned(), value.to_vec()));
        }
    }

    /// How far a projection has come; `None` when it never started.
    ///
    /// # Errors
    /// [`StoreError`], also when the checkpoint does not decode.
    pub fn checkpoint(&self, projection: &ProjectionId) -> Result<Option<Checkpoint>, StoreError> {
        let Some(table) = self.table(CHECKPOINTS)? else { return Ok(None) };
        let value =
            table.get(projection.as_str()).map_err(|source| StoreError::from_storage(&self.path, source))?;
        value.map(|value| parse_checkpoint(&self.path, projection.as_str(), value.value())).transpose()
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

/// redb takes a range whose start lies behind its end for a mistake of the program; here it is an empty answer.
fn is_empty_range(lower: Bound<&str>, upper: Bound<&str>) -> bool {
    match (lower, upper) {
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (
            Bound::Included(lower) | Bound::Excluded(lower),
            Bound::Included(upper) | Bound::Excluded(upper),
        ) => lower >= upper,
        _ => false,
    }
}
