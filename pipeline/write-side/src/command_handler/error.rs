//! The errors that end a command handler.

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_jetstream::broker::{BrokerError, ReadError};

use crate::{
    id_index::IdIndexError, outcome_journal::JournalError, settlement::SettleError,
    state_snapshots::StoreError,
};

/// Why a handler ends: it cannot continue, and waiting would not help.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The outcome journal cannot be continued.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A round cannot be settled.
    #[error(transparent)]
    Settle(#[from] SettleError),
    /// COMMANDS, OUTCOMES or EVENTS cannot be read any further.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The index of ids failed.
    #[error(transparent)]
    Index(#[from] IdIndexError),
    /// The file of snapshots cannot be followed.
    #[error(transparent)]
    Snapshots(#[from] StoreError),
    /// The server refused a question for good.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The journal names more than a stream holds.
    #[error(
        "{stream} ends at sequence {last}, but OUTCOMES or this handler names {named}: the server has lost its tail; restore {stream} from a backup or a replica before going on"
    )]
    LostTail {
        /// The stream.
        stream: &'static str,
        /// The last sequence of the stream.
        last: u64,
        /// The sequence that the journal names.
        named: u64,
    },
    /// The server gave a commit a sequence that another commit already had.
    #[error(
        "EVENTS stored a commit at sequence {stored}, but went to {known} before: the server has lost its tail; restore EVENTS from a backup or a replica before going on"
    )]
    FellBack {
        /// The sequence of the commit.
        stored: u64,
        /// The last sequence at which there were commits.
        known: u64,
    },
    /// Another commit stands where this handler knew a different one.
    #[error(
        "EVENTS holds another commit at sequence {sequence} than before: the server has lost its tail and stored others in its place; restore EVENTS from a backup or a replica before going on"
    )]
    OtherCommit {
        /// The sequence.
        sequence: u64,
    },
    /// There is no journal, and COMMANDS is not the stream whose positions EVENTS names.
    #[error(
        "OUTCOMES holds no record, but the commits of EVENTS name positions of another COMMANDS up to {highest}, and this one begins at {first}: its commands could be taken for those; restore COMMANDS and OUTCOMES from a backup, or delete both and run `millstream setup`, which makes COMMANDS begin behind {highest}"
    )]
    NoJournal {
        /// The highest position that EVENTS names.
        highest: u64,
        /// The first sequence of COMMANDS.
        first: u64,
    },
}

impl HandlerError {
    /// Whether the id index was damaged and is empty now. It is learnt from OUTCOMES before the next turn, and then the handler continues.
    pub(super) fn index_begun_anew(&self) -> bool {
        matches!(
            self,
            Self::Index(IdIndexError::BegunAnew) | Self::Settle(SettleError::Index(IdIndexError::BegunAnew))
        )
    }
}

impl Failure for HandlerError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Journal(error) => error.exit_code(),
            Self::Broker(error) => error.exit_code(),
            Self::Settle(error) => error.exit_code(),
            Self::Index(error) => error.exit_code(),
            Self::Snapshots(error) => error.exit_code(),
            Self::Read(error) => error.exit_code(),
            Self::LostTail { .. }
            | Self::FellBack { .. }
            | Self::OtherCommit { .. }
            | Self::NoJournal { .. } => ExitCode::Data,
        }
    }
}
