//! Writes ids to their file while the handler does other work. With many millions of ids, a single write takes seconds, because each id may
//! change another page.

use std::sync::Arc;

use millstream_runtime::file_work::{do_file_work, end_of};
use tokio::task::JoinHandle;

use crate::id_index::{IdIndex, IdIndexError};

/// The write that is under way. If it outlives the turn that began it, the epoch of the index makes it harmless.
#[derive(Debug, Default)]
pub(super) struct IdFlush(Option<JoinHandle<Result<(), IdIndexError>>>);

impl IdFlush {
    /// Begins a write when enough ids have gathered. While this handler `is_behind`, and many more ids are about to come, it begins later. It
    /// waits only if ids gather much faster than they can be written. Cancelling loses nothing.
    ///
    /// # Errors
    /// The error of a write that has ended.
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

/// Writes everything.
pub(super) async fn flush(index: &Arc<IdIndex>) -> Result<(), IdIndexError> {
    let index = index.clone();
    do_file_work(move || index.flush()).await
}
