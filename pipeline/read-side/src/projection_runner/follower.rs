//! Whoever keeps the rows of a runner elsewhere as well, such as in a relational database, and always has what the file has.
//!
//! A follower stores each batch **before** the file does, rows and checkpoints together. So after a crash it is at the file's
//! checkpoint or beyond it, and passes over what comes again. Only where its own storage went back, as that of a restored backup,
//! does it lie behind; then it takes all rows of the projection from the file.

use millstream_contract::exit_code::{ExitCode, Failure};
use millstream_store::read_store::{Checkpoint, ProjectionId, ReadStore, StoreError, Uncommitted};

/// Why a follower cannot go on. The runner then ends, with the batch neither in the file nor counted as applied.
#[derive(Debug, thiserror::Error)]
#[error("the rows cannot be kept elsewhere as well")]
pub struct FollowError {
    exit_code: ExitCode,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl FollowError {
    /// The error of a follower.
    pub fn new(error: impl Failure + Send + Sync + 'static) -> Self {
        Self { exit_code: error.exit_code(), source: Box::new(error) }
    }
}

impl Failure for FollowError {
    fn exit_code(&self) -> ExitCode {
        self.exit_code
    }
}

/// Keeps the rows elsewhere. Everything is called from the thread that writes the file, in order; it may block.
pub trait RowFollower: Send + Sync + 'static {
    /// How far its rows of a projection have come; none where it has none that can be used.
    fn checkpoint(&self, projection: &ProjectionId) -> Option<Checkpoint>;

    /// A projection begins at `checkpoint` of the file. `belongs` says whether the follower's own checkpoint was found to belong to
    /// the stream as it is now.
    fn begins(&self, projection: &ProjectionId, checkpoint: &Checkpoint, belongs: bool);

    /// Stores what a batch changes, with its checkpoints, before the file has it.
    ///
    /// # Errors
    /// [`FollowError`].
    fn follow(&self, changes: &Uncommitted) -> Result<(), FollowError>;

    /// Everything that was followed is in the file now, and nothing else. Here it takes the rows of projections that it has not
    /// followed so far and that have become complete.
    ///
    /// # Errors
    /// [`FollowError`].
    fn settled(&self, store: &ReadStore) -> Result<(), FollowError>;
}

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Follower(#[from] FollowError),
}

impl ApplyError {
    /// Of an applier that nobody follows.
    pub(super) fn of_file(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Follower(_) => unreachable!("nobody follows a fold into the past"),
        }
    }
}
