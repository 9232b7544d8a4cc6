//! How a process says to its supervisor why it ended. The numbers are those of `sysexits.h`; docs/configuration.md lists
//! them with what to do.

use std::fmt;

/// Why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// It did what it was asked to, or was asked to stop and did so in time.
    Ok,
    /// The command line is wrong.
    Usage,
    /// Stored data is not what it must be: an event that does not decode, another generation, a lost tail.
    Data,
    /// The server cannot be reached.
    Unavailable,
    /// An invariant of ours is broken, or ending took longer than its limit.
    Software,
    /// A file or folder cannot be made.
    CannotCreate,
    /// A file cannot be read or written: a full disk, a damaged file.
    InputOutput,
    /// Another process does this already: it owns the file or has taken over the name.
    AlreadyRunning,
    /// The server refuses our credentials or an operation.
    NotPermitted,
    /// The configuration is wrong, or a JetStream stream is missing or different.
    Configuration,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Usage,
        Self::Data,
        Self::Unavailable,
        Self::Software,
        Self::CannotCreate,
        Self::InputOutput,
        Self::AlreadyRunning,
        Self::NotPermitted,
        Self::Configuration,
    ];

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::CannotCreate => 73,
            Self::InputOutput => 74,
            Self::AlreadyRunning => 75,
            Self::NotPermitted => 77,
            Self::Configuration => 78,
        }
    }

    /// What an error of a file means.
    #[must_use]
    pub fn of_file_error(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::ReadOnlyFilesystem
            | std::io::ErrorKind::NotADirectory
            | std::io::ErrorKind::AlreadyExists => Self::CannotCreate,
            _ => Self::InputOutput,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// An error that ends a process.
pub trait Failure: std::error::Error {
    /// The code to end with.
    fn exit_code(&self) -> ExitCode;
}

impl fmt::Display for ExitCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.number())
    }
}

/// For a stage that cannot fail.
impl Failure for std::convert::Infallible {
    fn exit_code(&self) -> ExitCode {
        match *self {}
    }
}

impl Failure for crate::broker::BrokerError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unavailable { .. } => ExitCode::Unavailable,
            Self::StreamMissing { .. } | Self::StreamForeign { .. } => ExitCode::Configuration,
            Self::Denied { .. } => ExitCode::NotPermitted,
        }
    }
}

impl Failure for crate::broker::ReadError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::TakenOver { .. } => ExitCode::AlreadyRunning,
            Self::LostTail { .. } | Self::OtherMessage { .. } | Self::OtherGeneration { .. } => {
                ExitCode::Data
            }
            Self::Broker(error) => error.exit_code(),
        }
    }
}

impl Failure for crate::broker::AppendError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Conflict { .. } => ExitCode::Software,
            Self::Unclear { .. } => ExitCode::Unavailable,
            Self::Full { .. } => ExitCode::InputOutput,
            Self::Refused { .. } => ExitCode::NotPermitted,
        }
    }
}

impl Failure for crate::read_store::StoreError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::InUse { .. } => ExitCode::AlreadyRunning,
            Self::NotWritable { .. } => ExitCode::CannotCreate,
            Self::DiskFull { .. } | Self::Io { .. } | Self::Damaged { .. } => ExitCode::InputOutput,
            Self::Unusable { .. } => ExitCode::Software,
        }
    }
}

impl Failure for crate::command_handler::HandlerError {
    fn exit_code(&self) -> ExitCode {
        use crate::{outcome_journal::JournalError, settlement::SettleError};
        match self {
            Self::Journal(JournalError::Broker(error)) | Self::Broker(error) => error.exit_code(),
            Self::Journal(
                JournalError::LostTurn { .. } | JournalError::Refused { .. } | JournalError::Closed { .. },
            ) => ExitCode::Software,
            Self::Journal(JournalError::OtherLayout { .. }) => ExitCode::Configuration,
            Self::Journal(
                JournalError::OtherGeneration { .. }
                | JournalError::NothingRecorded { .. }
                | JournalError::LayoutUnreadable { .. }
                | JournalError::Record(_),
            ) => ExitCode::Data,
            Self::Settle(SettleError::Broker(error)) => error.exit_code(),
            Self::Settle(SettleError::Index(error)) | Self::Index(error) => error.exit_code(),
            Self::Snapshots(error) => error.exit_code(),
            Self::Read(error) => error.exit_code(),
            Self::LostTail { .. } | Self::NoJournal { .. } => ExitCode::Data,
        }
    }
}

impl Failure for crate::id_index::IdIndexError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::InUse { .. } => ExitCode::AlreadyRunning,
            Self::NotWritable { .. } => ExitCode::CannotCreate,
            Self::DiskFull { .. } | Self::Open { .. } | Self::Storage(_) => ExitCode::InputOutput,
        }
    }
}

impl Failure for crate::state_snapshots::SnapshotError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Open { source, .. } => of_database_error(source),
            Self::Storage(_) => ExitCode::InputOutput,
        }
    }
}

fn of_database_error(error: &redb::DatabaseError) -> ExitCode {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => ExitCode::AlreadyRunning,
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => ExitCode::of_file_error(error),
        _ => ExitCode::InputOutput,
    }
}

impl Failure for crate::config::ConfigError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Configuration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_ascending() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted_by(|left, right| left < right), "{numbers:?}");
    }
}
