//! Why the index of command ids cannot be used.

use std::io;

use millstream_contract::exit_code::{ExitCode, Failure};

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdIndexError {
    /// Another process has the file open.
    #[error(
        "the id index {path} is in use by another process: give each process its own data_directory, or stop the other one"
    )]
    InUse {
        /// Its path.
        path: String,
    },
    /// The file may not be written.
    #[error(
        "the id index {path} cannot be written: check who owns data_directory and whether it is mounted read-only"
    )]
    NotWritable {
        /// Its path.
        path: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// There is no space.
    #[error("no space left for the id index {path}: free some, then start again; nothing is lost")]
    DiskFull {
        /// Its path.
        path: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened.
    #[error("the id index {path} cannot be opened; it may be deleted, it is read again from OUTCOMES")]
    Open {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: Box<redb::DatabaseError>,
    },
    /// Reading or writing failed.
    #[error("the id index cannot be read or written; it may be deleted, it is read again from OUTCOMES")]
    Storage(#[source] Box<redb::Error>),
}

impl Failure for IdIndexError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::InUse { .. } => ExitCode::AlreadyRunning,
            Self::NotWritable { .. } => ExitCode::CannotCreate,
            Self::DiskFull { .. } | Self::Open { .. } | Self::Storage(_) => ExitCode::InputOutput,
        }
    }
}

impl<E: Into<redb::Error>> From<E> for IdIndexError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(source) if is_full(&source) => Self::DiskFull { path: String::new(), source },
            other => Self::Storage(Box::new(other)),
        }
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
