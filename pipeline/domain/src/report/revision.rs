//! One revision of a report's row, and its flat JSON: text columns, figures and the ledger's own fields side by side, the
//! report's columns first and in their order.
//!
//! It is read and written once for each posting, so figures and texts are stored by column instead of by name, and no field is looked up
//! twice.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};

use super::{Column, ColumnKind, SmolStr};
use crate::content_digest::ContentDigest;

/// Figures by name.
pub type Figures = BTreeMap<String, i64>;

/// How many lines of difference the row itself holds; the table of differences has all of them. This limits the size of the row, however
/// much is posted late.
pub const DIFFERENCES_IN_ROW_MAX: usize = 32;

/// Where a revision stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevisionStatus {
    /// It takes further postings.
    Open,
    /// An event has sealed it; it never changes again.
    Sealed,
    /// Everything posted to a first revision was taken back before it was sealed. Such a revision is published, but no row shows it.
    Withdrawn,
}

/// One posting by which a revision differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceLine {
    /// What caused it, as people call it.
    pub reference: String,
    /// The type of the event.
    pub event_type: String,
    /// The event's sequence in EVENTS.
    pub broker_sequence: u64,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// What it added to which figures.
    pub figures: Figures,
}

/// One value for each column of a report that is a figure.
pub(super) type FigureRow = Vec<i64>;

/// A revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    pub(super) columns: &'static [Column],
    /// By column; empty for a column that is not a text of the report's own.
    pub(super) texts: Vec<Option<SmolStr>>,
    /// By column; 0 for a column that is not a figure.
    pub(super) figures: FigureRow,
    /// From 1, without gaps.
    pub revision: u32,
    /// Open or sealed.
    pub status: RevisionStatus,
    /// How many postings it holds, including those of earlier revisions.
    pub inputs: u64,
    /// Sequence in EVENTS of the first of them.
    pub first_sequence: u64,
    /// Sequence in EVENTS of the last of them.
    pub last_sequence: u64,
    /// A digest chained over all of them in order: equal digests mean equal inputs.
    pub digest: ContentDigest,
    /// Sequence in EVENTS of the posting that opened this revision.
    pub opened_sequence: u64,
    /// When that was recorded.
    pub opened_at: Timestamp,
    /// When its last posting was recorded.
    pub changed_at: Timestamp,
    /// Sequence in EVENTS of the event that sealed it.
    pub sealed_sequence: Option<u64>,
    /// When that was recorded.
    pub sealed_at: Option<Timestamp>,
    /// Figures of this revision less those of the one before, by column; absent in the first.
    pub(super) difference: Option<FigureRow>,
    /// How many more postings it has than the revision before; 0 in the first.
    pub difference_lines: u64,
    /// The first of them, at most [`DIFFERENCES_IN_ROW_MAX`].
    pub differences: Vec<DifferenceLine>,
}

impl Revision {
    /// A revision without postings. Its status is open, and its number is 0.
    pub(super) fn blank(columns: &'static [Column]) -> Self {
        Self {
            columns,
            texts: vec![None; columns.len()],
            figures: vec![0; columns.len()],
            revision: 0,
            status: RevisionStatus::Open,
            inputs: 0,
            first_sequence: 0,
            last_sequence: 0,
            digest: ContentDigest::default(),
            opened_sequence: 0,
            opened_at: Timestamp::UNIX_EPOCH,
            changed_at: Timestamp::UNIX_EPOCH,
            sealed_sequence: None,
            sealed_at: None,
            difference: None,
            difference_lines: 0,
            differences: Vec::new(),
        }
    }

    /// Reads a row of a report with `columns`.
    ///
    /// # Errors
    /// When the row does not have the columns' and the ledger's fields.
    pub fn from_json(columns: &'static [Column], row: &[u8]) -> Result<Self, serde_json::Error> {
        let mut decoder = serde_json::Deserializer::from_slice(row);
        let revision = RevisionSeed(columns).deserialize(&mut decoder)?;
        decoder.end()?;
        Ok(revision)
    }

    /// The row.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("revisions hold only plain data with text keys")
    }

    /// A text column of the report; none when it is null or there is no such column.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(self.index(name)?)?.as_deref()
    }

    /// All figures so far, including those of earlier revisions.
    pub fn figures(&self) -> Figures {
        self.by_name(&self.figures)
    }

    /// Figures of this revision less those of the one before; none in the first.
    pub fn difference(&self) -> Option<Figures> {
        self.difference.as_ref().map(|difference| self.by_name(difference))
    }

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn by_name(&self, figures: &FigureRow) -> Figures {
        let named = self.columns.iter().zip(figures).filter(|(column, _)| column.is_figure());
        named.map(|(column, figure)| (column.name.to_owned(), *figure)).collect()
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for ((column, text), figure) in self.columns.iter().zip(&self.texts).zip(&self.figures) {
            match (column.kind, column.name) {
                (ColumnKind::Count | ColumnKind::Amount, name) => map.serialize_entry(name, figure)?,
                (_, "revision") => map.serialize_entry("revision", &self.revision)?,
                (_, "status") => map.serialize_entry("status", &self.status)?,
                (_, name) => map.serialize_entry(name, text)?,
            }
        }
        map.serialize_entry("inputs", &self.inputs)?;
        // Rows are published under these names, so the names stay. What they hold are sequences of EVENTS, not positions of commands.
        map.serialize_entry("first_position", &self.first_sequence)?;
        map.serialize_entry("last_position", &self.last_sequence)?;
        map.serialize_entry("digest", &self.digest)?;
        map.serialize_entry("opened_position", &self.opened_sequence)?;
        map.serialize_entry("opened_at", &self.opened_at)?;
        map.serialize_entry("changed_at", &self.changed_at)?;
        if self.sealed_sequence.is_some() {
            map.serialize_entry("sealed_position", &self.sealed_sequence)?;
            map.serialize_entry("sealed_at", &self.sealed_at)?;
        }
        if let Some(difference) = &self.difference {
            let columns = self.columns;
            map.serialize_entry("difference", &NamedFigures { columns, figures: difference })?;
            map.serialize_entry("difference_lines", &self.difference_lines)?;
            map.serialize_entry("differences", &self.differences)?;
        }
        map.end()
    }
}

struct NamedFigures<'a> {
    columns: &'static [Column],
    figures: &'a FigureRow,
}

impl Serialize for NamedFigures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self.columns.iter().zip(self.figures).filter(|(column, _)| column.is_figure());
        serializer.collect_map(named.map(|(column, figure)| (column.name, figure)))
    }
}

struct RevisionSeed(&'static [Column]);

impl<'de> DeserializeSeed<'de> for RevisionSeed {
    type Value = Revision;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Revision, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RevisionSeed {
    type Value = Revision;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a revision of a report")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Revision, A::Error> {
        let mut revision = Revision::blank(self.0);
        let mut status = None;
        while let Some(field) = map.next_key_seed(FieldSeed(self.0))? {
            match field {
                Field::Text(index) => set(&mut revision.texts, index, map.next_value()?),
                Field::Figure(index) => set(&mut revision.figures, index, map.next_value()?),
                Field::Revision => revision.revision = map.next_value()?,
                Field::Status => status = Some(map.next_value()?),
                Field::Inputs => revision.inputs = map.next_value()?,
                Field::FirstPosition => revision.first_sequence = map.next_value()?,
                Field::LastPosition => revision.last_sequence = map.next_value()?,
                Field::Digest => revision.digest = map.next_value()?,
                Field::OpenedPosition => revision.opened_sequence = map.next_value()?,
                Field::OpenedAt => revision.opened_at = map.next_value()?,
                Field::ChangedAt => revision.changed_at = map.next_value()?,
                Field::SealedPosition => revision.sealed_sequence = map.next_value()?,
                Field::SealedAt => revision.sealed_at = map.next_value()?,
                Field::Difference => {
                    let figures: Figures = map.next_value()?;
                    let value = |column: &Column| figures.get(column.name).copied().unwrap_or(0);
                    revision.difference = Some(self.0.iter().map(value).collect());
                }
                Field::DifferenceLines => revision.difference_lines = map.next_value()?,
                Field::Differences => revision.differences = map.next_value()?,
                Field::Unknown => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        revision.status = status.ok_or_else(|| A::Error::missing_field("status"))?;
        if revision.revision == 0 || revision.inputs == 0 {
            return Err(A::Error::missing_field("revision, inputs"));
        }
        Ok(revision)
    }
}

fn set<T>(values: &mut [T], index: usize, value: T) {
    if let Some(place) = values.get_mut(index) {
        *place = value;
    }
}

/// A field of a row, recognised by its name without storing the name.
enum Field {
    Text(usize),
    Figure(usize),
    Revision,
    Status,
    Inputs,
    FirstPosition,
    LastPosition,
    Digest,
    OpenedPosition,
    OpenedAt,
    ChangedAt,
    SealedPosition,
    SealedAt,
    Difference,
    DifferenceLines,
    Differences,
    Unknown,
}

struct FieldSeed(&'static [Column]);

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for FieldSeed {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(match name {
            "revision" => Field::Revision,
            "status" => Field::Status,
            "inputs" => Field::Inputs,
            "first_position" => Field::FirstPosition,
            "last_position" => Field::LastPosition,
            "digest" => Field::Digest,
            "opened_position" => Field::OpenedPosition,
            "opened_at" => Field::OpenedAt,
            "changed_at" => Field::ChangedAt,
            "sealed_position" => Field::SealedPosition,
            "sealed_at" => Field::SealedAt,
            "difference" => Field::Difference,
            "difference_lines" => Field::DifferenceLines,
            "differences" => Field::Differences,
            name => match self.0.iter().enumerate().find(|(_, column)| column.name == name) {
                Some((index, column)) if column.is_figure() => Field::Figure(index),
                Some((index, _)) => Field::Text(index),
                None => Field::Unknown,
            },
        })
    }
}
