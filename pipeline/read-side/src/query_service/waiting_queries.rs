//! Limits how many queries may wait for their position: all together, and those of one client. A waiting query takes no place among those that
//! are answered at once, so waiting clients do not keep others from their answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedSemaphorePermit;

use super::QueryError;

/// The limits, and who waits.
#[derive(Debug)]
pub(super) struct Waits {
    all_max: usize,
    client_max: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_client: HashMap<String, usize>,
}

/// A query that waits. Dropping it ends the wait.
pub(super) struct Wait {
    waits: Arc<Waits>,
    client: String,
}

/// The place of a query. Until it begins to wait, it counts among those that are answered at once.
pub(super) struct Place {
    pub(super) at_once: Option<OwnedSemaphorePermit>,
    pub(super) waits: Arc<Waits>,
    /// The client.
    pub(super) client: String,
}

impl Place {
    /// Moves from the queries that are answered at once to those that wait.
    pub(super) fn wait(&mut self) -> Result<Wait, QueryError> {
        let wait = self.waits.begin(&self.client)?;
        self.at_once = None;
        Ok(wait)
    }
}

impl Waits {
    pub(super) fn new(all_max: usize, client_max: usize) -> Self {
        Self { all_max, client_max, waiting: Mutex::default() }
    }

    fn begin(self: &Arc<Self>, client: &str) -> Result<Wait, QueryError> {
        let mut waiting = self.waiting();
        let of_client = waiting.by_client.get(client).copied().unwrap_or(0);
        if of_client >= self.client_max {
            return Err(QueryError::BusyWaiting { waiting_max: self.client_max, of_client: true });
        }
        if waiting.all >= self.all_max {
            return Err(QueryError::BusyWaiting { waiting_max: self.all_max, of_client: false });
        }
        waiting.all += 1;
        waiting.by_client.insert(client.to_owned(), of_client + 1);
        Ok(Wait { waits: Arc::clone(self), client: client.to_owned() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.waits.waiting();
        waiting.all = waiting.all.saturating_sub(1);
        if let Some(count) = waiting.by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                waiting.by_client.remove(&self.client);
            }
        }
    }
}

/// The client, as far as a reply subject shows: everything before its last token is the inbox of one connection. If another account imports the
/// queries, the server writes reply subjects of its own, and the whole account counts as one client. A reply subject of two tokens, such as
/// `_INBOX.AbC`, is an inbox as a whole, because all clients share what stands before its last token.
pub(super) fn client_of(reply: &str) -> &str {
    match reply.rsplit_once('.') {
        Some((inbox, _)) if inbox.contains('.') => inbox,
        _ => reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_takes_its_share_and_leaves_the_rest() {
        let waits = Arc::new(Waits::new(3, 2));
        let one = waits.begin("_INBOX.a").unwrap_or_else(|_| panic!("there is room"));
        let _two = waits.begin("_INBOX.a").unwrap_or_else(|_| panic!("there is room"));
        assert!(matches!(waits.begin("_INBOX.a"), Err(QueryError::BusyWaiting { of_client: true, .. })));
        let _other = waits.begin("_INBOX.b").unwrap_or_else(|_| panic!("there is room for others"));
        assert!(matches!(waits.begin("_INBOX.c"), Err(QueryError::BusyWaiting { of_client: false, .. })));
        drop(one);
        assert!(waits.begin("_INBOX.a").is_ok());
    }

    #[test]
    fn client_is_the_inbox_of_a_connection() {
        assert_eq!(client_of("_INBOX.gateway.AbC.17"), "_INBOX.gateway.AbC");
        assert_eq!(client_of("_INBOX.AbC.17"), "_INBOX.AbC");
        assert_eq!(client_of("_INBOX.AbC"), "_INBOX.AbC");
        assert_eq!(client_of("reply.AbC"), "reply.AbC");
        assert_eq!(client_of("reply"), "reply");
    }
}
