//! A disk in memory that fails at a chosen operation, and what may be found on it after a power cut: everything that was synced, and any part
//! of what was written since.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use redb::StorageBackend;

/// An operation since the last sync.
#[derive(Debug, Clone)]
enum Unsynced {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct Disk {
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// What a running process reads: everything that it wrote.
    visible: Vec<u8>,
    operations: u64,
    fails_at: Option<u64>,
}

impl Disk {
    /// Counts an operation; from the chosen one on all fail.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fails_at {
            Some(at) if self.operations >= at => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    }
}

/// Which of the operations that were not synced reached the disk.
#[derive(Debug, Clone, Copy)]
pub enum Survivors {
    /// None.
    None,
    /// All.
    All,
    /// Each operation with equal chance; a write may be there only in part, in units of a sector.
    Some {
        /// Decides which.
        seed: u64,
    },
}

/// Clones share the disk.
#[derive(Debug, Clone, Default)]
pub struct CrashStorage(Arc<Mutex<Disk>>);

impl CrashStorage {
    /// A disk with this content, on which every operation from the `fails_at`th on fails.
    pub fn new(image: Vec<u8>, fails_at: Option<u64>) -> Self {
        let disk = Disk { synced: image.clone(), visible: image, fails_at, ..Disk::default() };
        Self(Arc::new(Mutex::new(disk)))
    }

    /// How many writes, syncs and changes of length there were.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Whether an operation has failed.
    pub fn has_failed(&self) -> bool {
        let disk = self.disk();
        disk.fails_at.is_some_and(|at| disk.operations >= at)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("nothing panics while it holds the disk")
    }

    /// The content of the disk after the power cut.
    pub fn after_power_cut(&self, survivors: Survivors) -> Vec<u8> {
        const SECTOR: usize = 512;
        let disk = self.disk();
        let mut image = disk.synced.clone();
        let mut state = match survivors {
            Survivors::None => return image,
            Survivors::All => 0,
            Survivors::Some { seed } => seed | 1,
        };
        let mut survives = || {
            // A xorshift generator: only variety matters here.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state == 0 || state & 0x10 != 0
        };
        for operation in &disk.unsynced {
            match operation {
                Unsynced::Length(length) => image.resize(*length, 0),
                Unsynced::Write { offset, data } => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        let start = offset + index * SECTOR;
                        if survives()
                            && let Some(place) = image.get_mut(start..start + sector.len())
                        {
                            place.copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        image
    }
}

/// An offset on the disk. It is invalid if it is beyond what memory can hold.
fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl StorageBackend for CrashStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().visible.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = index(offset)?;
        let disk = self.disk();
        let bytes = disk
            .visible
            .get(start..start + out.len())
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = index(length)?;
        let mut disk = self.disk();
        disk.operate()?;
        disk.visible.resize(length, 0);
        disk.unsynced.push(Unsynced::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.operate()?;
        disk.synced = disk.visible.clone();
        disk.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = index(offset)?;
        let mut disk = self.disk();
        disk.operate()?;
        disk.visible
            .get_mut(offset..offset + data.len())
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?
            .copy_from_slice(data);
        disk.unsynced.push(Unsynced::Write { offset, data: data.to_vec() });
        Ok(())
    }
}
