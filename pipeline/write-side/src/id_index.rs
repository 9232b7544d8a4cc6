//! The index of command ids: which ids were used, and with what outcome. A command that is sent again gets its first outcome from
//! here.
//!
//! It can be rebuilt from OUTCOMES at any time, so its file may be lost: a file that turns out to be damaged is set aside, and the ids are
//! learnt again before anything is decided. It remembers as much as OUTCOMES holds: an id whose record has been purged is forgotten. It has
//! three layers: outcomes that are settled but not recorded yet, outcomes that are recorded but not in the file yet, and the redb file. What a
//! handler has settled and could not record is dropped when it loses its turn.

mod error;
mod file;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_contract::outcome::{CommandOutcome, ContentMark, Outcome, OutcomeRecord};
use millstream_runtime::metrics::Count;
use millstream_store::error::StoreError;
use redb::{StorageBackend, backends::InMemoryBackend};

pub use self::error::IdIndexError;
use self::file::{IdFile, Progress};
use crate::handler_file::{HandlerFile, Home};

/// The number of entries in memory from which [`IdIndex::flush_due`] asks for a flush. Hashes are spread over the whole file, so a
/// flush rewrites most of its pages; the more entries share one flush, the less each costs. This is about 10 MiB of memory.
const FLUSH_AT: usize = 65_536;

/// The same while ids are learnt from many existing records, about 40 MiB. A new file then needs a quarter of the flushes, and each flush costs
/// nearly the same. This many ids may gather while a flush is under way.
const FLUSH_AT_BEHIND: usize = 262_144;

/// What an id was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdEntry {
    /// The COMMANDS position of the command that had the id first.
    pub position: u64,
    /// The outcome of that command.
    pub outcome: Outcome,
    /// A mark of what the command said, if its record has one.
    pub content: Option<ContentMark>,
}

type IdHash = [u8; 16];

/// An entry together with the sequence of its record in OUTCOMES.
#[derive(Debug, Clone)]
struct Noted {
    sequence: u64,
    entry: IdEntry,
}

#[derive(Debug, Default)]
struct Memory {
    recorded: HashMap<IdHash, Noted>,
    progress: Progress,
    /// The last call of [`IdIndex::forget_before`] went up to here.
    forgotten_before: u64,
    /// Whether the ids have to be learnt from OUTCOMES before the index may be asked, because the file was damaged and an empty one was begun.
    unlearnt: bool,
    /// How often all ids were dropped. A flush or a purge that began before may still be under way from an earlier turn, and must not take
    /// effect: it would bring back ids that the server has lost, or forget others.
    epoch: u64,
}

impl Memory {
    /// Drops everything.
    fn reset(&mut self, unlearnt: bool) {
        *self = Self { unlearnt, epoch: self.epoch + 1, ..Self::default() };
    }
}

/// What a flush writes.
struct Unwritten {
    file: Arc<IdFile>,
    entries: Vec<(IdHash, Noted)>,
    progress: Progress,
    epoch: u64,
}

/// The ids that a handler knows. The loop that settles and the one that records share it.
#[derive(Debug)]
pub struct IdIndex {
    file: Mutex<Arc<IdFile>>,
    /// `None` for an index in memory.
    home: Option<Home>,
    memory: Mutex<Memory>,
    settled: Mutex<HashMap<IdHash, IdEntry>>,
}

impl IdIndex {
    /// Opens the index file or creates it. redb keeps at most `cache_size` bytes of it in memory. A damaged file is set aside and counted in
    /// `damaged`.
    ///
    /// # Errors
    /// [`IdIndexError::File`].
    pub fn open(path: &Path, cache_size: usize, damaged: Count) -> Result<Self, IdIndexError> {
        let home = Home::new(path, cache_size, damaged);
        let file = IdFile::new(home.open()?);
        let index = match file.begin() {
            Err(error) if error.is_damage() => {
                drop(file);
                let file = IdFile::new(home.begin_anew(&error)?);
                let progress = file.begin()?;
                Self::new(file, progress, Some(home))
            }
            progress => Self::new(file, progress?, Some(home)),
        };
        Ok(index)
    }

    /// An index that lives in memory only.
    ///
    /// # Errors
    /// [`IdIndexError::File`].
    pub fn in_memory() -> Result<Self, IdIndexError> {
        Self::with_backend(InMemoryBackend::new())
    }

    /// An index over any storage, for crash tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, IdIndexError> {
        let file = IdFile::new(HandlerFile::with_backend(backend)?);
        let progress = file.begin()?;
        Ok(Self::new(file, progress, None))
    }

    fn new(file: IdFile, progress: Progress, home: Option<Home>) -> Self {
        let memory = Memory { progress, ..Memory::default() };
        Self { file: Mutex::new(Arc::new(file)), home, memory: Mutex::new(memory), settled: Mutex::default() }
    }

    /// Begins to follow OUTCOMES of `generation`, and returns the sequence after which to continue reading.
    ///
    /// An index of another generation is emptied. So is an index that knows more than OUTCOMES holds, because the stream has then lost its
    /// tail: OUTCOMES ends before [`IdIndex::through`], or the record at that sequence has the id `found`, which is not the one that was noted.
    /// `found` is `None` if OUTCOMES has been purged.
    ///
    /// # Errors
    /// [`IdIndexError`].
    pub fn follow(
        &self,
        generation: &str,
        last_sequence: u64,
        found: Option<&str>,
    ) -> Result<u64, IdIndexError> {
        let file = self.file().clone();
        self.settled().clear();
        let (progress, foreign, unknown, epoch) = {
            let mut memory = self.memory();
            let known = memory.progress.generation.as_deref();
            let foreign = known.is_some_and(|known| known != generation)
                || memory.progress.through > last_sequence
                || found
                    .is_some_and(|found| memory.progress.through > 0 && memory.progress.record_id != found);
            let unknown = known.is_none();
            if foreign {
                tracing::warn!(generation, "the id index belongs to other outcomes; building it anew");
                memory.reset(false);
            }
            memory.unlearnt = false;
            memory.progress.generation = Some(generation.to_owned());
            (memory.progress.clone(), foreign, unknown, memory.epoch)
        };
        if foreign || unknown {
            self.on_file(&file, |file| file.restart(&progress, foreign, epoch))?;
        }
        Ok(progress.through)
    }

    /// The first uses of some ids, in their order: `None` if an id is not known, or if its use was not final. Blocking, unless all ids are in
    /// memory.
    ///
    /// # Errors
    /// [`IdIndexError`].
    pub fn first_uses(&self, ids: &[Arc<str>]) -> Result<Vec<Option<IdEntry>>, IdIndexError> {
        let mut found: Vec<Option<IdEntry>> = vec![None; ids.len()];
        let mut sought: Vec<(IdHash, usize)> = Vec::new();
        // This comes before memory is asked whether the ids are learnt. An empty file that replaces this one later says nothing about them.
        let file = self.file().clone();
        {
            // Memory is asked before the file is read, because entries leave memory only after they are in the file.
            let settled = self.settled();
            let memory = self.memory();
            if memory.unlearnt {
                return Err(IdIndexError::BegunAnew);
            }
            for ((place, id), found) in ids.iter().enumerate().zip(&mut found) {
                let hash = id_hash(id);
                let known =
                    settled.get(&hash).or_else(|| memory.recorded.get(&hash).map(|noted| &noted.entry));
                match known {
                    Some(entry) => *found = Some(entry.clone()),
                    None => sought.push((hash, place)),
                }
            }
        }
        if sought.is_empty() {
            return Ok(found);
        }
        sought.sort_unstable();
        let hashes: Vec<IdHash> = sought.iter().map(|(hash, _)| *hash).collect();
        let in_file = self.on_file(&file, |file| file.find(&hashes))?;
        for ((_, place), entry) in sought.into_iter().zip(in_file) {
            if let Some(found) = found.get_mut(place) {
                *found = entry;
            }
        }
        Ok(found)
    }

    /// Notes outcomes that are settled and about to be recorded, so that the next round knows their ids.
    pub fn settle(&self, outcomes: &[CommandOutcome]) {
        self.settled().extend(outcomes.iter().filter_map(first_use));
    }

    /// Notes a record that any handler wrote and that is stored at `sequence`. All records before it must have been noted.
    pub fn note(&self, record: &OutcomeRecord, sequence: u64) {
        let mut memory = self.memory();
        if memory.unlearnt {
            // Records before this one are missing. It will be read again together with them.
            return;
        }
        for (hash, entry) in record.outcomes.iter().filter_map(first_use) {
            memory.recorded.insert(hash, Noted { sequence, entry });
        }
        if sequence > memory.progress.through {
            memory.progress.through = sequence;
            memory.progress.record_id = record.record_id.to_string();
        }
    }

    /// Notes a record that this handler wrote while it was active, and whose ids were settled.
    pub fn note_own(&self, record: &OutcomeRecord, sequence: u64) {
        self.note(record, sequence);
        // The ids stay in this layer until they are recorded, so that at any moment one of the two layers knows them.
        let mut settled = self.settled();
        for (hash, _) in record.outcomes.iter().filter_map(first_use) {
            settled.remove(&hash);
        }
    }

    /// Forgets what was settled but not recorded.
    pub fn drop_settled(&self) {
        self.settled().clear();
    }

    /// The sequence in OUTCOMES up to which every record has been noted.
    pub fn through(&self) -> u64 {
        self.memory().progress.through
    }

    /// Whether enough ids have gathered for a flush. `is_behind` says that many more are about to come.
    pub fn flush_due(&self, is_behind: bool) -> bool {
        self.memory().recorded.len() >= if is_behind { FLUSH_AT_BEHIND } else { FLUSH_AT }
    }

    /// Writes what is recorded to the file. Blocking.
    ///
    /// # Errors
    /// [`IdIndexError`]; nothing is lost.
    pub fn flush(&self) -> Result<(), IdIndexError> {
        self.write(&self.unwritten()?)
    }

    fn unwritten(&self) -> Result<Unwritten, IdIndexError> {
        let file = self.file().clone();
        let memory = self.memory();
        if memory.unlearnt {
            return Err(IdIndexError::BegunAnew);
        }
        let entries = memory.recorded.iter().map(|(hash, noted)| (*hash, noted.clone())).collect();
        let (progress, epoch) = (memory.progress.clone(), memory.epoch);
        drop(memory);
        let mut unwritten = Unwritten { file, entries, progress, epoch };
        unwritten.entries.sort_unstable_by_key(|(hash, _)| *hash);
        Ok(unwritten)
    }

    fn write(&self, unwritten: &Unwritten) -> Result<(), IdIndexError> {
        let Unwritten { file, entries, progress, epoch } = unwritten;
        self.on_file(file, |file| file.write(entries, progress, *epoch))?;
        let current = self.file();
        if !Arc::ptr_eq(&current, file) {
            // What was written is in a file that has been set aside in the meantime.
            return Err(IdIndexError::BegunAnew);
        }
        let mut memory = self.memory();
        if memory.epoch != *epoch {
            // What was written has been dropped again, and what is in memory was learnt after that.
            return Ok(());
        }
        for (hash, written) in entries {
            if memory.recorded.get(hash).is_some_and(|noted| noted.sequence == written.sequence) {
                memory.recorded.remove(hash);
            }
        }
        Ok(())
    }

    /// Forgets ids whose records are before `first_sequence` of OUTCOMES, and returns how many. Blocking. It reads only the lists of those
    /// records and writes in pieces, so that a flush never waits long for it.
    ///
    /// # Errors
    /// [`IdIndexError`]; the next call continues.
    pub fn forget_before(&self, first_sequence: u64) -> Result<u64, IdIndexError> {
        let file = self.file().clone();
        let (in_memory, epoch) = {
            let mut memory = self.memory();
            if memory.forgotten_before >= first_sequence {
                return Ok(0);
            }
            let before = memory.recorded.len();
            memory.recorded.retain(|_, noted| noted.sequence >= first_sequence);
            ((before - memory.recorded.len()) as u64, memory.epoch)
        };
        Ok(in_memory + self.forget_in_file(&file, first_sequence, epoch)?)
    }

    fn forget_in_file(
        &self,
        file: &Arc<IdFile>,
        first_sequence: u64,
        epoch: u64,
    ) -> Result<u64, IdIndexError> {
        let forgotten = self.on_file(file, |file| file.forget_before(first_sequence, epoch))?;
        let mut memory = self.memory();
        if memory.epoch == epoch {
            memory.forgotten_before = memory.forgotten_before.max(first_sequence);
        }
        Ok(forgotten)
    }

    /// Runs `work` on the file. If it shows that the file is damaged, an empty file takes its place.
    fn on_file<T>(
        &self,
        file: &Arc<IdFile>,
        work: impl FnOnce(&IdFile) -> Result<T, StoreError>,
    ) -> Result<T, IdIndexError> {
        match work(file) {
            Err(error) if error.is_damage() => Err(self.begin_anew(file, error)),
            done => Ok(done?),
        }
    }

    fn begin_anew(&self, file: &Arc<IdFile>, error: StoreError) -> IdIndexError {
        let Some(home) = &self.home else { return IdIndexError::File(error) };
        let mut current = self.file();
        // If not, another task has already found the damage.
        if Arc::ptr_eq(&current, file) {
            let begun = home.begin_anew(&error).map(IdFile::new);
            let begun = begun.and_then(|file| file.begin().map(|_| file));
            match begun {
                Ok(file) => *current = Arc::new(file),
                Err(error) => return IdIndexError::File(error),
            }
            self.memory().reset(true);
        }
        IdIndexError::BegunAnew
    }

    fn file(&self) -> MutexGuard<'_, Arc<IdFile>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settled(&self) -> MutexGuard<'_, HashMap<IdHash, IdEntry>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry for an outcome; `None` for derived ids, repeats, and outcomes that are not final.
fn first_use(outcome: &CommandOutcome) -> Option<(IdHash, IdEntry)> {
    let id = outcome.id.as_deref()?;
    let first = outcome.outcome.is_final() && !matches!(outcome.outcome, Outcome::Duplicate { .. });
    let CommandOutcome { position, outcome, content, .. } = outcome;
    first.then(|| (id_hash(id), IdEntry { position: *position, outcome: outcome.clone(), content: *content }))
}

fn id_hash(id: &str) -> IdHash {
    let mut hash = [0; 16];
    hash.copy_from_slice(blake3::hash(id.as_bytes()).as_bytes().get(..16).unwrap_or_default());
    hash
}

#[cfg(test)]
mod tests;
