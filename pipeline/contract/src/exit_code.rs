//! How a process tells its supervisor why it ended. The numbers are those of `sysexits.h`; docs/configuration.md lists them with what to
//! do.

use std::fmt;

/// Why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// It did what it was asked to, or was asked to stop and did so in time.
    Ok,
    /// The command line is wrong.
    Usage,
    /// Stored data is invalid: an event does not decode, a stream has another generation, or a stream has lost its tail.
    Data,
    /// The server cannot be reached.
    Unavailable,
    /// An invariant of ours is broken, or ending took longer than its limit.
    Software,
    /// A file or folder cannot be made.
    CannotCreate,
    /// A file cannot be read or written: a full disk, a damaged file.
    InputOutput,
    /// Another process already does this: it owns the file or has taken over the name.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_ascending() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert!(numbers.is_sorted_by(|left, right| left < right), "{numbers:?}");
    }
}
