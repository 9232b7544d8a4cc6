//! The book-keeping: applies a report's entries to its revisions.
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
//! Numbers in keys have six digits, so that keys sort.

use std::{fmt, str::FromStr};

use millstream_contract::commit::EventEnvelope;

use super::{
    DIFFERENCES_IN_ROW_MAX, DifferenceLine, Entry, Posting, Report, Revision, RevisionStatus, SmolStr,
    shapes::shapes_of,
};
use crate::{
    content_digest::ContentDigest,
    projection::{DecodedRow, FoundRow, Projection, ProjectionError, RowShape, Rows},
};

/// The table from which changed revisions are published; each report has its own. A publisher removes rows from it. A rebuild fills it
/// again, and publishing a revision again does no harm.
pub const OUTBOX: &str = "outbox";

/// Raised whenever the ledger writes rows in another form.
const LEDGER_VERSION: u32 = 2;

/// A [`Report`] as a projection. The reporter's projection runner applies events to it, as a projector's does to a view
/// (`pipeline/read-side/src/projection_runner/applier/batch_part.rs`).
#[derive(Debug)]
pub struct Ledger<R>(pub R);

impl<R: Report> Projection for Ledger<R> {
    fn context(&self) -> &'static str {
        self.0.context()
    }

    fn name(&self) -> &'static str {
        self.0.tables().current
    }

    fn version(&self) -> u32 {
        LEDGER_VERSION * 1_000 + self.0.version()
    }

    fn views(&self) -> &'static [&'static str] {
        self.0.tables().views
    }

    fn shapes(&self) -> Vec<RowShape> {
        shapes_of(&self.0)
    }

    fn tables(&self) -> &'static [&'static str] {
        self.0.tables().all
    }

    fn handles(&self, aggregate: &str) -> bool {
        self.0.handles(aggregate)
    }

    fn apply(&self, envelope: &EventEnvelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        for entry in self.0.entries(envelope, rows)? {
            match entry {
                Entry::Post(posting) => self.post(envelope, posting, rows)?,
                Entry::Describe { date, key, texts } => self.describe(&date, &key, &texts, rows)?,
                Entry::Seal { date, key } => {
                    let place = row_key(&date, &key);
                    if let Some(revision) = self.current(&place, rows)? {
                        self.seal(envelope, &place, revision, rows);
                    }
                }
                Entry::SealDate { date } => {
                    for (place, row) in rows.scan(self.0.tables().current, &format!("{date}/"))? {
                        let revision = self.parse(&place, &row)?;
                        self.seal(envelope, &place, revision, rows);
                    }
                }
            }
        }
        Ok(())
    }
}

impl<R: Report> Ledger<R> {
    fn current(&self, place: &str, rows: &(dyn Rows + '_)) -> Result<Option<Revision>, ProjectionError> {
        match rows.find(self.0.tables().current, place)? {
            None => Ok(None),
            Some(FoundRow::Bytes(row)) => self.parse(place, &row).map(Some),
            Some(FoundRow::Decoded(row)) => match row.get::<Revision>() {
                Some(revision) => Ok(Some(revision)),
                None => self.parse(place, &row.bytes()).map(Some),
            },
        }
    }

    fn parse(&self, place: &str, row: &[u8]) -> Result<Revision, ProjectionError> {
        Revision::from_json(self.0.columns(), row).map_err(|source| ProjectionError::Row {
            table: self.0.tables().current.to_owned(),
            key: place.to_owned(),
            source,
        })
    }

    fn post(
        &self,
        envelope: &EventEnvelope<'_>,
        posting: Posting,
        rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError> {
        let place = row_key(&posting.date, &posting.key);
        let added = match self.add_in_place(envelope, &posting, &place, rows)? {
            Some(added) => added,
            None => {
                let mut revision = match self.current(&place, rows)? {
                    None => self.first(envelope),
                    Some(sealed) if sealed.status == RevisionStatus::Sealed => next(sealed, envelope),
                    Some(open) => open,
                };
                let added = self.add_posting(&mut revision, envelope, &posting)?;
                self.write(&place, revision, rows);
                added
            }
        };
        // This comes after the row was written, because the outbox keeps the row. Without a current row, the next posting begins with
        // revision 1 again.
        if added.withdrawn {
            self.withdraw(&place, added.revision, rows);
        }
        self.write_difference(&place, added, rows);
        Ok(())
    }

    /// Adds to the open revision that this transaction has already written, if there is one. Its row is shared by all tables, so it changes
    /// in all of them without being decoded or written again.
    fn add_in_place(
        &self,
        envelope: &EventEnvelope<'_>,
        posting: &Posting,
        place: &str,
        rows: &(dyn Rows + '_),
    ) -> Result<Option<Added>, ProjectionError> {
        let Some(FoundRow::Decoded(row)) = rows.find(self.0.tables().current, place)? else {
            return Ok(None);
        };
        let add = |revision: &mut Revision| {
            (revision.status == RevisionStatus::Open).then(|| self.add_posting(revision, envelope, posting))
        };
        row.alter(add).flatten().transpose()
    }

    fn add_posting(
        &self,
        revision: &mut Revision,
        envelope: &EventEnvelope<'_>,
        posting: &Posting,
    ) -> Result<Added, ProjectionError> {
        // An unknown column leaves the revision half changed. Such a revision is never stored: the runner repeats the projection's part of
        // the batch and halts before this commit.
        let mut digest = PostingDigest::new(revision.digest, envelope, posting);
        for (name, figure) in &posting.figures {
            let column = revision.index(name).ok_or_else(|| self.unknown(name))?;
            add(revision, column, *figure);
            digest.figure(column, *figure);
        }
        revision.inputs += 1;
        revision.last_sequence = envelope.broker_sequence;
        revision.changed_at = envelope.recorded_at;
        revision.digest = digest.chained();
        let mut line = None;
        if revision.difference.is_some() {
            revision.difference_lines += 1;
            let difference = difference_line(envelope, posting);
            if revision.differences.len() < DIFFERENCES_IN_ROW_MAX {
                revision.differences.push(difference.clone());
            }
            line = Some((revision.difference_lines, difference));
        }
        self.describe_as(revision, &posting.texts)?;
        let nothing_left = !self.0.zero_is_a_result() && revision.figures.iter().all(|figure| *figure == 0);
        if revision.revision == 1 && nothing_left {
            revision.status = RevisionStatus::Withdrawn;
        }
        let withdrawn = revision.status == RevisionStatus::Withdrawn;
        Ok(Added { revision: revision.revision, withdrawn, line })
    }

    fn write_difference(&self, place: &str, added: Added, rows: &mut (dyn Rows + '_)) {
        if let Some((number, line)) = added.line {
            let key = format!("{place}#{:06}/{number:06}", added.revision);
            rows.write(self.0.tables().differences, &key, &line);
        }
    }

    /// Sets the text columns. Those that are not given become null.
    fn describe_as(
        &self,
        revision: &mut Revision,
        texts: &[(&'static str, Option<SmolStr>)],
    ) -> Result<(), ProjectionError> {
        for (name, text) in texts {
            let index = revision.index(name).ok_or_else(|| self.unknown(name))?;
            if let Some(place) = revision.texts.get_mut(index).filter(|place| *place != text) {
                place.clone_from(text);
            }
        }
        for (column, text) in revision.columns.iter().zip(&mut revision.texts) {
            if text.is_some() && !texts.iter().any(|(name, _)| *name == column.name) {
                *text = None;
            }
        }
        Ok(())
    }

    fn unknown(&self, column: &str) -> ProjectionError {
        ProjectionError::Inconsistent(format!("report {} has no column {column:?}", self.name()))
    }

    fn describe(
        &self,
        date: &str,
        key: &str,
        texts: &[(&'static str, Option<SmolStr>)],
        rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError> {
        let place = row_key(date, key);
        match self.current(&place, rows)? {
            Some(mut open) if open.status == RevisionStatus::Open => {
                let before = open.texts.clone();
                self.describe_as(&mut open, texts)?;
                if open.texts != before {
                    self.write(&place, open, rows);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn seal(
        &self,
        envelope: &EventEnvelope<'_>,
        place: &str,
        mut revision: Revision,
        rows: &mut (dyn Rows + '_),
    ) {
        if revision.status == RevisionStatus::Open {
            revision.status = RevisionStatus::Sealed;
            revision.sealed_sequence = Some(envelope.broker_sequence);
            revision.sealed_at = Some(envelope.recorded_at);
            self.write(place, revision, rows);
        }
    }

    /// Writes a revision everywhere.
    fn write(&self, place: &str, revision: Revision, rows: &mut (dyn Rows + '_)) {
        let tables = self.0.tables();
        let number = revision.revision;
        let revision_key = format!("{place}#{number:06}");
        // The three tables share one row, so that `add_in_place` changes it in all of them, and it is encoded once.
        let row = DecodedRow::new(revision);
        rows.put_decoded(tables.current, place, row.clone());
        rows.put_decoded(tables.revisions, &revision_key, row.clone());
        // The key is composed without an `OutboxKey`, which would copy its texts: a row is written for nearly every event.
        rows.put_decoded(OUTBOX, &format!("{}/{}/{revision_key}", self.0.context(), tables.current), row);
    }

    /// Removes a revision from the tables that can be queried. The outbox keeps it, so that its withdrawal is published.
    fn withdraw(&self, place: &str, revision: u32, rows: &mut (dyn Rows + '_)) {
        rows.delete(self.0.tables().current, place);
        rows.delete(self.0.tables().revisions, &format!("{place}#{revision:06}"));
    }

    fn first(&self, envelope: &EventEnvelope<'_>) -> Revision {
        Revision {
            revision: 1,
            first_sequence: envelope.broker_sequence,
            opened_sequence: envelope.broker_sequence,
            opened_at: envelope.recorded_at,
            ..Revision::blank(self.0.columns())
        }
    }
}

/// What a posting has changed in a revision.
struct Added {
    revision: u32,
    withdrawn: bool,
    /// The number and the content of the new line of difference, if there is one.
    line: Option<(u64, DifferenceLine)>,
}

/// The revision that the first posting after a seal opens.
fn next(sealed: Revision, envelope: &EventEnvelope<'_>) -> Revision {
    Revision {
        revision: sealed.revision + 1,
        status: RevisionStatus::Open,
        opened_sequence: envelope.broker_sequence,
        opened_at: envelope.recorded_at,
        sealed_sequence: None,
        sealed_at: None,
        difference: Some(vec![0; sealed.figures.len()]),
        difference_lines: 0,
        differences: Vec::new(),
        ..sealed
    }
}

fn difference_line(envelope: &EventEnvelope<'_>, posting: &Posting) -> DifferenceLine {
    DifferenceLine {
        reference: posting.reference.to_string(),
        event_type: envelope.event_type.to_owned(),
        broker_sequence: envelope.broker_sequence,
        recorded_at: envelope.recorded_at,
        figures: posting.figures.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect(),
    }
}

/// Sums stop at the limits of `i64`, instead of halting everybody's report. Realistic documents never reach them.
fn add(revision: &mut Revision, column: usize, figure: i64) {
    let difference = revision.difference.as_mut().and_then(|difference| difference.get_mut(column));
    for sum in revision.figures.get_mut(column).into_iter().chain(difference) {
        *sum = sum.saturating_add(figure);
    }
}

/// The key of a row.
fn row_key(date: &str, key: &str) -> String {
    [date, "/", key].concat()
}

/// The input of a digest: the digest before, the event, and what the posting adds to which columns.
struct PostingDigest(Vec<u8>);

impl PostingDigest {
    fn new(before: ContentDigest, envelope: &EventEnvelope<'_>, posting: &Posting) -> Self {
        let mut input = Vec::with_capacity(256);
        input.extend_from_slice(before.as_bytes());
        input.extend_from_slice(&envelope.broker_sequence.to_be_bytes());
        input.extend_from_slice(&envelope.aggregate_version.to_be_bytes());
        input.extend_from_slice(&(posting.reference.len() as u32).to_be_bytes());
        input.extend_from_slice(posting.reference.as_bytes());
        Self(input)
    }

    fn figure(&mut self, column: usize, figure: i64) {
        self.0.extend_from_slice(&(column as u32).to_be_bytes());
        self.0.extend_from_slice(&figure.to_be_bytes());
    }

    fn chained(self) -> ContentDigest {
        ContentDigest::of_bytes(&self.0)
    }
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

/// Why a text is not an [`OutboxKey`].
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
