//! The places of queries that run. A query waits a moment for one, and if there are several, one client never has all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_read_side::client_shares::{ClientShares, NoPlace, Share};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a query waits for a place. The gateway waits for an answer five seconds longer than the query may run, so this is less.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// How many queries may run or wait for a place.
const ASKED_MAX: usize = 512;
/// How many of them may be one client's.
const ASKED_CLIENT_MAX: usize = 64;

/// The places.
#[derive(Debug)]
pub(super) struct RunningPlaces {
    all: Arc<Semaphore>,
    at_once: usize,
    /// The places of each client. A client without a query is forgotten when there are many.
    of_clients: Mutex<HashMap<String, Arc<Semaphore>>>,
    asked: Arc<ClientShares>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct RunningPlace {
    _of_all: OwnedSemaphorePermit,
    _of_client: OwnedSemaphorePermit,
    _asked: Share,
}

impl RunningPlaces {
    /// `at_once` places for all.
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(at_once)),
            at_once,
            of_clients: Mutex::default(),
            asked: Arc::new(ClientShares::new(ASKED_MAX, ASKED_CLIENT_MAX)),
        }
    }

    /// Takes a place for a query of a client.
    ///
    /// # Errors
    /// One sentence, if there was none in time.
    pub(super) async fn take(&self, client: &str) -> Result<RunningPlace, String> {
        let asked = self.asked.take(client).map_err(|NoPlace { max, of_client }| match of_client {
            true => {
                format!("{max} queries of this connection, or of its account, run or wait already; try again")
            }
            false => format!("{max} queries run or wait already; try again"),
        })?;
        let (own, all) = (self.of_client(client), Arc::clone(&self.all));
        // The client's own place first: who waits for that does not stand in the way of others.
        let places = async {
            Ok::<_, tokio::sync::AcquireError>((own.acquire_owned().await?, all.acquire_owned().await?))
        };
        match tokio::time::timeout(PLACE_WAIT, places).await {
            Ok(Ok((of_client, of_all))) => {
                Ok(RunningPlace { _of_all: of_all, _of_client: of_client, _asked: asked })
            }
            // Nothing closes the semaphores.
            Ok(Err(_)) | Err(_) => Err(format!("{} queries run already; try again", self.at_once)),
        }
    }

    /// A client's places: all but one in four, so that others find one.
    fn of_client(&self, client: &str) -> Arc<Semaphore> {
        let share = self.at_once.saturating_sub((self.at_once / 4).max(1)).max(1);
        let mut clients = self.of_clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() > ASKED_MAX {
            clients.retain(|_, places| Arc::strong_count(places) > 1);
        }
        Arc::clone(clients.entry(client.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(share))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_client_leaves_a_place_and_waits_for_its_own() {
        let places = RunningPlaces::new(4);
        let mut own = Vec::new();
        for _ in 0..3 {
            own.push(places.take("_INBOX.a").await.expect("it is one of its places"));
        }
        assert_eq!(places.take("_INBOX.a").await.unwrap_err(), "4 queries run already; try again");
        let other = places.take("_INBOX.b").await.expect("a place is left");
        let later = tokio::time::sleep(PLACE_WAIT / 2);
        let (waited, ()) = tokio::join!(places.take("_INBOX.c"), async {
            later.await;
            drop(other);
        });
        let _of_c = waited.expect("it has waited for a place");
        let later = tokio::time::sleep(PLACE_WAIT / 2);
        let (waited, ()) = tokio::join!(places.take("_INBOX.a"), async {
            later.await;
            own.pop();
        });
        waited.expect("it has waited for one of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_have_gone_are_forgotten_and_a_crowd_is_refused_at_once() {
        let places = RunningPlaces::new(1);
        for number in 0..10 * ASKED_MAX {
            drop(places.take(&format!("_INBOX.{number}")).await.expect("nothing runs"));
        }
        assert!(places.of_clients.lock().unwrap().len() <= ASKED_MAX + 1);
        let _runs = places.take("_INBOX.b").await.unwrap();
        let began = tokio::time::Instant::now();
        let asked = futures::future::join_all((0..=ASKED_CLIENT_MAX).map(|_| places.take("_INBOX.a"))).await;
        assert!(began.elapsed() <= PLACE_WAIT * 2);
        let at_once =
            asked.iter().filter(|asked| asked.as_ref().is_err_and(|why| why.contains("of this connection")));
        assert_eq!(at_once.count(), 1);
    }
}
