//! What a file of rejects says of its rows besides what they say themselves.

use std::{path::Path, sync::Arc};

use super::{
    identity::is_identity,
    input::{InputError, SourceRow},
    rejects::{FILE_COLUMN, IDENTITY_COLUMN, LINE_COLUMN, REJECT_COLUMNS, ROW_COLUMN},
};

/// Where a file has the columns that the import writes before those of a refused row.
#[derive(Debug)]
pub(super) struct RejectColumns {
    pub(super) all: Vec<usize>,
    row: Option<usize>,
    line: Option<usize>,
    identity: Option<usize>,
    file: Option<usize>,
}

impl RejectColumns {
    pub(super) fn new(header: &csv::StringRecord) -> Self {
        let place = |name: &str| header.iter().position(|column| column.trim() == name);
        Self {
            all: REJECT_COLUMNS.into_iter().filter_map(place).collect(),
            row: place(ROW_COLUMN),
            line: place(LINE_COLUMN),
            identity: place(IDENTITY_COLUMN),
            file: place(FILE_COLUMN),
        }
    }

    pub(super) fn without(&self, record: &csv::StringRecord) -> csv::StringRecord {
        if self.all.is_empty() {
            return record.clone();
        }
        let own = (0..).zip(record).filter(|(index, _)| !self.all.contains(index));
        own.map(|(_, field)| field).collect()
    }

    /// A row of the file, read.
    pub(super) fn row(
        &self,
        number: u64,
        line: u64,
        is_sheet: bool,
        record: &csv::StringRecord,
        path: &Path,
    ) -> Result<SourceRow, InputError> {
        let given = |at: Option<usize>| {
            at.and_then(|at| record.get(at)).map(str::trim).filter(|text| !text.is_empty())
        };
        let wrong = |column, found: &str| InputError::Reject {
            path: path.to_owned(),
            line,
            column,
            found: found.to_owned(),
        };
        let line = match given(self.line) {
            Some(text) if is_sheet => text.parse().map_err(|_| wrong(LINE_COLUMN, text))?,
            _ => line,
        };
        let number = match given(self.row) {
            Some(text) => text.parse().map_err(|_| wrong(ROW_COLUMN, text))?,
            None => number,
        };
        let (identity, of_group) = match given(self.identity) {
            Some(text) => {
                let (identity, of_group) = read_identity(text).ok_or_else(|| wrong(IDENTITY_COLUMN, text))?;
                (Some(identity.to_owned()), of_group)
            }
            None => (None, None),
        };
        let file = given(self.file).map(Arc::from);
        Ok(SourceRow { number, line, identity, of_group, file, record: self.without(record) })
    }
}

/// An identity as rejects have it, and the number of rows of a group.
fn read_identity(text: &str) -> Option<(&str, Option<usize>)> {
    let (identity, of_group) = match text.split_once('/') {
        Some((identity, count)) => (identity, Some(count.parse().ok().filter(|count| *count > 1)?)),
        None => (text, None),
    };
    is_identity(identity).then_some((identity, of_group))
}
