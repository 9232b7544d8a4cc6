//! Writes ids to their file beside whatever else the handler does. With many millions of them one write takes seconds: each id may change
//! another page.

use std::sync::Arc;

use millstream_runtime::file_work::{do_file_work, end_of};
use tokio::task::JoinHandle;

use crate::id_index::{IdIndex, IdIndexError};

/// The write that is under way. One that outlives whoever began it is met by the epoch of the index.
#[derive(Debug, Default)]
pub(super) struct IdFlush(Option<JoinHandle<Result<(), IdIndexError>>>);

impl IdFlush {
    /// Begins a write where enough has gathered, later where this handler `is_behind` and much more is about to come. Waits only when ids
    /// gather much faster than they can be written. Cancelling loses nothing.
    ///
    /// # Errors
    /// Those of a write that has ended.
    pub(super) async fn keep_up(
        &mut self,
        index: &Arc<IdIndex>,
        is_behind: bool,
    ) -> Result<(), IdIndexError> {
        let must_wait = index.flush_due(true);
        if let Some(write) = self.0.as_mut().filter(|write| must_wait || write.is_finished()) {
            let written = end_of(write).await;
            self.0 = None;
            written?;
        }
        if self.0.is_none() && index.flush_due(is_behind) {
            let index = index.clone();
            self.0 = Some(tokio::spawn(do_file_work(move || index.flush())));
        }
        Ok(())
    }
}

/// Writes all that there is.
pub(super) async fn flush(index: &Arc<IdIndex>) -> Result<(), IdIndexError> {
    let index = index.clone();
    do_file_work(move || index.flush()).await
}
