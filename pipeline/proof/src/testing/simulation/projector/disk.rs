//! The projector's disk, and what its file must contain whenever it is opened.

use millstream_contract::{stored_message::StoredMessage, testing::dice::Dice};
use millstream_store::{
    read_store::{Changes, Checkpoint, Durability, ProjectionId, ProjectionRows, ReadStore, StoreError},
    testing::crash_storage::{CrashStorage, Survivors},
};

use super::projections::{Ledger, Projected, projected};

/// Memory for redb's pages.
const CACHE: usize = 1024 * 1024;

/// A disk with one file, open or not.
pub(super) struct Disk {
    image: Vec<u8>,
    storage: Option<CrashStorage>,
    /// A bug: a crash happens between the transaction of the rows and that of their checkpoints.
    parts_checkpoints: bool,
    /// For that bug: the checkpoints as of the moment when the file was opened.
    checkpoints: Vec<(ProjectionId, Checkpoint)>,
}

impl Disk {
    /// A disk with an empty file.
    pub(super) fn new(parts_checkpoints: bool) -> Self {
        let mut disk = Self { image: Vec::new(), storage: None, parts_checkpoints, checkpoints: Vec::new() };
        disk.format();
        disk
    }

    /// Makes an empty file. A projector creates it under another name first, so a crash does not leave half of it.
    pub(super) fn format(&mut self) {
        let storage = CrashStorage::default();
        drop(ReadStore::with_backend(storage.clone(), CACHE));
        self.image = storage.after_power_cut(Survivors::All);
        self.storage = None;
    }

    /// Opens the file. With `fails_after`, the disk fails for good at one of the following operations.
    pub(super) fn open(&mut self, fails_after: Option<u64>) -> Result<ReadStore, StoreError> {
        let storage = CrashStorage::new(self.image.clone(), fails_after);
        self.storage = Some(storage.clone());
        let store = ReadStore::with_backend(storage, CACHE)?;
        if self.parts_checkpoints {
            self.checkpoints = checkpoints(&store)?;
        }
        Ok(store)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.storage.as_ref().is_some_and(CrashStorage::has_failed)
    }

    /// The process is gone. Everything that it has written stays.
    pub(super) fn keep(&mut self) {
        self.take(Survivors::All);
    }

    /// The machine has failed. Each part that was not synced stays or is lost at random.
    pub(super) fn power_cut(&mut self, dice: &mut Dice) {
        let survivors = match dice.below(3) {
            0 => Survivors::None,
            1 => Survivors::All,
            _ => Survivors::Some { seed: dice.bits() },
        };
        self.take(survivors);
        if self.parts_checkpoints {
            self.take_checkpoints_back();
        }
    }

    /// Keeps the rows as they are, and resets the checkpoints to what they were when the file was opened.
    fn take_checkpoints_back(&mut self) {
        let storage = CrashStorage::new(self.image.clone(), None);
        let Ok(store) = ReadStore::with_backend(storage.clone(), CACHE) else { return };
        let Ok(snapshot) = store.snapshot() else { return };
        let changes = self.checkpoints.drain(..).map(|(projection, checkpoint)| Changes {
            rows: ProjectionRows::new(&snapshot, &projection, []),
            projection,
            checkpoint: Some(checkpoint),
        });
        // The file is in memory, so nothing fails except what the simulation lets fail.
        if store.commit(changes.collect(), Durability::Durable).is_ok() {
            drop((snapshot, store));
            self.image = storage.after_power_cut(Survivors::All);
        }
    }

    fn take(&mut self, survivors: Survivors) {
        if let Some(storage) = self.storage.take() {
            self.image = storage.after_power_cut(survivors);
        }
    }
}

fn checkpoints(store: &ReadStore) -> Result<Vec<(ProjectionId, Checkpoint)>, StoreError> {
    let snapshot = store.snapshot()?;
    let mut found = Vec::new();
    for projection in projected(1).each().map(Ledger::id) {
        found.extend(snapshot.checkpoint(&projection)?.map(|checkpoint| (projection, checkpoint)));
    }
    Ok(found)
}

/// Checks that the rows of each projection are the fold of what its checkpoint names, in one of the histories that the stream has ever had.
pub(super) fn reads_back(
    store: &ReadStore,
    projected: &Projected,
    ever: &[Vec<StoredMessage>],
) -> Vec<String> {
    projected.each().filter_map(|each| each.disagreement(store, ever)).collect()
}
