//! Why a round cannot be settled.

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_jetstream::broker::BrokerError;

use crate::id_index::IdIndexError;

/// Why a round cannot be settled. The handler then ends without moving the cursor.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The index of ids failed.
    #[error(transparent)]
    Index(#[from] IdIndexError),
    /// A question failed in a way that asking again does not help.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Failure for SettleError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(error) => error.exit_code(),
            Self::Index(error) => error.exit_code(),
        }
    }
}
