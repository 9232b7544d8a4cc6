//! The book-keeping: applies a report's entries to its revisions.

use std::collections::BTreeMap;

use super::{
    DIFFERENCES_IN_ROW_MAX, DifferenceLine, Entry, Figures, OUTBOX, Posting, Report, Revision, RevisionStatus,
};
use crate::{
    contract::commit::Envelope,
    projection::{Projection, ProjectionError, Rows},
};

/// Raised whenever the ledger writes rows in another form.
const LEDGER_VERSION: u32 = 1;

/// Hexadecimal digits of a digest: 16 bytes.
const DIGEST_LENGTH: usize = 32;

/// A [`Report`] as a projection.
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

    fn tables(&self) -> &'static [&'static str] {
        self.0.tables().all
    }

    fn handles(&self, aggregate: &str) -> bool {
        self.0.handles(aggregate)
    }

    fn apply(&self, envelope: &Envelope<'_>, rows: &mut (dyn Rows + '_)) -> Result<(), ProjectionError> {
        for entry in self.0.entries(envelope, rows)? {
            match entry {
                Entry::Post(posting) => self.post(envelope, &posting, rows)?,
                Entry::Describe { date, key, texts } => self.describe(&date, &key, texts, rows)?,
                Entry::Seal { date, key } => {
                    let place = format!("{date}/{key}");
                    if let Some(revision) = rows.read(self.0.tables().current, &place)? {
                        self.seal(envelope, &place, revision, rows);
                    }
                }
                Entry::SealDate { date } => {
                    for (place, revision) in rows.read_all(self.0.tables().current, &format!("{date}/"))? {
                        self.seal(envelope, &place, revision, rows);
                    }
                }
            }
        }
        Ok(())
    }
}

impl<R: Report> Ledger<R> {
    fn post(
        &self,
        envelope: &Envelope<'_>,
        posting: &Posting,
        rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError> {
        let place = format!("{}/{}", posting.date, posting.key);
        let mut revision = match rows.read::<Revision>(self.0.tables().current, &place)? {
            None => self.first(envelope),
            Some(sealed) if sealed.status == RevisionStatus::Sealed => next(sealed, envelope),
            Some(open) => open,
        };
        revision.texts = named(&posting.texts);
        add(&mut revision.figures, &posting.figures);
        revision.inputs += 1;
        revision.last_position = envelope.broker_sequence;
        revision.changed_at = envelope.recorded_at;
        revision.digest = chained(&revision.digest, envelope, posting);
        if let Some(difference) = &mut revision.difference {
            add(difference, &posting.figures);
            revision.difference_lines += 1;
            let line = difference_line(envelope, posting);
            let key = format!("{place}#{:06}/{:06}", revision.revision, revision.difference_lines);
            rows.write(self.0.tables().differences, &key, &line);
            if revision.differences.len() < DIFFERENCES_IN_ROW_MAX {
                revision.differences.push(line);
            }
        }
        if revision.revision == 1 && revision.figures.values().all(|figure| *figure == 0) {
            revision.status = RevisionStatus::Withdrawn;
        }
        self.write(&place, &revision, rows);
        Ok(())
    }

    fn describe(
        &self,
        date: &str,
        key: &str,
        texts: Vec<(&'static str, Option<String>)>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<(), ProjectionError> {
        let place = format!("{date}/{key}");
        let texts = named(&texts);
        match rows.read::<Revision>(self.0.tables().current, &place)? {
            Some(mut open) if open.status == RevisionStatus::Open && open.texts != texts => {
                open.texts = texts;
                self.write(&place, &open, rows);
            }
            _ => {}
        }
        Ok(())
    }

    fn seal(&self, envelope: &Envelope<'_>, place: &str, mut revision: Revision, rows: &mut (dyn Rows + '_)) {
        if revision.status == RevisionStatus::Open {
            revision.status = RevisionStatus::Sealed;
            revision.sealed_position = Some(envelope.broker_sequence);
            revision.sealed_at = Some(envelope.recorded_at);
            self.write(place, &revision, rows);
        }
    }

    /// Writes a revision everywhere; one that was withdrawn only to the outbox.
    fn write(&self, place: &str, revision: &Revision, rows: &mut (dyn Rows + '_)) {
        let tables = self.0.tables();
        let revision_key = format!("{place}#{:06}", revision.revision);
        let row = serde_json::to_vec(revision).expect("revisions hold only plain data with text keys");
        if revision.status == RevisionStatus::Withdrawn {
            rows.delete(tables.current, place);
            rows.delete(tables.revisions, &revision_key);
        } else {
            rows.put(tables.current, place, row.clone());
            rows.put(tables.revisions, &revision_key, row.clone());
        }
        rows.put(OUTBOX, &format!("{}/{}/{revision_key}", self.0.context(), tables.current), row);
    }

    fn first(&self, envelope: &Envelope<'_>) -> Revision {
        let figures = self.0.columns().iter().filter(|column| column.is_figure());
        Revision {
            texts: BTreeMap::new(),
            figures: figures.map(|column| (column.name.to_owned(), 0)).collect(),
            revision: 1,
            status: RevisionStatus::Open,
            inputs: 0,
            first_position: envelope.broker_sequence,
            last_position: envelope.broker_sequence,
            digest: String::new(),
            opened_position: envelope.broker_sequence,
            opened_at: envelope.recorded_at,
            changed_at: envelope.recorded_at,
            sealed_position: None,
            sealed_at: None,
            difference: None,
            difference_lines: 0,
            differences: Vec::new(),
        }
    }
}

/// The revision that a posting after a seal opens.
fn next(sealed: Revision, envelope: &Envelope<'_>) -> Revision {
    Revision {
        revision: sealed.revision + 1,
        status: RevisionStatus::Open,
        opened_position: envelope.broker_sequence,
        opened_at: envelope.recorded_at,
        sealed_position: None,
        sealed_at: None,
        difference: Some(sealed.figures.keys().map(|name| (name.clone(), 0)).collect()),
        difference_lines: 0,
        differences: Vec::new(),
        ..sealed
    }
}

/// Sums stop at the bounds of `i64` instead of halting everybody's report. Documents of a sane size never get there.
fn add(sum: &mut Figures, figures: &[(&'static str, i64)]) {
    for (name, figure) in figures {
        match sum.get_mut(*name) {
            Some(value) => *value = value.saturating_add(*figure),
            None => drop(sum.insert((*name).to_owned(), *figure)),
        }
    }
}

fn named(texts: &[(&'static str, Option<String>)]) -> BTreeMap<String, Option<String>> {
    texts.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect()
}

fn difference_line(envelope: &Envelope<'_>, posting: &Posting) -> DifferenceLine {
    DifferenceLine {
        reference: posting.reference.clone(),
        event_type: envelope.event_type.to_owned(),
        broker_sequence: envelope.broker_sequence,
        recorded_at: envelope.recorded_at,
        figures: posting.figures.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect(),
    }
}

/// The digest after a posting: a hash over the digest before and everything the posting adds.
fn chained(before: &str, envelope: &Envelope<'_>, posting: &Posting) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
    };
    part(before.as_bytes());
    part(posting.reference.as_bytes());
    part(envelope.event_type.as_bytes());
    part(&envelope.broker_sequence.to_be_bytes());
    part(&envelope.aggregate_version.to_be_bytes());
    for (name, figure) in &posting.figures {
        part(name.as_bytes());
        part(&figure.to_be_bytes());
    }
    hasher.finalize().to_hex().get(..DIGEST_LENGTH).unwrap_or_default().to_owned()
}
