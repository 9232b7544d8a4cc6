//! The index of command ids: which ids were used, and with what outcome. A command that is sent again gets its first outcome from
//! here.
//!
//! Rebuilt from OUTCOMES at any time, so its file may be lost. Its window is what OUTCOMES keeps: an id whose record has
//! been purged is forgotten. Three layers: outcomes settled but not yet recorded, outcomes recorded but not yet in the
//! file, and the redb file. What a handler settled and could not record is dropped when it loses its turn.

mod error;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use millstream_contract::{
    outcome::{CommandOutcome, Outcome, OutcomeRecord},
    seeded_bug::{SeededBug, planted},
};
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction, backends::InMemoryBackend,
};

pub use self::error::IdIndexError;
use self::error::is_full;

/// Maps an id's hash to the command's position, the sequence in OUTCOMES, and the encoded outcome.
const IDS: TableDefinition<&[u8; 16], (u64, u64, &[u8])> = TableDefinition::new("ids");
/// `generation`, `through` and `record`, as text.
const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
/// The number of entries in memory from which [`IdIndex::flush_due`] asks for a flush. Hashes are spread over the whole file, so a
/// flush rewrites most of its pages; the more entries share one flush, the less each costs. This is about 10 MiB of memory.
const FLUSH_AT: usize = 65_536;
/// Ids forgotten in one transaction.
const FORGET_AT_ONCE: usize = 4096;

impl IdIndexError {
    /// Adds the path of the file, which redb's own errors do not name.
    fn at(self, path: &str) -> Self {
        match self {
            Self::DiskFull { source, .. } => Self::DiskFull { path: path.to_owned(), source },
            other => other,
        }
    }

    fn from_open(path: &Path, error: redb::DatabaseError) -> Self {
        let path = path.display().to_string();
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse { path },
            redb::DatabaseError::Storage(redb::StorageError::Io(source)) if is_full(&source) => {
                Self::DiskFull { path, source }
            }
            redb::DatabaseError::Storage(redb::StorageError::Io(source))
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Self::NotWritable { path, source }
            }
            other => Self::Open { path, source: Box::new(other) },
        }
    }
}

/// What an id was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdEntry {
    /// The COMMANDS position of the command that had the id first.
    pub position: u64,
    /// The outcome of that command.
    pub outcome: Outcome,
}

type IdHash = [u8; 16];

#[derive(Debug, Default)]
struct Memory {
    recorded: HashMap<IdHash, (u64, IdEntry)>,
    through: u64,
    /// The id of the record at `through`; empty when there is none.
    record_id: Arc<str>,
    /// The last [`IdIndex::forget_before`] went up to here.
    forgotten_before: u64,
    /// How often entries have moved from here to the file.
    moves: u64,
}

/// The ids that a handler knows. The settling loop and the recording loop share it.
#[derive(Debug)]
pub struct IdIndex {
    database: Database,
    memory: Mutex<Memory>,
    /// Of the file, for errors; empty where there is none.
    path: String,
    settled: Mutex<HashMap<IdHash, IdEntry>>,
}

impl IdIndex {
    /// Opens the index file, or creates it.
    ///
    /// # Errors
    /// [`IdIndexError`], which distinguishes what can be done about it.
    pub fn open(path: &Path) -> Result<Self, IdIndexError> {
        let database = Database::create(path).map_err(|error| IdIndexError::from_open(path, error))?;
        let path = path.display().to_string();
        Self::with_database(database, path.clone()).map_err(|error| error.at(&path))
    }

    /// An index that lives in memory only.
    ///
    /// # Errors
    /// [`IdIndexError::Storage`].
    pub fn in_memory() -> Result<Self, IdIndexError> {
        Self::with_database(Database::builder().create_with_backend(InMemoryBackend::new())?, String::new())
    }

    /// An index over any storage, for crash tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, IdIndexError> {
        Self::with_database(Database::builder().create_with_backend(backend)?, String::new())
    }

    fn with_database(database: Database, path: String) -> Result<Self, IdIndexError> {
        let write = database.begin_write()?;
        write.open_table(IDS)?;
        let memory = {
            let meta = write.open_table(META)?;
            let text = |name| meta.get(name).map(|found| found.map(|value| value.value().to_owned()));
            let through = text("through")?.and_then(|text| text.parse().ok()).unwrap_or(0);
            let record_id = text("record")?.unwrap_or_default().into();
            Memory { through, record_id, ..Memory::default() }
        };
        write.commit()?;
        Ok(Self { database, memory: Mutex::new(memory), path, settled: Mutex::default() })
    }

    /// Begins to follow OUTCOMES of `generation`, and returns the sequence after which to read on.
    ///
    /// An index of another generation is emptied. So is one that knows more than OUTCOMES has, because the server has then lost
    /// its tail: OUTCOMES ends before [`IdIndex::through`], or `found`, the id of the record at that sequence, is not the one that
    /// was noted. `found` is `None` where OUTCOMES has been purged.
    ///
    /// # Errors
    /// [`IdIndexError::Storage`].
    pub fn follow(
        &self,
        generation: &str,
        last_sequence: u64,
        found: Option<&str>,
    ) -> Result<u64, IdIndexError> {
        let known = {
            let meta = self.database.begin_read()?.open_table(META)?;
            meta.get("generation")?.map(|value| value.value().to_owned())
        };
        self.settled().clear();
        let mut memory = self.memory();
        let foreign = known.as_deref().is_some_and(|known| known != generation)
            || memory.through > last_sequence
            || found.is_some_and(|found| {
                memory.through > 0 && *memory.record_id != *found && !planted(SeededBug::IndexBySequenceAlone)
            });
        if foreign || known.is_none() {
            let write = self.database.begin_write()?;
            if foreign {
                tracing::warn!(generation, "the id index belongs to other outcomes; building it anew");
                *memory = Memory { moves: memory.moves + 1, ..Memory::default() };
                write.delete_table(IDS)?;
                write.open_table(IDS)?;
            }
            // In the same transaction as the emptying: after a crash in between, an empty index would claim to know all records,
            // and repeated ids would take effect again.
            write_meta(&write, generation, &memory)?;
            write.commit()?;
        }
        Ok(memory.through)
    }

    /// A lookup for many ids, such as those of a round. It opens the file once for all of them.
    pub fn lookup(&self) -> IdLookup<'_> {
        IdLookup { index: self, file: None }
    }

    /// The first use of `id`, if it is known and final.
    ///
    /// # Errors
    /// [`IdIndexError::Storage`].
    pub fn get(&self, id: &str) -> Result<Option<IdEntry>, IdIndexError> {
        self.lookup().get(id)
    }

    /// Notes outcomes that are settled and about to be recorded, so that the next round knows their ids.
    pub fn settle(&self, outcomes: &[CommandOutcome]) {
        self.settled().extend(outcomes.iter().filter_map(first_use));
    }

    /// Notes a record that any handler wrote and that is stored at `sequence`. All records before it must have been noted.
    pub fn note(&self, record: &OutcomeRecord, sequence: u64) {
        let mut memory = self.memory();
        for (hash, entry) in record.outcomes.iter().filter_map(first_use) {
            memory.recorded.insert(hash, (sequence, entry));
        }
        if sequence > memory.through {
            memory.through = sequence;
            memory.record_id = record.record_id.clone();
        }
    }

    /// Notes a record that this handler wrote while it was active, and whose ids were settled.
    pub fn note_own(&self, record: &OutcomeRecord, sequence: u64) {
        self.note(record, sequence);
        // Not before they are recorded: at any moment one of the two knows them.
        let mut settled = self.settled();
        for (hash, _) in record.outcomes.iter().filter_map(first_use) {
            settled.remove(&hash);
        }
    }

    /// Forgets what was settled but not recorded.
    pub fn drop_settled(&self) {
        self.settled().clear();
    }

    /// The OUTCOMES sequence up to which every record has been noted.
    pub fn through(&self) -> u64 {
        self.memory().through
    }

    /// Whether enough has gathered for a flush to be worth it.
    pub fn flush_due(&self) -> bool {
        self.memory().recorded.len() >= FLUSH_AT
    }

    /// Writes what is recorded to the file. Blocking.
    ///
    /// # Errors
    /// [`IdIndexError::Storage`]; nothing is lost then.
    pub fn flush(&self) -> Result<(), IdIndexError> {
        self.write_recorded().map_err(|error| error.at(&self.path))
    }

    fn write_recorded(&self) -> Result<(), IdIndexError> {
        let (mut entries, through, record_id) = {
            let memory = self.memory();
            let entries: Vec<_> =
                memory.recorded.iter().map(|(hash, entry)| (*hash, entry.clone())).collect();
            (entries, memory.through, memory.record_id.clone())
        };
        entries.sort_unstable_by_key(|(hash, _)| *hash);
        let write = self.database.begin_write()?;
        {
            let mut ids = write.open_table(IDS)?;
            for (hash, (sequence, entry)) in &entries {
                let outcome = rmp_serde::to_vec(&entry.outcome).expect("outcomes hold only numbers and text");
                ids.insert(hash, (entry.position, *sequence, outcome.as_slice()))?;
            }
            let mut meta = write.open_table(META)?;
            meta.insert("through", through.to_string().as_str())?;
            meta.insert("record", &*record_id)?;
        }
        write.commit()?;
        let mut memory = self.memory();
        memory.moves += 1;
        for (hash, (sequence, _)) in &entries {
            if memory.recorded.get(hash).is_some_and(|(current, _)| current == sequence) {
                memory.recorded.remove(hash);
            }
        }
        Ok(())
    }

    /// Forgets ids whose record is before `first_sequence` of OUTCOMES. Blocking. It reads the whole file, unless it has already
    /// gone that far, and writes in pieces, so that a flush never waits long for it.
    ///
    /// # Errors
    /// [`IdIndexError::Storage`]; the next call continues.
    pub fn forget_before(&self, first_sequence: u64) -> Result<u64, IdIndexError> {
        let mut forgotten = {
            let mut memory = self.memory();
            if memory.forgotten_before >= first_sequence {
                return Ok(0);
            }
            let before = memory.recorded.len();
            memory.recorded.retain(|_, (sequence, _)| *sequence >= first_sequence);
            (before - memory.recorded.len()) as u64
        };
        let mut next = [0; 16];
        loop {
            let (expired, more) = self.expired(first_sequence, next)?;
            let write = self.database.begin_write()?;
            {
                let mut ids = write.open_table(IDS)?;
                for hash in &expired {
                    // The id may have been used again since it was found: then it is not expired any more.
                    let gone = ids.get(hash)?.is_some_and(|value| value.value().1 < first_sequence);
                    if gone {
                        ids.remove(hash)?;
                        forgotten += 1;
                    }
                }
            }
            write.commit()?;
            match more {
                Some(hash) => next = hash,
                None => break,
            }
        }
        self.memory().forgotten_before = first_sequence;
        Ok(forgotten)
    }

    /// The next expired ids from `next` on, and where to continue.
    fn expired(
        &self,
        first_sequence: u64,
        next: IdHash,
    ) -> Result<(Vec<IdHash>, Option<IdHash>), IdIndexError> {
        let ids = self.database.begin_read()?.open_table(IDS)?;
        let mut expired = Vec::new();
        for entry in ids.range::<&IdHash>(&next..)? {
            let (hash, value) = entry?;
            if expired.len() == FORGET_AT_ONCE {
                return Ok((expired, Some(*hash.value())));
            }
            if value.value().1 < first_sequence {
                expired.push(*hash.value());
            }
        }
        Ok((expired, None))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn settled(&self) -> MutexGuard<'_, HashMap<IdHash, IdEntry>> {
        self.settled.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn write_meta(write: &WriteTransaction, generation: &str, memory: &Memory) -> Result<(), IdIndexError> {
    let mut meta = write.open_table(META)?;
    meta.insert("generation", generation)?;
    meta.insert("through", memory.through.to_string().as_str())?;
    meta.insert("record", &*memory.record_id)?;
    Ok(())
}

/// The entry that an outcome makes: none for derived ids, repeats, and what is not final.
fn first_use(outcome: &CommandOutcome) -> Option<(IdHash, IdEntry)> {
    let id = outcome.id.as_deref()?;
    let first = outcome.outcome.is_final() && !matches!(outcome.outcome, Outcome::Duplicate { .. });
    first.then(|| (id_hash(id), IdEntry { position: outcome.position, outcome: outcome.outcome.clone() }))
}

/// Looks up many ids in one view of the file.
#[derive(Debug)]
pub struct IdLookup<'a> {
    index: &'a IdIndex,
    /// The file's table, and [`Memory::moves`] before it was opened.
    file: Option<(u64, IdTable)>,
}

type IdTable = ReadOnlyTable<&'static [u8; 16], (u64, u64, &'static [u8])>;

impl IdLookup<'_> {
    /// The first use of `id`, if it is known and final.
    ///
    /// # Errors
    /// [`IdIndexError::Storage`].
    pub fn get(&mut self, id: &str) -> Result<Option<IdEntry>, IdIndexError> {
        let hash = id_hash(id);
        let moves = {
            // Memory first: entries leave it only after the file has them, and `moves` tells that they have.
            if let Some(entry) = self.index.settled().get(&hash) {
                return Ok(Some(entry.clone()));
            }
            let memory = self.index.memory();
            if let Some((_, entry)) = memory.recorded.get(&hash) {
                return Ok(Some(entry.clone()));
            }
            memory.moves
        };
        let table = match &mut self.file {
            Some((seen, table)) if *seen == moves => table,
            file => &file.insert((moves, self.index.database.begin_read()?.open_table(IDS)?)).1,
        };
        let found = table.get(&hash)?;
        Ok(found.and_then(|value| {
            let (position, _, outcome) = value.value();
            Some(IdEntry { position, outcome: rmp_serde::from_slice(outcome).ok()? })
        }))
    }
}

fn id_hash(id: &str) -> IdHash {
    let mut hash = [0; 16];
    hash.copy_from_slice(blake3::hash(id.as_bytes()).as_bytes().get(..16).unwrap_or_default());
    hash
}

#[cfg(test)]
mod tests {
    use millstream_contract::outcome::{Generations, RecordKind};

    use super::*;

    fn outcome(position: u64, id: &str, outcome: Outcome) -> CommandOutcome {
        CommandOutcome { position, id: Some(id.into()), address: "a.b.c.d".into(), outcome }
    }

    /// A record of these outcomes, called after the first one's position.
    fn record(outcomes: &[CommandOutcome]) -> OutcomeRecord {
        let through = outcomes.last().map_or(0, |last| last.position);
        OutcomeRecord {
            record_id: format!("record-{}", outcomes.first().map_or(0, |first| first.position)).into(),
            kind: RecordKind::Outcomes,
            handler: "run".into(),
            after: 0,
            through,
            events_through: 0,
            outcomes: outcomes.to_vec(),
            generations: Generations { commands: "c".into(), events: "e".into() },
        }
    }

    fn accepted(position: u64, id: &str) -> CommandOutcome {
        outcome(position, id, Outcome::Accepted { position, version: 1, events: 1 })
    }

    #[test]
    fn recorded_ids_survive_reopening_and_unrecorded_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.redb");
        let index = IdIndex::open(&path).unwrap();
        assert_eq!(index.follow("g", 9, None).unwrap(), 0);
        index.note(&record(&[accepted(1, "one")]), 5);
        index.flush().unwrap();
        index.settle(&[accepted(2, "two")]);
        assert_eq!(index.get("two").unwrap().unwrap().position, 2);
        drop(index);

        let index = IdIndex::open(&path).unwrap();
        assert_eq!(index.follow("g", 9, None).unwrap(), 5);
        assert_eq!(index.get("one").unwrap().unwrap().position, 1);
        assert_eq!(index.get("two").unwrap(), None);
    }

    #[test]
    fn a_lookup_that_began_before_a_flush_finds_what_the_flush_moved() {
        let index = IdIndex::in_memory().unwrap();
        index.follow("g", 0, None).unwrap();
        let mut ids = index.lookup();
        assert_eq!(ids.get("one").unwrap(), None);
        index.note(&record(&[accepted(1, "one")]), 1);
        index.flush().unwrap();
        assert_eq!(ids.get("one").unwrap().unwrap().position, 1);
    }

    #[test]
    fn an_index_of_other_outcomes_is_emptied() {
        let index = IdIndex::in_memory().unwrap();
        index.follow("g", 0, None).unwrap();
        index.note(&record(&[accepted(1, "one")]), 5);
        index.flush().unwrap();
        assert_eq!(index.follow("h", 9, None).unwrap(), 0);
        assert_eq!(index.get("one").unwrap(), None);
    }

    #[test]
    fn lost_tail_of_outcomes_empties_the_index() {
        let index = IdIndex::in_memory().unwrap();
        index.follow("g", 0, None).unwrap();
        index.note(&record(&[accepted(1, "one")]), 5);
        assert_eq!(index.follow("g", 4, None).unwrap(), 0);
        assert_eq!(index.get("one").unwrap(), None);
    }

    #[test]
    fn lost_tail_that_has_grown_again_empties_the_index_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.redb");
        let index = IdIndex::open(&path).unwrap();
        index.follow("g", 0, None).unwrap();
        index.note(&record(&[accepted(1, "one")]), 5);
        index.flush().unwrap();
        assert_eq!(index.follow("g", 9, Some("record-1")).unwrap(), 5, "it is the record that was noted");
        assert_eq!(index.follow("g", 9, None).unwrap(), 5, "the record was purged");
        assert_eq!(index.follow("g", 9, Some("another")).unwrap(), 0);
        assert_eq!(index.get("one").unwrap(), None);
        drop(index);
        let index = IdIndex::open(&path).unwrap();
        assert_eq!(index.follow("g", 9, None).unwrap(), 0, "what was emptied claims to know nothing");
    }

    #[test]
    fn dead_letters_and_repeats_leave_the_id_free_or_with_its_first_owner() {
        let index = IdIndex::in_memory().unwrap();
        let letter = Outcome::DeadLettered { code: "c".into(), message: "m".into() };
        index.note(&record(&[outcome(1, "one", letter)]), 1);
        assert_eq!(index.get("one").unwrap(), None);
        let first = Outcome::Accepted { position: 1, version: 1, events: 1 };
        index.note(&record(&[accepted(2, "two")]), 2);
        index.note(&record(&[outcome(3, "two", Outcome::Duplicate { of: 2, first: Box::new(first) })]), 3);
        assert_eq!(index.get("two").unwrap().unwrap().position, 2);
    }

    #[test]
    fn ids_of_purged_records_are_forgotten() {
        let index = IdIndex::in_memory().unwrap();
        index.note(&record(&[accepted(1, "one")]), 1);
        index.note(&record(&[accepted(2, "two")]), 2);
        index.flush().unwrap();
        index.note(&record(&[accepted(3, "three")]), 1);
        assert_eq!(index.forget_before(2).unwrap(), 2);
        assert_eq!(index.forget_before(2).unwrap(), 0);
        assert_eq!(index.get("one").unwrap(), None);
        assert_eq!(index.get("three").unwrap(), None);
        assert!(index.get("two").unwrap().is_some());
    }

    #[test]
    fn more_ids_than_one_transaction_forgets_are_forgotten() {
        let index = IdIndex::in_memory().unwrap();
        let count = FORGET_AT_ONCE as u64 * 2 + 1;
        for position in 1..=count {
            index.note(&record(&[accepted(position, &position.to_string())]), position);
        }
        index.flush().unwrap();
        assert_eq!(index.forget_before(count).unwrap(), count - 1);
        assert!(index.get(&count.to_string()).unwrap().is_some());
        assert_eq!(index.get("1").unwrap(), None);
    }
}
