//! The names of projections and their tables in the file.

use std::fmt;

/// Takes the place of the context for projections that read OUTCOMES, which belong to all contexts. No context has this name.
const ALL_CONTEXTS: &str = "*";

/// A projection: `<context>.<name>`, or `*.<name>` for one that reads OUTCOMES.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectionId(Box<str>);

impl ProjectionId {
    /// A projection of a context's events.
    pub fn of_context(context: &str, name: &str) -> Self {
        Self(format!("{context}.{name}").into())
    }

    /// A projection of outcomes.
    pub fn of_outcomes(name: &str) -> Self {
        Self(format!("{ALL_CONTEXTS}.{name}").into())
    }

    /// The projection with this text form, as another store has kept it.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether it is a projection of outcomes.
    pub fn is_of_outcomes(&self) -> bool {
        self.0.split('.').next() == Some(ALL_CONTEXTS)
    }

    /// Its text form, the key of its checkpoint.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of the names of all its tables.
    pub(super) fn table_prefix(&self) -> String {
        format!("{}.", self.0)
    }
}

impl fmt::Display for ProjectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A table of a projection: `<context>.<projection>.<table>`. A projection that reads OUTCOMES has one table for each context, with the name of
/// the context.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName(Box<str>);

impl TableName {
    /// The table of `projection` with the name `table`.
    pub fn new(projection: &ProjectionId, table: &str) -> Self {
        Self(format!("{projection}.{table}").into())
    }

    /// Its text form, the name of the redb table.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
