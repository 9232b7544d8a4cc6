//! The folder of golden files and records: it is read whole, and new files are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use millstream_contract::exit_code::{ExitCode, Failure};
use serde::Serialize;
use serde_json::Value;

use super::{AggregateRecord, RECORD_FILE};

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenFilesError {
    /// A file or folder cannot be read or written.
    #[error("{path} cannot be used")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not have the expected content.
    #[error("{path} cannot be read; restore it from version control")]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Failure for GoldenFilesError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::File { source, .. } => ExitCode::of_file_error(source),
            Self::Content { .. } => ExitCode::Data,
        }
    }
}

/// What the folder holds for an aggregate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AggregateFiles {
    /// Golden bodies by `<type>.v<version>`.
    pub(super) bodies: BTreeMap<String, Value>,
    /// The bodies that have no file yet.
    pub(super) made_up: BTreeSet<String>,
    pub(super) record: AggregateRecord,
}

/// What the folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoldenFiles {
    folder: PathBuf,
    /// By `<context>/<aggregate>`.
    pub(super) aggregates: BTreeMap<String, AggregateFiles>,
}

impl GoldenFiles {
    /// Reads a folder.
    ///
    /// # Errors
    /// [`GoldenFilesError`].
    pub fn read(folder: &Path) -> Result<Self, GoldenFilesError> {
        let mut aggregates: BTreeMap<String, AggregateFiles> = BTreeMap::new();
        for context in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
            for aggregate in entries(&context)?.into_iter().filter(|path| path.is_dir()) {
                let key = format!("{}/{}", name(&context), name(&aggregate));
                aggregates.insert(key, read_aggregate(&aggregate)?);
            }
        }
        Ok(Self { folder: folder.to_owned(), aggregates })
    }

    /// Writes the records and the new golden files. An existing golden file is never written.
    ///
    /// # Errors
    /// [`GoldenFilesError::File`].
    pub fn write_records(&self) -> Result<(), GoldenFilesError> {
        for (key, files) in &self.aggregates {
            let folder = self.folder.join(key);
            fs::create_dir_all(&folder)
                .map_err(|source| GoldenFilesError::File { path: folder.clone(), source })?;
            for (name, body) in files.bodies.iter().filter(|(name, _)| files.made_up.contains(*name)) {
                write_json(folder.join(format!("{name}.json")), body)?;
            }
            write_json(folder.join(RECORD_FILE), &files.record)?;
        }
        Ok(())
    }
}

fn write_json(path: PathBuf, value: &impl Serialize) -> Result<(), GoldenFilesError> {
    let text = serde_json::to_string_pretty(value).expect("they hold only plain data with text keys");
    fs::write(&path, text + "\n").map_err(|source| GoldenFilesError::File { path, source })
}

fn read_aggregate(folder: &Path) -> Result<AggregateFiles, GoldenFilesError> {
    let mut files = AggregateFiles::default();
    for path in entries(folder)? {
        let text = fs::read(&path).map_err(|source| GoldenFilesError::File { path: path.clone(), source })?;
        let content = |source| GoldenFilesError::Content { path: path.clone(), source };
        let file = name(&path);
        if file == RECORD_FILE {
            files.record = serde_json::from_slice(&text).map_err(content)?;
        } else {
            let body = serde_json::from_slice(&text).map_err(content)?;
            files.bodies.insert(file.strip_suffix(".json").unwrap_or(&file).to_owned(), body);
        }
    }
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, GoldenFilesError> {
    let failed = |source| GoldenFilesError::File { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
