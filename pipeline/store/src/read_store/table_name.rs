//! What projections and their tables are called in the file.

use std::fmt;

/// Stands where the context does for projections that read OUTCOMES, which belong to all contexts. No context is
/// called so.
const ALL_CONTEXTS: &str = "*";

/// Which projection: `<context>.<name>`, or `*.<name>` for one that reads OUTCOMES.
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

    /// The projection of this text form, as another store has kept it.
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

    /// What the names of all its tables start with.
    pub(super) fn table_prefix(&self) -> String {
        format!("{}.", self.0)
    }
}

impl fmt::Display for ProjectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A table of a projection: `<context>.<projection>.<table>`. A projection that reads OUTCOMES has one table for each
/// context, called like the context.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName(Box<str>);

impl TableName {
    /// The table of `projection` that it calls `table`.
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
