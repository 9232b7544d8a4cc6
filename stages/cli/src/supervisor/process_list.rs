//! `processes.json`: which processes a supervisor runs, for people, scripts and tests that kill one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessEntry {
    /// `nats-server`, `projector`, `command-handler-2`, …
    pub(crate) name: String,
    /// The running process; absent while it does not run.
    pub(crate) pid: Option<u32>,
    /// How often it was started again.
    pub(crate) restarts: u64,
    /// Its log file.
    pub(crate) log: PathBuf,
}

/// The list, kept in a file. Each change replaces the file in one step: a reader never sees half of it.
#[derive(Debug)]
pub(crate) struct ProcessList {
    path: PathBuf,
    entries: Mutex<BTreeMap<String, ProcessEntry>>,
}

impl ProcessList {
    /// An empty list at `path`.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), entries: Mutex::default() }
    }

    /// Adds or replaces the entry of a name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn put(&self, entry: ProcessEntry) -> io::Result<()> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(entry.name.clone(), entry);
        let list: Vec<&ProcessEntry> = entries.values().collect();
        let text = serde_json::to_vec_pretty(&list).expect("entries are plain data");
        let fresh = self.path.with_extension("json.new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.path)
    }

    /// The entry of a name.
    pub(crate) fn get(&self, name: &str) -> Option<ProcessEntry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}
