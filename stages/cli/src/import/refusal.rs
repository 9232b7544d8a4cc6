//! Why a row is refused.

use super::{key::Taken, text::RowError};

/// The code of a row that is known and says something else now.
pub(super) const KNOWN_WITH_OTHER_CONTENT: &str = "known-with-other-content";
/// The code of a row that was refused as it stands here, and mended since in a file of rejects.
pub(super) const MENDED_SINCE: &str = "mended-since";

/// Why a row becomes no commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowRefusal {
    /// Short, for programs.
    pub(crate) code: String,
    /// One sentence.
    pub(crate) reason: String,
    /// Where another text has its key: which.
    pub(crate) taken: Option<Taken>,
}

impl RowRefusal {
    pub(crate) fn new(code: &str, reason: impl Into<String>) -> Self {
        Self { code: code.to_owned(), reason: reason.into(), taken: None }
    }
}

impl From<RowError> for RowRefusal {
    fn from(error: RowError) -> Self {
        let taken = match &error {
            RowError::Joined { taken, .. } => Some(*taken),
            _ => None,
        };
        Self { taken, ..Self::new(error.code(), error.to_string()) }
    }
}
