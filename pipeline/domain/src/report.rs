//! Reports as a ledger: pure, over [`Rows`].
//!
//! A report turns events into *postings* (signed figures for a key and a business date) and *seals*. The ledger adds
//! them up in revisions. A revision is open until an event seals it; a posting after that opens the next revision, which
//! shows all figures so far and, line by line, what came since the sealed one. Only events seal, never a clock and never
//! the edge of a batch: the same events always give the same revisions, to the byte.
//!
//! Tables of a report, here `store-daily`:
//!
//! | table | key | holds |
//! |---|---|---|
//! | `store-daily` | `<date>/<key>` | the current revision |
//! | `store-daily.revisions` | `<date>/<key>#<revision>` | every revision; a sealed one is never written again |
//! | `store-daily.differences` | `<date>/<key>#<revision>/<line>` | every posting since the revision before, from revision 2 |
//! | `outbox` | [`OutboxKey`] | revisions that changed and are not yet published; transient, no part of a dump |
//!
//! Numbers in keys have six digits, so that keys sort. Deliberately absent: dates are not read as dates, keys not as
//! keys; what they mean is the report's affair.

mod ledger;
mod revision;
mod shapes;

use std::{fmt, str::FromStr};

pub use ledger::Ledger;
pub use revision::{DIFFERENCES_IN_ROW_MAX, DifferenceLine, Figures, Revision, RevisionStatus};

/// The texts of entries: short ones need no memory of their own, and copies of long ones share theirs.
pub use smol_str::SmolStr;

use millstream_contract::commit::EventEnvelope;

use crate::projection::{ProjectionError, Rows};

/// The table from which changed revisions are published; each report has its own. A publisher takes rows out of it; a
/// rebuild fills it again, and publishing a revision once more does no harm.
pub const OUTBOX: &str = "outbox";

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// A text, or null.
    Text,
    /// A number of the ledger itself, such as the revision.
    Number,
    /// A figure that counts.
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

    /// Whether postings add to it.
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
    /// The three above, which can be queried.
    pub views: &'static [&'static str],
    /// All of them, with [`OUTBOX`] and the report's notes.
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
    /// The row's text columns, all of them; the last posting's stand.
    pub texts: Vec<(&'static str, Option<SmolStr>)>,
    /// What is added to which figures.
    pub figures: Vec<(&'static str, i64)>,
    /// What caused it, as people call it: a sale, a delivery, a product.
    pub reference: SmolStr,
}

/// What an event means for a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Figures are added.
    Post(Posting),
    /// The text columns of a revision become known, as far as it is open. No figure changes.
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

/// From events to entries of the ledger. [`Ledger`] makes a projection of it.
pub trait Report: Send + Sync + 'static {
    /// The context whose events it reads, and under which its views are queried.
    fn context(&self) -> &'static str;

    /// Its tables; `current` is its name.
    fn tables(&self) -> &'static ReportTables;

    /// Its columns, among them `revision` (a number) and `status` (a text), which the ledger fills. Those that are figures
    /// start at 0 in every row.
    fn columns(&self) -> &'static [Column];

    /// How a key of its current revisions is put together, as [`crate::projection::RowShape::key`] has it: the columns that tell the
    /// date and the key within the date.
    fn key(&self) -> &'static str {
        "<date>/<key>"
    }

    /// Raised whenever entries come out differently: the ledger is then built anew from the first event.
    fn version(&self) -> u32 {
        1
    }

    /// Whether figures that all come to 0 are a result like any other, as those of a balance are. Else a first revision, never
    /// sealed, of which nothing is left is withdrawn: what was posted has been taken back.
    fn zero_is_a_result(&self) -> bool {
        false
    }

    /// Whether it wants the events of `aggregate`.
    fn handles(&self, aggregate: &str) -> bool;

    /// The entries of an event, in order. It may read and write its own notes among `rows`, nothing else.
    ///
    /// # Errors
    /// [`ProjectionError`]; the report then halts before this event's commit.
    fn entries(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Entry>, ProjectionError>;
}

/// The key of a row of [`OUTBOX`]: `<context>/<report>/<date>/<key>#<revision>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxKey {
    /// The context.
    pub context: String,
    /// The report's name.
    pub report: String,
    /// The business date.
    pub date: String,
    /// The key within the date.
    pub key: String,
    /// The revision.
    pub revision: u32,
}

/// A text that is no [`OutboxKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a key of the outbox; expected <context>/<report>/<date>/<key>#<revision>")]
pub struct OutboxKeyError {
    text: String,
}

impl OutboxKey {
    /// The subject under which the revision is published on REPORTS: `report.<context>.<report>.<key>.<date>`.
    pub fn subject(&self) -> String {
        format!("report.{}.{}.{}.{}", self.context, self.report, self.key, self.date)
    }
}

impl fmt::Display for OutboxKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { context, report, date, key, revision } = self;
        write!(formatter, "{context}/{report}/{date}/{key}#{revision:06}")
    }
}

impl FromStr for OutboxKey {
    type Err = OutboxKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || OutboxKeyError { text: text.to_owned() };
        let (path, revision) = text.rsplit_once('#').ok_or_else(error)?;
        let mut parts = path.split('/').map(str::to_owned);
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or_else(error);
        let (context, report, date, key) = (part()?, part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(Self { context, report, date, key, revision: revision.parse().map_err(|_| error())? })
    }
}

#[cfg(test)]
mod tests;
