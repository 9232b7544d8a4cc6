//! The places of queries, of which one client has only some: of those that are answered at once, and of those that wait for their position.
//! A waiting query takes no place among those that are answered at once, so waiting clients do not keep others from their answers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::QueryError;
use crate::client_shares::{ClientShares, NoPlace, Share};

/// The places of the queries that are answered at once.
#[derive(Debug)]
pub(super) struct PlacesAtOnce {
    all: Arc<Semaphore>,
    max: usize,
    of_clients: Arc<ClientShares>,
}

/// A place among those that are answered at once, until it is dropped.
#[derive(Debug)]
pub(super) struct PlaceAtOnce {
    _of_all: OwnedSemaphorePermit,
    _of_client: Option<Share>,
}

impl PlacesAtOnce {
    /// `max` places for all. A client has three in four of them, and one at least.
    pub(super) fn new(max: usize) -> Self {
        let client_max = max.saturating_sub(max.div_ceil(4)).max(1);
        Self {
            all: Arc::new(Semaphore::new(max)),
            max,
            of_clients: Arc::new(ClientShares::new(max, client_max)),
        }
    }

    /// Takes a place for a client.
    ///
    /// # Errors
    /// [`QueryError::Busy`] when there is none.
    pub(super) fn take(&self, client: &str) -> Result<PlaceAtOnce, QueryError> {
        let busy = |NoPlace { max, of_client }| QueryError::Busy { in_flight_max: max, of_client };
        let of_client = self.of_clients.take(client).map_err(busy)?;
        let of_all = Arc::clone(&self.all).try_acquire_owned();
        let of_all = of_all.map_err(|_| busy(NoPlace { max: self.max, of_client: false }))?;
        Ok(PlaceAtOnce { _of_all: of_all, _of_client: Some(of_client) })
    }

    /// Waits for a place, whoever it is for. `None` never comes: nothing closes the semaphore.
    pub(super) async fn wait(&self) -> Option<PlaceAtOnce> {
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(PlaceAtOnce { _of_all: of_all, _of_client: None })
    }
}

/// The place of a query. Until it begins to wait, it counts among those that are answered at once.
pub(super) struct Place {
    pub(super) at_once: Option<PlaceAtOnce>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_a_quarter_of_the_places_to_the_others() {
        for (max, share) in [(1, 1), (2, 1), (4, 3), (1_024, 768)] {
            let places = PlacesAtOnce::new(max);
            let own: Vec<_> =
                (0..share).map(|_| places.take("_INBOX.a").expect("it is of its share")).collect();
            let others: Vec<_> = (share..max).map(|_| places.take("_INBOX.b").expect("it is left")).collect();
            let full = places.take("_INBOX.c").unwrap_err();
            assert!(matches!(full, QueryError::Busy { of_client: false, .. }), "{full}");
            drop(others);
            let refused = places.take("_INBOX.a").unwrap_err();
            assert!(matches!(refused, QueryError::Busy { of_client: true, .. }), "{refused}");
            drop(own);
            assert!(places.take("_INBOX.a").is_ok(), "its places are back");
        }
    }
}
