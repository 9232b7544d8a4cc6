//! Reports as a ledger: pure, over [`Rows`].
//!
//! A report turns events into *postings* (signed figures for a key and a business date) and *seals*. The ledger adds the postings up in
//! revisions. A revision is open until an event seals it. The next posting then opens another revision, which shows all figures so far and
//! lists every posting since the sealed one. Only events seal a revision, never a clock and never the end of a batch, so the same events
//! always give the same revisions, byte for byte.
//!
//! The ledger is in `report/ledger.rs`, with the tables of a report and their keys. Deliberately absent: the ledger does not interpret
//! dates and keys; the report gives them their meaning.

mod ledger;
mod revision;
mod shapes;

pub use ledger::{Ledger, OUTBOX, OutboxKey, OutboxKeyError};
pub use revision::{DIFFERENCES_IN_ROW_MAX, DifferenceLine, Figures, Revision, RevisionStatus};

/// The texts of entries. Short ones need no allocation, and copies of long ones share their memory.
pub use smol_str::SmolStr;

use millstream_contract::commit::EventEnvelope;

use crate::projection::{ProjectionError, Rows};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// A text, or null.
    Text,
    /// A number of the ledger itself, such as the revision.
    Number,
    /// A figure that is a number of things.
    Count,
    /// A figure in minor units of the row's currency.
    Amount,
}

/// A column of a report, in the order in which people see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name: the field of the row.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
}

impl Column {
    /// A column.
    pub const fn new(name: &'static str, kind: ColumnKind) -> Self {
        Self { name, kind }
    }

    /// Whether postings add to the column.
    pub fn is_figure(&self) -> bool {
        matches!(self.kind, ColumnKind::Count | ColumnKind::Amount)
    }
}

/// The names of a report's tables. Made with [`crate::report_tables!`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportTables {
    /// Current revisions; also the report's name.
    pub current: &'static str,
    /// Every revision.
    pub revisions: &'static str,
    /// The lines by which revisions differ.
    pub differences: &'static str,
    /// The three tables above, which can be queried.
    pub views: &'static [&'static str],
    /// All tables, including [`OUTBOX`] and the report's notes.
    pub all: &'static [&'static str],
}

/// The tables of a report of the given name, and its private notes `<name>.<note>`.
///
/// ```
/// use millstream_domain::report::ReportTables;
/// static TABLES: ReportTables = millstream_domain::report_tables!("store-daily", "notes");
/// assert_eq!(TABLES.revisions, "store-daily.revisions");
/// assert!(TABLES.all.contains(&"store-daily.notes"));
/// ```
#[macro_export]
macro_rules! report_tables {
    ($name:literal $(, $note:literal)* $(,)?) => {
        $crate::report::ReportTables {
            current: $name,
            revisions: concat!($name, ".revisions"),
            differences: concat!($name, ".differences"),
            views: &[$name, concat!($name, ".revisions"), concat!($name, ".differences")],
            all: &[
                $name,
                concat!($name, ".revisions"),
                concat!($name, ".differences"),
                $crate::report::OUTBOX,
                $(concat!($name, ".", $note)),*
            ],
        }
    };
}

/// Signed figures for one key and date, caused by one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// The business date.
    pub date: SmolStr,
    /// The key within the date. No `/` and no `#`.
    pub key: SmolStr,
    /// The row's text columns, all of them. Those of the last posting count.
    pub texts: Vec<(&'static str, Option<SmolStr>)>,
    /// What is added to which figures.
    pub figures: Vec<(&'static str, i64)>,
    /// What caused it, by the name that people use: a sale, a delivery, a product.
    pub reference: SmolStr,
}

/// What an event means for a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Figures are added.
    Post(Posting),
    /// Sets the text columns of a revision, if it is open. No figure changes.
    Describe {
        /// The business date.
        date: SmolStr,
        /// The key within the date.
        key: SmolStr,
        /// The row's text columns, all of them.
        texts: Vec<(&'static str, Option<SmolStr>)>,
    },
    /// The open revision of a key and a date is sealed, if there is one.
    Seal {
        /// The business date.
        date: SmolStr,
        /// The key within the date.
        key: SmolStr,
    },
    /// Every open revision of a date is sealed.
    SealDate {
        /// The business date.
        date: SmolStr,
    },
}

/// From events to entries of the ledger. [`Ledger`] makes it a projection.
pub trait Report: Send + Sync + 'static {
    /// The context whose events it reads, and under which its views are queried.
    fn context(&self) -> &'static str;

    /// Its tables. The table `current` gives it its name.
    fn tables(&self) -> &'static ReportTables;

    /// Its columns, among them `revision` (a number) and `status` (a text), which the ledger fills. Columns that are figures start at 0 in
    /// every row.
    fn columns(&self) -> &'static [Column];

    /// How a key of its current revisions is composed, in the form of [`crate::projection::RowShape::key`]: the columns with the date and
    /// with the key within the date.
    fn key(&self) -> &'static str {
        "<date>/<key>"
    }

    /// Raised whenever the entries change for the same events. The ledger is then rebuilt from the first event.
    fn version(&self) -> u32 {
        1
    }

    /// Whether it is a valid result that all figures are 0, as for a balance. If not, a first revision that was never sealed is withdrawn
    /// when all its figures return to 0, because everything posted was taken back.
    fn zero_is_a_result(&self) -> bool {
        false
    }

    /// Whether it wants the events of `aggregate`.
    fn handles(&self, aggregate: &str) -> bool;

    /// The entries of an event, in order. It may read and write its own notes in `rows`, and nothing else.
    ///
    /// # Errors
    /// [`ProjectionError`]; the report then halts before this event's commit.
    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError>;
}

#[cfg(test)]
mod tests;
