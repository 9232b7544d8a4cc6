//! A second file whose lines tell more of a row: `[join.prices]` gives the columns `{prices.cost}` and so on.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use millstream_contract::error_text::one_line;

use super::{
    file_form::{FileForm, FormError},
    input::{InputError, RowsFile},
    node::{At, Placed},
    source::{STANDARD_INPUT, Source},
    template::{TemplateError, parse_text},
    text::{Columns, Row, RowError, Text, shortened},
};

/// More lines than anybody keeps in memory beside an import.
const LINES_MAX: u64 = 2_000_000;
/// What a join has. Its numbers and times are written as those of the rows are: one map reads both.
const KEYS: [&str; 6] = ["file", "key", "on", "delimiter", "encoding", "sheet"];

/// A second file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(transparent)]
    Text(#[from] TemplateError),
    #[error(
        "a join needs {name}; write file = \"prices.csv\", key = \"{{sku}}\" (of that file) and on = \"{{item}}\" (of the rows)"
    )]
    Missing { name: &'static str },
    #[error("{message}")]
    Input { message: String },
    #[error(
        "{path} has {count} lines, more than the {LINES_MAX} that can be joined; leave out what no row needs"
    )]
    Size { path: PathBuf, count: u64 },
    #[error("{path}: line {line}: {reason}")]
    Key { path: PathBuf, line: u64, reason: Box<RowError> },
    #[error("{path}: lines {first} and {second} have the same key {key:?}; leave one of them out")]
    Twice { path: PathBuf, first: u64, second: u64, key: String },
}

/// The file, by its keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Join {
    name: String,
    file: String,
    columns: Vec<String>,
    lines: HashMap<String, (u64, csv::StringRecord)>,
    on: Text,
}

impl Join {
    /// Reads what a map says, and the file.
    pub(super) fn read(
        name: &str,
        value: &Placed,
        folder: &Path,
        columns: &Columns,
    ) -> Result<Self, At<JoinError>> {
        let at = |error: JoinError| At { span: value.span(), what: error };
        let form = FileForm::parse(value, &KEYS)
            .map_err(|error| At { span: error.span, what: JoinError::Form(error.what) })?;
        let form = FileForm { numbers: columns.numbers, ..form };
        let given =
            |name: &'static str| value.get_ref().get(name).ok_or_else(|| at(JoinError::Missing { name }));
        let text = |value: &Placed, columns: &Columns| {
            parse_text(value, columns)
                .map_err(|error| At { span: error.span, what: JoinError::Text(error.what) })
        };
        let file = given("file")?;
        let path = file
            .get_ref()
            .text()
            .filter(|path| *path != STANDARD_INPUT)
            .ok_or_else(|| at(JoinError::Missing { name: "file" }))?;
        let path = folder.join(path);
        let in_file = |error: InputError| At::new(file, JoinError::Input { message: one_line(&error) });
        let rows = RowsFile::check(Source::at(&path, &form).map_err(in_file)?, &form).map_err(in_file)?;
        if rows.count > LINES_MAX {
            return Err(At::new(file, JoinError::Size { path, count: rows.count }));
        }
        let mut of_file = Columns::new(&rows.header);
        (of_file.numbers, of_file.zone) = (columns.numbers, columns.zone.clone());
        of_file.tables.clone_from(&columns.tables);
        let key = text(given("key")?, &of_file)?;
        let on = text(given("on")?, columns)?;
        let mut lines: HashMap<String, (u64, csv::StringRecord)> = HashMap::new();
        let slugs = std::cell::RefCell::default();
        for row in rows.rows().map_err(in_file)? {
            let row = row.map_err(in_file)?;
            let (line, record) = (row.line, row.record.clone());
            let key = match key.render(&Row::bare(&[row], &slugs)) {
                Ok(key) => key,
                // A line without a key is found by no row.
                Err(RowError::Empty { .. }) => continue,
                Err(reason) => {
                    return Err(At::new(file, JoinError::Key { path, line, reason: Box::new(reason) }));
                }
            };
            if let Some((first, _)) = lines.get(&key) {
                return Err(At::new(file, JoinError::Twice { path, first: *first, second: line, key }));
            }
            lines.insert(key, (line, record));
        }
        let columns = rows.header.iter().map(|column| column.trim().to_owned()).collect();
        Ok(Self { name: name.to_owned(), file: path.display().to_string(), columns, lines, on })
    }

    /// Where a column stands that is called `<join>.<column>`.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        let column = name.strip_prefix(&self.name)?.strip_prefix('.')?;
        self.columns.iter().position(|known| known == column)
    }

    /// Whether several columns are called so.
    pub(super) fn is_ambiguous(&self, name: &str) -> bool {
        self.column(name)
            .and_then(|index| self.columns.get(index))
            .is_some_and(|column| self.columns.iter().filter(|known| *known == column).count() > 1)
    }

    /// What the line of a row says.
    pub(super) fn find(&self, index: usize, of: &str, row: &Row<'_>) -> Result<String, RowError> {
        let key = self.on.render(row)?;
        let Some((line, record)) = self.lines.get(&key) else {
            return Err(RowError::Empty {
                of: format!("{of}, as {} has no line for {:?},", self.file, shortened(&key)),
            });
        };
        match record.get(index).unwrap_or_default().trim() {
            "" => Err(RowError::Empty { of: format!("{of} of {}, line {line},", self.file) }),
            text => Ok(text.to_owned()),
        }
    }
}
