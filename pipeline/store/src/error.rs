//! Why a file cannot be used. The variants distinguish what can be done about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_contract::exit_code::{ExitCode, Failure};
use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};

/// Why a file of a stage cannot be used. Its content is still consistent after each of these errors, because a transaction takes effect as a
/// whole or not at all. After an error during a write, the file must be closed and opened again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "{} is in use by another process: give each process its own data_directory, or stop the other one",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// There is no space.
    #[error("no space left for {}: free some, then start again; nothing is lost", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// The operating system's message.
        #[source]
        source: io::Error,
    },
    /// It may not be written.
    #[error("{} cannot be written: check who owns data_directory and whether it is mounted read-only", path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// The operating system's message.
        #[source]
        source: io::Error,
    },
    /// It is not a redb file, or its content is damaged.
    #[error("{} is damaged ({detail})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The operating system failed to read or write it.
    #[error("reading or writing {} failed", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's message.
        #[source]
        source: io::Error,
    },
    /// redb refuses because of a mistake in this program or because of an earlier failure.
    #[error("the file {} cannot go on ({detail}): start the process again", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// redb's words.
        detail: String,
    },
}

impl Failure for StoreError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::InUse { .. } => ExitCode::AlreadyRunning,
            Self::NotWritable { .. } => ExitCode::CannotCreate,
            Self::DiskFull { .. } | Self::Io { .. } | Self::Damaged { .. } => ExitCode::InputOutput,
            Self::Unusable { .. } => ExitCode::Software,
        }
    }
}

impl StoreError {
    /// Whether setting the file aside and building it anew would help.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// What a failure of the system to open, read or write the file means.
    pub fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, source }
            }
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Self::Damaged { path, detail: source.to_string() }
            }
            _ => Self::Io { path, source },
        }
    }

    /// What redb's failure to read or write means.
    pub fn from_storage(path: &Path, error: StorageError) -> Self {
        match error {
            StorageError::Io(source) => Self::from_io(path, source),
            StorageError::Corrupted(detail) => Self::Damaged { path: path.to_owned(), detail },
            other => Self::Unusable { path: path.to_owned(), detail: other.to_string() },
        }
    }

    /// What redb's failure to open the file means.
    pub fn from_open(path: &Path, error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::InUse { path: path.to_owned() },
            DatabaseError::Storage(error) => Self::from_storage(path, error),
            DatabaseError::UpgradeRequired(version) => Self::Damaged {
                path: path.to_owned(),
                detail: format!("it has the older file format {version}"),
            },
            other => Self::Unusable { path: path.to_owned(), detail: other.to_string() },
        }
    }

    /// What redb's failure to begin a transaction means.
    pub fn from_transaction(path: &Path, error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => Self::from_storage(path, error),
            other => Self::Unusable { path: path.to_owned(), detail: other.to_string() },
        }
    }

    /// What redb's failure to open a table means.
    pub fn from_table(path: &Path, error: TableError) -> Self {
        match error {
            TableError::Storage(error) => Self::from_storage(path, error),
            TableError::TableTypeMismatch { .. }
            | TableError::TableIsMultimap(_)
            | TableError::TypeDefinitionChanged { .. } => {
                Self::Damaged { path: path.to_owned(), detail: error.to_string() }
            }
            other => Self::Unusable { path: path.to_owned(), detail: other.to_string() },
        }
    }

    /// What redb's failure to commit means.
    pub fn from_commit(path: &Path, error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => Self::from_storage(path, error),
            other => Self::Unusable { path: path.to_owned(), detail: other.to_string() },
        }
    }
}
