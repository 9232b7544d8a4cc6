//! One revision of a report's row, and its flat JSON: text columns, figures and the ledger's own fields side by side.
//!
//! Which field is what follows from its form: a text or null is a text column, a number is a figure, unless the ledger
//! has a field of that name. So a row can be read without knowing its report.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap,
};

/// Figures by name.
pub type Figures = BTreeMap<String, i64>;

/// How many lines of difference a row carries itself; all of them are in the table of differences. Keeps a row of fixed
/// size however much comes in late.
pub const DIFFERENCES_IN_ROW_MAX: usize = 32;

/// Where a revision stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevisionStatus {
    /// It takes further postings.
    Open,
    /// An event has sealed it; it never changes again.
    Sealed,
    /// Everything posted to a first, never sealed revision was taken back, as if it had never been. Such a revision is
    /// published, but no row shows it.
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

/// A revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The text columns.
    pub texts: BTreeMap<String, Option<String>>,
    /// All figures so far, including those of earlier revisions.
    pub figures: Figures,
    /// From 1, without gaps.
    pub revision: u32,
    /// Open or sealed.
    pub status: RevisionStatus,
    /// How many postings it holds, including those of earlier revisions.
    pub inputs: u64,
    /// Sequence in EVENTS of the first of them.
    pub first_position: u64,
    /// Sequence in EVENTS of the last of them.
    pub last_position: u64,
    /// A hash chained over all of them in order: equal digests, equal inputs.
    pub digest: String,
    /// Sequence in EVENTS of the posting that opened this revision.
    pub opened_position: u64,
    /// When that was recorded.
    pub opened_at: Timestamp,
    /// When its last posting was recorded.
    pub changed_at: Timestamp,
    /// Sequence in EVENTS of the event that sealed it.
    pub sealed_position: Option<u64>,
    /// When that was recorded.
    pub sealed_at: Option<Timestamp>,
    /// Figures of this revision less those of the one before; absent in the first.
    pub difference: Option<Figures>,
    /// How many postings it has more than the revision before; 0 in the first.
    pub difference_lines: u64,
    /// The first of them, at most [`DIFFERENCES_IN_ROW_MAX`].
    pub differences: Vec<DifferenceLine>,
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, text) in &self.texts {
            map.serialize_entry(name, text)?;
        }
        map.serialize_entry("revision", &self.revision)?;
        map.serialize_entry("status", &self.status)?;
        for (name, figure) in &self.figures {
            map.serialize_entry(name, figure)?;
        }
        map.serialize_entry("inputs", &self.inputs)?;
        map.serialize_entry("first_position", &self.first_position)?;
        map.serialize_entry("last_position", &self.last_position)?;
        map.serialize_entry("digest", &self.digest)?;
        map.serialize_entry("opened_position", &self.opened_position)?;
        map.serialize_entry("opened_at", &self.opened_at)?;
        map.serialize_entry("changed_at", &self.changed_at)?;
        if self.sealed_position.is_some() {
            map.serialize_entry("sealed_position", &self.sealed_position)?;
            map.serialize_entry("sealed_at", &self.sealed_at)?;
        }
        if self.difference.is_some() {
            map.serialize_entry("difference", &self.difference)?;
            map.serialize_entry("difference_lines", &self.difference_lines)?;
            map.serialize_entry("differences", &self.differences)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RevisionVisitor)
    }
}

struct RevisionVisitor;

impl<'de> Visitor<'de> for RevisionVisitor {
    type Value = Revision;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a revision of a report")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Revision, A::Error> {
        let mut revision = blank();
        let mut status = None;
        let mut times = (None, None);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "revision" => revision.revision = map.next_value()?,
                "status" => status = Some(map.next_value()?),
                "inputs" => revision.inputs = map.next_value()?,
                "first_position" => revision.first_position = map.next_value()?,
                "last_position" => revision.last_position = map.next_value()?,
                "digest" => revision.digest = map.next_value()?,
                "opened_position" => revision.opened_position = map.next_value()?,
                "opened_at" => times.0 = Some(map.next_value()?),
                "changed_at" => times.1 = Some(map.next_value()?),
                "sealed_position" => revision.sealed_position = map.next_value()?,
                "sealed_at" => revision.sealed_at = map.next_value()?,
                "difference" => revision.difference = map.next_value()?,
                "difference_lines" => revision.difference_lines = map.next_value()?,
                "differences" => revision.differences = map.next_value()?,
                _ => match map.next_value()? {
                    Cell::Text(text) => drop(revision.texts.insert(name, text)),
                    Cell::Figure(figure) => drop(revision.figures.insert(name, figure)),
                },
            }
        }
        revision.status = status.ok_or_else(|| A::Error::missing_field("status"))?;
        revision.opened_at = times.0.ok_or_else(|| A::Error::missing_field("opened_at"))?;
        revision.changed_at = times.1.ok_or_else(|| A::Error::missing_field("changed_at"))?;
        if revision.revision == 0 {
            return Err(A::Error::missing_field("revision"));
        }
        Ok(revision)
    }
}

fn blank() -> Revision {
    Revision {
        texts: BTreeMap::new(),
        figures: Figures::new(),
        revision: 0,
        status: RevisionStatus::Open,
        inputs: 0,
        first_position: 0,
        last_position: 0,
        digest: String::new(),
        opened_position: 0,
        opened_at: Timestamp::UNIX_EPOCH,
        changed_at: Timestamp::UNIX_EPOCH,
        sealed_position: None,
        sealed_at: None,
        difference: None,
        difference_lines: 0,
        differences: Vec::new(),
    }
}

/// A field that is not the ledger's own.
enum Cell {
    Text(Option<String>),
    Figure(i64),
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CellVisitor)
    }
}

struct CellVisitor;

impl<'de> Visitor<'de> for CellVisitor {
    type Value = Cell;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, null or a whole number")
    }

    fn visit_i64<E: serde::de::Error>(self, figure: i64) -> Result<Cell, E> {
        Ok(Cell::Figure(figure))
    }

    fn visit_u64<E: serde::de::Error>(self, figure: u64) -> Result<Cell, E> {
        i64::try_from(figure).map(Cell::Figure).map_err(E::custom)
    }

    fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
        Ok(Cell::Text(Some(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Cell, E> {
        Ok(Cell::Text(None))
    }
}
