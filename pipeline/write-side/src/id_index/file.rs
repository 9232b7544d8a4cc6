//! The redb file of the index: ids by their hash, and for each record the hashes of its ids, by which ids are forgotten.
//!
//! Deliberately absent: ids that are not in the file yet, and what happens when the file is damaged ([`super`]).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use millstream_contract::{
    message_pack,
    outcome::{ContentMark, Outcome},
};
use millstream_store::{
    error::StoreError,
    sealed::{seal, unseal},
};
use redb::{ReadOnlyTable, ReadableTable, TableDefinition, TableHandle as _, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{IdEntry, IdHash, Noted};
use crate::handler_file::HandlerFile;

/// Maps an id's hash to the command's position, the sequence in OUTCOMES, and the encoded outcome and content. Values have a checksum.
const IDS: TableDefinition<&IdHash, &[u8]> = TableDefinition::new("ids-with-content");
/// Maps a sequence in OUTCOMES to the hashes of the ids in its record, one after the other.
const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("hashes-by-record");
/// One row, [`Progress`], with a checksum: with a wrong sequence, the index would claim to know ids that it lacks.
const PROGRESS: TableDefinition<&str, &[u8]> = TableDefinition::new("progress");
const PROGRESS_KEY: &str = "outcomes";
/// The tables of this release. A file with other tables comes from an earlier release and is emptied.
const TABLES: [&str; 3] = ["ids-with-content", "hashes-by-record", "progress"];
/// The approximate number of ids that are forgotten in one transaction.
const FORGET_AT_ONCE: usize = 4096;

type IdTable = ReadOnlyTable<&'static IdHash, &'static [u8]>;

/// The progress of the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The generation of OUTCOMES to which the ids belong; `None` if nothing was followed yet.
    pub(super) generation: Option<String>,
    pub(super) through: u64,
    /// The id of the record at `through`; empty if there is none.
    pub(super) record_id: String,
}

/// The file.
#[derive(Debug)]
pub(super) struct IdFile {
    file: HandlerFile,
    /// The epoch of the last [`Self::restart`]. It is changed and compared only during writes.
    epoch: AtomicU64,
}

impl IdFile {
    pub(super) fn new(file: HandlerFile) -> Self {
        Self { file, epoch: AtomicU64::default() }
    }

    /// Creates missing tables, and returns the progress.
    pub(super) fn begin(&self) -> Result<Progress, StoreError> {
        self.file.writing(|| {
            let write = self.file.begin_write()?;
            let tables = write.list_tables().map_err(|source| self.file.storage(source))?;
            let foreign: Vec<_> = tables.filter(|table| !TABLES.contains(&table.name())).collect();
            if !foreign.is_empty() {
                tracing::info!(path = %self.file.path().display(), "the id index is an earlier release's; it is learnt anew");
                self.drop_ids(&write)?;
                write.delete_table(PROGRESS).map_err(|source| self.file.table(source))?;
                for table in foreign {
                    write.delete_table(table).map_err(|source| self.file.table(source))?;
                }
            }
            self.make_tables(&write)?;
            let progress = {
                let table = write.open_table(PROGRESS).map_err(|source| self.file.table(source))?;
                let found = table.get(PROGRESS_KEY).map_err(|source| self.file.storage(source))?;
                match found {
                    Some(sealed) => unseal(PROGRESS_KEY.as_bytes(), sealed.value())
                        .and_then(|progress| message_pack::from_slice(progress).ok())
                        .ok_or_else(|| self.file.damaged("how far it has come is not what was written"))?,
                    None => Progress::default(),
                }
            };
            self.commit(write)?;
            Ok(progress)
        })
    }

    /// Notes the progress and, if asked to, empties the file in the same transaction. Otherwise, after a crash in between, an empty index would
    /// claim to know all records, and repeated ids would take effect again. Work that began before `epoch` does not write any more.
    pub(super) fn restart(&self, progress: &Progress, empty: bool, epoch: u64) -> Result<(), StoreError> {
        self.file.writing(|| {
            self.epoch.store(epoch, Ordering::Relaxed);
            let write = self.file.begin_write()?;
            if empty {
                self.drop_ids(&write)?;
                self.make_tables(&write)?;
            }
            self.write_progress(&write, progress)?;
            self.commit(write)
        })
    }

    /// The entries of some hashes, in their order. The hashes must be sorted, so that each page is read once.
    pub(super) fn find(&self, hashes: &[IdHash]) -> Result<Vec<Option<IdEntry>>, StoreError> {
        self.file.reading(|| {
            let read = self.file.begin_read()?;
            let table: IdTable = read.open_table(IDS).map_err(|source| self.file.table(source))?;
            hashes.iter().map(|hash| self.find_in(&table, hash)).collect()
        })
    }

    /// The neighbours of a missing id prove that it is missing: they are unaltered, and the id would be between them. Otherwise a flipped bit
    /// in a key, or on the way to it, would make a repeated id look new.
    fn find_in(&self, table: &IdTable, hash: &IdHash) -> Result<Option<IdEntry>, StoreError> {
        let storage = |source| self.file.storage(source);
        if let Some(next) = table.range::<&IdHash>(hash..).map_err(storage)?.next() {
            let (key, value) = next.map_err(storage)?;
            let whole = self.whole(key.value(), value.value())?;
            match key.value().cmp(hash) {
                std::cmp::Ordering::Equal => return Ok(Some(self.decoded(whole)?.entry)),
                std::cmp::Ordering::Less => return Err(self.file.damaged("ids are out of order")),
                std::cmp::Ordering::Greater => {}
            }
        }
        if let Some(before) = table.range::<&IdHash>(..hash).map_err(storage)?.next_back() {
            let (key, value) = before.map_err(storage)?;
            self.whole(key.value(), value.value())?;
            if key.value() >= hash {
                return Err(self.file.damaged("ids are out of order"));
            }
        }
        Ok(None)
    }

    /// Writes entries, sorted by hash, and the progress up to which all records are known. Writes nothing unless `epoch` is that of the file.
    pub(super) fn write(
        &self,
        entries: &[(IdHash, Noted)],
        progress: &Progress,
        epoch: u64,
    ) -> Result<(), StoreError> {
        self.file.writing(|| {
            if !self.is_in(epoch) {
                return Ok(());
            }
            let write = self.file.begin_write()?;
            let mut records: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            {
                let mut ids = write.open_table(IDS).map_err(|source| self.file.table(source))?;
                let mut value = Vec::new();
                for (hash, noted) in entries {
                    encode(hash, noted, &mut value);
                    ids.insert(hash, value.as_slice()).map_err(|source| self.file.storage(source))?;
                    records.entry(noted.sequence).or_default().extend(hash);
                }
                let mut table = write.open_table(RECORDS).map_err(|source| self.file.table(source))?;
                for (sequence, hashes) in &records {
                    table.insert(sequence, hashes.as_slice()).map_err(|source| self.file.storage(source))?;
                }
            }
            self.write_progress(&write, progress)?;
            self.commit(write)
        })
    }

    /// Forgets ids whose records are before `first_sequence`, in pieces, so that a [`Self::write`] never waits long. Returns how many. Forgets
    /// nothing unless `epoch` is that of the file.
    pub(super) fn forget_before(&self, first_sequence: u64, epoch: u64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let (count, more) = self.file.writing(|| self.forget_some(first_sequence, epoch))?;
            forgotten += count;
            if !more {
                return Ok(forgotten);
            }
        }
    }

    fn forget_some(&self, first_sequence: u64, epoch: u64) -> Result<(u64, bool), StoreError> {
        if !self.is_in(epoch) {
            return Ok((0, false));
        }
        let storage = |source| self.file.storage(source);
        let write = self.file.begin_write()?;
        let mut hashes: Vec<IdHash> = Vec::new();
        let mut forgotten = 0;
        let mut last = None;
        {
            let mut records = write.open_table(RECORDS).map_err(|source| self.file.table(source))?;
            for record in records.range(..first_sequence).map_err(storage)? {
                let (sequence, of_record) = record.map_err(storage)?;
                hashes.extend_from_slice(of_record.value().as_chunks().0);
                last = Some(sequence.value());
                if hashes.len() >= FORGET_AT_ONCE {
                    break;
                }
            }
            let Some(last) = last else { return Ok((0, false)) };
            records.retain_in(..=last, |_, _| false).map_err(storage)?;
            hashes.sort_unstable();
            let mut ids = write.open_table(IDS).map_err(|source| self.file.table(source))?;
            for hash in &hashes {
                // The id may have been used again; then a later record has it.
                let found = ids.get(hash).map_err(storage)?.map(|found| self.stored(hash, found.value()));
                if found.transpose()?.is_some_and(|noted| noted.sequence < first_sequence) {
                    ids.remove(hash).map_err(storage)?;
                    forgotten += 1;
                }
            }
        }
        self.commit(write)?;
        Ok((forgotten, hashes.len() >= FORGET_AT_ONCE))
    }

    fn is_in(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::Relaxed) == epoch
    }

    fn stored(&self, hash: &IdHash, sealed: &[u8]) -> Result<Noted, StoreError> {
        self.decoded(self.whole(hash, sealed)?)
    }

    /// The value that was stored with a checksum under `hash`.
    fn whole<'v>(&self, hash: &IdHash, sealed: &'v [u8]) -> Result<&'v [u8], StoreError> {
        unseal(hash, sealed).ok_or_else(|| self.not_as_written())
    }

    fn decoded(&self, value: &[u8]) -> Result<Noted, StoreError> {
        decode(value).ok_or_else(|| self.not_as_written())
    }

    fn not_as_written(&self) -> StoreError {
        self.file.damaged("an id is not what was written")
    }

    fn make_tables(&self, write: &WriteTransaction) -> Result<(), StoreError> {
        write.open_table(IDS).map_err(|source| self.file.table(source))?;
        write.open_table(RECORDS).map_err(|source| self.file.table(source))?;
        write.open_table(PROGRESS).map_err(|source| self.file.table(source))?;
        Ok(())
    }

    fn drop_ids(&self, write: &WriteTransaction) -> Result<(), StoreError> {
        write.delete_table(IDS).map_err(|source| self.file.table(source))?;
        write.delete_table(RECORDS).map_err(|source| self.file.table(source))?;
        Ok(())
    }

    fn write_progress(&self, write: &WriteTransaction, progress: &Progress) -> Result<(), StoreError> {
        let mut value = rmp_serde::to_vec(progress).expect("progress holds only numbers and text");
        seal(PROGRESS_KEY.as_bytes(), &mut value);
        let mut table = write.open_table(PROGRESS).map_err(|source| self.file.table(source))?;
        table.insert(PROGRESS_KEY, value.as_slice()).map(drop).map_err(|source| self.file.storage(source))
    }

    fn commit(&self, write: WriteTransaction) -> Result<(), StoreError> {
        write.commit().map_err(|source| self.file.committed(source))
    }
}

/// Writes the value of `hash` into `value`, whose old content is replaced.
fn encode(hash: &IdHash, noted: &Noted, value: &mut Vec<u8>) {
    value.clear();
    value.extend(noted.entry.position.to_le_bytes());
    value.extend(noted.sequence.to_le_bytes());
    let IdEntry { outcome, content, .. } = &noted.entry;
    rmp_serde::encode::write(value, &(outcome, content)).expect("outcomes hold only numbers and text");
    seal(hash, value);
}

fn decode(value: &[u8]) -> Option<Noted> {
    let (position, rest) = value.split_first_chunk()?;
    let (sequence, outcome) = rest.split_first_chunk()?;
    let (outcome, content): (Outcome, Option<ContentMark>) = message_pack::from_slice(outcome).ok()?;
    let entry = IdEntry { position: u64::from_le_bytes(*position), outcome, content };
    Some(Noted { sequence: u64::from_le_bytes(*sequence), entry })
}
