//! The way a command ends if it cannot do what it was asked to do.

use std::{fmt::Display, io, path::Path};

use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
};

/// The message to print and the exit code. Every error that knows its exit code is converted by `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandFailure {
    /// One line.
    pub(crate) message: String,
    /// The code.
    pub(crate) code: u8,
}

impl CommandFailure {
    /// A failure without an underlying error.
    pub(crate) fn new(code: ExitCode, message: impl Display) -> Self {
        Self { message: message.to_string(), code: code.number() }
    }

    /// The same, with an exit code of the command's own.
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The command line, or something that it names, is wrong.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(ExitCode::Usage, message)
    }

    /// A file cannot be used.
    pub(crate) fn file(path: &Path, error: &io::Error) -> Self {
        Self::new(ExitCode::of_file_error(error), format_args!("{}: {error}", path.display()))
    }

    /// Data from elsewhere is invalid.
    pub(crate) fn data(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(ExitCode::Data, one_line(error))
    }
}

impl<E: Failure> From<E> for CommandFailure {
    fn from(error: E) -> Self {
        Self { message: one_line(&error), code: error.exit_code().number() }
    }
}
