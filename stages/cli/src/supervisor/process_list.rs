//! `processes.json`: which processes a supervisor runs, for people, scripts and tests that kill one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessEntry {
    /// `nats-server`, `projector`, `command-handler-2`, …
    pub(crate) name: String,
    /// The id of the running process; absent if it does not run.
    pub(crate) pid: Option<u32>,
    /// How often it was started again.
    pub(crate) restarts: u64,
    /// Its log file.
    pub(crate) log: PathBuf,
}

/// The list, kept in a file. Each change replaces the file in one step, so a reader never sees half of it.
///
/// The file is only for information: if it cannot be written, the list continues without it.
#[derive(Debug)]
pub(crate) struct ProcessList {
    path: PathBuf,
    state: Mutex<ListState>,
}

#[derive(Debug, Default)]
struct ListState {
    entries: BTreeMap<String, ProcessEntry>,
    /// The file could not be written since the last change, and the caller tries again.
    behind: bool,
}

impl ProcessList {
    /// An empty list at `path`.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), state: Mutex::default() }
    }

    /// Adds or replaces the entry of a name.
    ///
    /// # Errors
    /// When the file cannot be written, and could be before. From now on, the caller has to call [`Self::catch_up`] until it succeeds.
    pub(crate) fn put(&self, entry: ProcessEntry) -> io::Result<()> {
        let mut state = self.lock();
        state.entries.insert(entry.name.clone(), entry);
        let written = self.write(&state);
        let known = std::mem::replace(&mut state.behind, written.is_err());
        if known { Ok(()) } else { written }
    }

    /// Writes the file if it could not be written before.
    ///
    /// # Errors
    /// When it still cannot be written.
    pub(crate) fn catch_up(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.behind {
            self.write(&state)?;
            state.behind = false;
        }
        Ok(())
    }

    fn write(&self, state: &ListState) -> io::Result<()> {
        let list: Vec<&ProcessEntry> = state.entries.values().collect();
        let text = serde_json::to_vec_pretty(&list).expect("entries are plain data");
        let fresh = self.path.with_extension("json.new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.path)
    }

    fn lock(&self) -> MutexGuard<'_, ListState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a name.
    pub(crate) fn get(&self, name: &str) -> Option<ProcessEntry> {
        self.lock().entries.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, pid: Option<u32>) -> ProcessEntry {
        ProcessEntry { name: name.to_owned(), pid, restarts: 0, log: PathBuf::from("a.log") }
    }

    #[test]
    fn list_that_could_not_be_written_is_told_once_and_catches_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/processes.json");
        let list = ProcessList::new(&path);
        assert!(list.put(entry("projector", Some(1))).is_err());
        assert!(list.put(entry("reporter", Some(2))).is_ok(), "somebody tries again already");
        assert!(list.put(entry("projector", None)).is_ok());
        assert!(list.catch_up().is_err());
        assert_eq!(list.get("projector"), Some(entry("projector", None)), "it goes on in memory");
        fs::create_dir(path.parent().unwrap()).unwrap();
        list.catch_up().unwrap();
        let written: Vec<ProcessEntry> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written, [entry("projector", None), entry("reporter", Some(2))]);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        list.catch_up().unwrap();
        assert!(list.put(entry("projector", Some(3))).is_err(), "that is news again");
    }
}
