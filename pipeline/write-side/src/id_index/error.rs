//! Why the index of command ids cannot be used.

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_store::error::StoreError;

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdIndexError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] StoreError),
    /// The file was damaged. It has been set aside, and an empty one was begun. The new file has to follow OUTCOMES from its beginning before
    /// anything is decided.
    #[error("the id index was damaged and is learnt anew from OUTCOMES")]
    BegunAnew,
}

impl Failure for IdIndexError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::File(error) => error.exit_code(),
            Self::BegunAnew => ExitCode::InputOutput,
        }
    }
}
