//! Text with `{column}` in it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::tz::TimeZone;

use super::{
    filter::{self, Filter, Table},
    input::SourceRow,
    join::Join,
    key::{Slugs, Taken},
    listed::listed,
    number::NumberForm,
};

/// Before the name of a column that is called as something that the import knows itself.
const COLUMN: &str = "column:";
/// Before the name of something that the import knows itself, where a column is called so.
const OWN: &str = "import:";
/// As much as a message tells of a text.
const SHOWN_MAX: usize = 120;
/// Longest text that is made of a row, in bytes: no message of the server holds more, unless it is told to.
pub(super) const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// A text of a map that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TextError {
    /// A brace without its partner.
    #[error("{text:?}: a brace is not closed; write {{column}} or {{column|filter}}")]
    Brace { text: String },
    /// The file has no such column.
    #[error("{text:?}: there is no column {column:?}; there are {known}")]
    Column { text: String, column: String, known: String },
    /// The file has several columns of that name.
    #[error(
        "{text:?}: column {column:?} comes more than once in the file; give each a name of its own there"
    )]
    ColumnTwice { text: String, column: String },
    /// A column has the name of something else.
    #[error(
        "{text:?}: the file has a column {name:?}; write {{{COLUMN}{name}}} for it, or {{{OWN}{name}}} for the {name} that the import knows"
    )]
    Ambiguous { text: String, name: String },
    /// No such filter.
    #[error("{text:?}: there is no filter {filter:?}; there are {}", filter::NAMES)]
    Filter { text: String, filter: String },
    /// A format of dates that reads none.
    #[error(
        "{text:?}: the format {format:?} reads no date; it needs a year, a month and a day, as in date:%d.%m.%Y"
    )]
    Date { text: String, format: String },
    /// A format of times that reads none.
    #[error(
        "{text:?}: the format {format:?} reads no time; it needs a date, an hour and a minute, as in time:%d.%m.%Y %H:%M, and no name of a zone"
    )]
    Time { text: String, format: String },
    /// A time of nowhere.
    #[error("{text:?}: {filter} needs a zone; write zone = \"Europe/Berlin\", or which it is, under [file]")]
    Zone { text: String, filter: String },
    /// No such table.
    #[error("{text:?}: there is no table {table:?}; write [table.{table}] with its texts, there are {known}")]
    Table { text: String, table: String, known: String },
}

/// A row that does not give what the map asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    /// Nothing there.
    #[error("{of} is empty")]
    Empty { of: String },
    /// Not what the map wants.
    #[error("{of}: {text:?} is not {wanted}")]
    Form { of: String, text: String, wanted: String },
    /// Two texts of a column that a key does not tell apart.
    #[error(
        "{of}: {text:?} would have the key {key:?}, which another text of the column has on line {line}; write both in one way, or \
         take a column that is a key"
    )]
    Joined { of: String, text: String, key: String, line: u64, taken: Taken },
    /// Not one of those that a table tells.
    #[error("{of}: {text:?} is not in the table {table}; add it there")]
    NotInTable { of: String, text: String, table: String },
    /// More than a command could hold.
    #[error("{of} becomes a text of more than 1 MiB; shorten it in the map or the file")]
    Long { of: String },
    /// Rows that become one command say different things where it holds one.
    #[error(
        "{of}: line {line} says {text:?} and line {other_line} of the same group {other:?}; mend one of them"
    )]
    Differs { of: String, line: u64, text: String, other_line: u64, other: String },
    /// Rows of a group that a command is given for each of.
    #[error(
        "lines {other_line} and {line} of the group have the same values in the columns under each; name there columns that tell its rows apart"
    )]
    SameInGroup { line: u64, other_line: u64 },
}

impl RowError {
    /// A short code for the rejects file.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "column-empty",
            Self::Form { .. } => "value-malformed",
            Self::Joined { .. } => "key-joins",
            Self::NotInTable { .. } => "value-unknown",
            Self::Long { .. } => "value-too-long",
            Self::Differs { .. } => "group-differs",
            Self::SameInGroup { .. } => "rows-alike",
        }
    }
}

/// What a map may speak of.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    by_name: BTreeMap<String, usize>,
    /// Names that several columns have: nobody can tell which of them is meant.
    ambiguous: BTreeSet<String>,
    /// How the file writes numbers.
    pub(super) numbers: NumberForm,
    /// Of times that do not tell theirs.
    pub(super) zone: Option<TimeZone>,
    pub(super) tables: Vec<Arc<Table>>,
    /// What the map calls by a name of its own.
    pub(super) values: BTreeMap<String, Arc<Vec<Text>>>,
    pub(super) joins: Vec<Arc<Join>>,
}

/// What a row is to a map: one row, or several that are a group, and what the import knows of them.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    /// At least one.
    pub(crate) rows: &'a [SourceRow],
    /// Of all fields.
    pub(crate) hash: &'a str,
    /// What makes it the row that it is.
    pub(crate) identity: &'a str,
    /// Those of the rows before.
    pub(crate) slugs: &'a RefCell<Slugs>,
}

impl<'a> Row<'a> {
    /// Of which nothing is known but what it says.
    pub(super) fn bare(rows: &'a [SourceRow], slugs: &'a RefCell<Slugs>) -> Self {
        Self { rows, hash: "", identity: "", slugs }
    }

    /// On which it begins.
    pub(super) fn line(&self) -> u64 {
        self.rows.first().map_or(0, |row| row.line)
    }

    /// Each row by itself.
    pub(super) fn each(&self) -> impl Iterator<Item = Row<'_>> {
        let Row { hash, identity, slugs, .. } = *self;
        self.rows.chunks(1).map(move |rows| Row { rows, hash, identity, slugs })
    }
}

/// Text with columns in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Held { of: String, from: Origin, filters: Vec<Filter> },
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Column(usize),
    Own(Own),
    /// The first of these that holds something.
    Value(Arc<Vec<Text>>),
    Joined(Arc<Join>, usize),
}

/// What the import knows of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Number,
    Hash,
    Identity,
    File,
}

impl Columns {
    /// From the header.
    pub(crate) fn new(header: &csv::StringRecord) -> Self {
        let (mut by_name, mut ambiguous) = (BTreeMap::new(), BTreeSet::new());
        for (index, name) in (0..).zip(header) {
            let name = name.trim().to_owned();
            if by_name.insert(name.clone(), index).is_some() {
                ambiguous.insert(name);
            }
        }
        Self { by_name, ambiguous, ..Self::default() }
    }

    /// The column of a name, if there is one and one only.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied().filter(|_| !self.ambiguous.contains(name))
    }

    /// Their names, for messages.
    pub(super) fn names(&self) -> String {
        let names = self.values.keys().chain(self.by_name.keys());
        listed(&names.map(|name| shortened(name)).collect::<Vec<_>>())
    }

    pub(super) fn zone(&self, text: &str, filter: &str) -> Result<TimeZone, TextError> {
        let unknown = || TextError::Zone { text: text.to_owned(), filter: filter.to_owned() };
        self.zone.clone().ok_or_else(unknown)
    }

    pub(super) fn table(&self, text: &str, name: &str) -> Result<Arc<Table>, TextError> {
        let found = self.tables.iter().find(|table| table.name == name);
        found.cloned().ok_or_else(|| TextError::Table {
            text: text.to_owned(),
            table: name.to_owned(),
            known: match self.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().as_slice() {
                [] => "none".to_owned(),
                names => names.join(", "),
            },
        })
    }

    fn find(&self, text: &str, name: &str) -> Result<(String, Origin), TextError> {
        let is_column = |name: &str| self.by_name.contains_key(name);
        if is_column(name) && Own::named(name).is_some() {
            return Err(TextError::Ambiguous { text: text.to_owned(), name: name.to_owned() });
        }
        let (column, own) = match (name.strip_prefix(COLUMN), name.strip_prefix(OWN)) {
            _ if is_column(name) => (name, None),
            (Some(column), _) => (column.trim(), None),
            (None, Some(own)) => (name, Own::named(own.trim())),
            (None, None) => (name, Own::named(name)),
        };
        if let Some(own) = own {
            return Ok((format!("the {column} of the row"), Origin::Own(own)));
        }
        if let Some(value) = self.values.get(column).filter(|_| !is_column(column)) {
            return Ok((format!("value {column}"), Origin::Value(Arc::clone(value))));
        }
        if self.ambiguous.contains(column) || self.joins.iter().any(|join| join.is_ambiguous(column)) {
            return Err(TextError::ColumnTwice { text: text.to_owned(), column: column.to_owned() });
        }
        let joined = self.joins.iter().find_map(|join| Some((join, join.column(column)?)));
        if let Some((join, index)) = joined.filter(|_| !is_column(column)) {
            return Ok((format!("column {column}"), Origin::Joined(Arc::clone(join), index)));
        }
        let unknown =
            || TextError::Column { text: text.to_owned(), column: column.to_owned(), known: self.names() };
        let index = self.by_name.get(column).ok_or_else(unknown)?;
        Ok((format!("column {column}"), Origin::Column(*index)))
    }
}

impl Own {
    fn named(name: &str) -> Option<Self> {
        match name {
            "row" => Some(Self::Number),
            "hash" => Some(Self::Hash),
            "identity" => Some(Self::Identity),
            "file" => Some(Self::File),
            _ => None,
        }
    }
}

impl Origin {
    /// What it is for the first row, and whether that is a default. `of` is what a message about it begins with.
    fn of(&self, of: &str, row: &Row<'_>) -> Result<(String, bool), RowError> {
        let first = row.rows.first();
        let text = match self {
            Self::Column(index) => {
                first.and_then(|row| row.record.get(*index)).unwrap_or_default().trim().to_owned()
            }
            Self::Own(Own::Number) => first.map_or(0, |row| row.number).to_string(),
            // There is none while the identity itself is made, which does not hold it.
            Self::Own(Own::Hash) => return Ok((row.hash.to_owned(), false)),
            Self::Own(Own::Identity) => return Ok((row.identity.to_owned(), false)),
            Self::Own(Own::File) => first.and_then(|row| row.file.as_deref()).unwrap_or_default().to_owned(),
            Self::Value(choices) => return first_that_holds(choices, of, |text| text.of_one_row(row)),
            Self::Joined(join, index) => join.find(*index, of, row)?,
        };
        if text.is_empty() { Err(RowError::Empty { of: of.to_owned() }) } else { Ok((text, false)) }
    }
}

/// The first choice that holds something; the error of the only one, or one that names them all.
pub(super) fn first_that_holds<C, V>(
    choices: &[C],
    of: &str,
    mut read: impl FnMut(&C) -> Result<V, RowError>,
) -> Result<V, RowError> {
    let mut empty = None;
    for choice in choices {
        match read(choice) {
            Err(error @ RowError::Empty { .. }) => empty = Some(error),
            other => return other,
        }
    }
    let all = RowError::Empty { of: of.to_owned() };
    Err(if choices.len() == 1 { empty.unwrap_or(all) } else { all })
}

impl Text {
    /// Reads `text` and finds its columns.
    pub(crate) fn parse(text: &str, columns: &Columns) -> Result<Self, TextError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, behind) =
                inside(after, columns).ok_or_else(|| TextError::Brace { text: text.to_owned() })?;
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            parts.push(placeholder(text, inside, columns)?);
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The column whose value it is, with filters or without.
    pub(super) fn column_index(&self) -> Option<usize> {
        match self.parts.as_slice() {
            [Part::Held { from: Origin::Column(index), .. }] => Some(*index),
            _ => None,
        }
    }

    /// The column that it is, as it stands in the file.
    pub(super) fn bare_column(&self) -> Option<usize> {
        match self.parts.as_slice() {
            [Part::Held { from: Origin::Column(index), filters, .. }] if filters.is_empty() => Some(*index),
            _ => None,
        }
    }

    /// Whether it may make one text of different ones, even if they differ in case alone.
    pub(super) fn may_join(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Literal(_) => false,
            Part::Held { filters, .. } => filters.iter().any(Filter::may_join),
        })
    }

    /// The text, where no row changes it.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// What a message about its value begins with.
    pub(super) fn origin(&self) -> String {
        let columns = self.parts.iter().filter_map(|part| match part {
            Part::Held { from: Origin::Own(_), .. } | Part::Literal(_) => None,
            Part::Held { of, .. } => Some(of.as_str()),
        });
        match columns.collect::<Vec<_>>().as_slice() {
            [] => "the map".to_owned(),
            [one] => (*one).to_owned(),
            several => format!("columns {}", several.join(", ").replace("column ", "")),
        }
    }

    /// The text for a row; every column in it must hold something. The rows of a group must agree, as far as they say anything: a default
    /// counts where none does.
    pub(crate) fn render(&self, row: &Row<'_>) -> Result<String, RowError> {
        if row.rows.len() == 1 {
            return self.of_one_row(row).map(|(text, _)| text);
        }
        let (mut known, mut default, mut empty) = (None::<(u64, String)>, None, None);
        for each in row.each() {
            match (self.of_one_row(&each), &known) {
                (Err(error @ RowError::Empty { .. }), _) => empty = empty.or(Some(error)),
                (Err(error), _) => return Err(error),
                (Ok((text, true)), _) => default = default.or(Some(text)),
                (Ok((text, false)), None) => known = Some((each.line(), text)),
                (Ok((text, false)), Some((_, first))) if text == *first || self.tells_row() => {}
                (Ok((other, false)), Some((line, text))) => {
                    let (of, line, text, other) = (self.origin(), *line, shortened(text), shortened(&other));
                    return Err(RowError::Differs { of, line, text, other_line: each.line(), other });
                }
            }
        }
        let empty = empty.unwrap_or_else(|| RowError::Empty { of: self.origin() });
        known.map(|(_, text)| text).or(default).ok_or(empty)
    }

    /// Whether it holds the number of the row, which rows of a group do not share.
    fn tells_row(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Held { from: Origin::Own(Own::Number), .. }))
    }

    /// For the first row, and whether a default is in it.
    fn of_one_row(&self, row: &Row<'_>) -> Result<(String, bool), RowError> {
        let (mut text, mut has_default) = (String::new(), false);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Held { of, from, filters } => {
                    let (read, is_default) = match from.of(of, row) {
                        Ok((read, is_default)) => (Ok(read), is_default),
                        Err(error) => (Err(error), true),
                    };
                    let made = filters.iter().fold(read, |made, filter| filter.apply(made, of, row));
                    text.push_str(&made?);
                    has_default |= is_default;
                    if text.len() > TEXT_BYTES_MAX {
                        return Err(RowError::Long { of: self.origin() });
                    }
                }
            }
        }
        Ok((text, has_default))
    }
}

/// A text for a message.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What stands before the brace that closes, and what behind it. Names of columns may hold quotes, and arguments of filters braces
/// within quotes.
fn inside<'t>(after: &'t str, columns: &Columns) -> Option<(&'t str, &'t str)> {
    let plain = after.split_once('}')?;
    if columns.by_name.contains_key(plain.0.trim()) || !plain.0.contains('|') {
        return Some(plain);
    }
    let (mut is_argument, mut is_quoted) = (false, false);
    for (at, sign) in after.char_indices() {
        match sign {
            '|' => is_argument = true,
            '\'' if is_argument => is_quoted = !is_quoted,
            '}' if !is_quoted => return Some((after.get(..at)?, after.get(at + 1..)?)),
            _ => {}
        }
    }
    Some(plain)
}

fn placeholder(text: &str, inside: &str, columns: &Columns) -> Result<Part, TextError> {
    let (name, filters) = match inside.split_once('|') {
        // Any name may stand in a file, also one that looks as if a filter followed.
        Some((name, filters)) if !columns.by_name.contains_key(inside.trim()) => (name, Some(filters)),
        _ => (inside, None),
    };
    let (of, from) = columns.find(text, name.trim())?;
    let filters = filters.map(chain).unwrap_or_default();
    let filters =
        filters.iter().map(|filter| Filter::parse(text, filter, columns)).collect::<Result<_, _>>()?;
    Ok(Part::Held { of, from, filters })
}

/// The filters of a chain, each with the blanks of its arguments.
fn chain(filters: &str) -> Vec<String> {
    let (mut all, mut one, mut is_quoted) = (Vec::new(), String::new(), false);
    for sign in filters.chars() {
        is_quoted ^= sign == '\'';
        if sign == '|' && !is_quoted {
            all.push(std::mem::take(&mut one));
        } else {
            one.push(sign);
        }
    }
    all.push(one);
    all
}

#[cfg(test)]
pub(super) mod tests;
