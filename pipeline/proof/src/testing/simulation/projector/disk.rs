//! The projector's disk, and what its file must say whenever it is opened.

use millstream_contract::{stored_message::StoredMessage, testing::dice::Dice};
use millstream_store::{
    read_store::{ReadStore, StoreError},
    testing::crash_storage::{CrashStorage, Survivors},
};

use super::projections::Projected;

/// Memory for redb's pages.
const CACHE: usize = 1024 * 1024;

/// A disk with one file, open or not.
pub(super) struct Disk {
    image: Vec<u8>,
    storage: Option<CrashStorage>,
}

impl Disk {
    /// A disk with an empty file: a projector makes it under another name, so that no crash leaves half of it.
    pub(super) fn new() -> Self {
        let storage = CrashStorage::default();
        drop(ReadStore::with_backend(storage.clone(), CACHE));
        Self { image: storage.after_power_cut(Survivors::All), storage: None }
    }

    /// Opens the file; the disk fails for good at one of the operations that follow, if `fails_after` says so.
    pub(super) fn open(&mut self, fails_after: Option<u64>) -> Result<ReadStore, StoreError> {
        let storage = CrashStorage::new(self.image.clone(), fails_after);
        self.storage = Some(storage.clone());
        ReadStore::with_backend(storage, CACHE)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.storage.as_ref().is_some_and(CrashStorage::has_failed)
    }

    /// The process is gone; all that it has written stays.
    pub(super) fn keep(&mut self) {
        self.take(Survivors::All);
    }

    /// The machine is gone; what was not synced stays by chance.
    pub(super) fn power_cut(&mut self, dice: &mut Dice) {
        let survivors = match dice.below(3) {
            0 => Survivors::None,
            1 => Survivors::All,
            _ => Survivors::Some { seed: dice.bits() },
        };
        self.take(survivors);
    }

    fn take(&mut self, survivors: Survivors) {
        if let Some(storage) = self.storage.take() {
            self.image = storage.after_power_cut(survivors);
        }
    }
}

/// Looks whether the rows of each projection are the fold of what its checkpoint names, in one of the histories that the
/// stream has ever had.
pub(super) fn reads_back(
    store: &ReadStore,
    projected: &Projected,
    ever: &[Vec<StoredMessage>],
) -> Vec<String> {
    projected.each().filter_map(|each| each.disagreement(store, ever)).collect()
}
