//! Limits how many queries may wait for their position: all together, and those of one client. A waiting query takes no place among those that
//! are answered at once, so waiting clients do not keep others from their answers.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::QueryError;
use crate::client_shares::{ClientShares, NoPlace, Share};

/// The place of a query. Until it begins to wait, it counts among those that are answered at once.
pub(super) struct Place {
    pub(super) at_once: Option<OwnedSemaphorePermit>,
    pub(super) waits: Arc<ClientShares>,
    /// The client.
    pub(super) client: String,
}

impl Place {
    /// Moves from the queries that are answered at once to those that wait.
    pub(super) fn wait(&mut self) -> Result<Share, QueryError> {
        let busy = |NoPlace { max, of_client }| QueryError::BusyWaiting { waiting_max: max, of_client };
        let wait = self.waits.take(&self.client).map_err(busy)?;
        self.at_once = None;
        Ok(wait)
    }
}
