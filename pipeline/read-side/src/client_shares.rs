//! Shares of places that many clients want, so that one client, whatever it asks for, leaves places to the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Places, of which one client can take only some.
#[derive(Debug)]
pub struct ClientShares {
    all_max: usize,
    client_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<String, usize>,
}

/// A place that is taken. Dropping it gives the place back.
#[derive(Debug)]
pub struct Share {
    shares: Arc<ClientShares>,
    client: String,
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace {
    /// How many places are taken.
    pub max: usize,
    /// Whether the client itself has taken them; otherwise all clients together.
    pub of_client: bool,
}

impl ClientShares {
    /// Places for `all_max` in all, of which a client has at most `client_max`.
    #[must_use]
    pub fn new(all_max: usize, client_max: usize) -> Self {
        Self { all_max, client_max, taken: Mutex::default() }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`NoPlace`], if the client or all of them have taken what there is.
    pub fn take(self: &Arc<Self>, client: &str) -> Result<Share, NoPlace> {
        let mut taken = self.taken();
        let of_client = taken.by_client.get(client).copied().unwrap_or(0);
        if of_client >= self.client_max {
            return Err(NoPlace { max: self.client_max, of_client: true });
        }
        if taken.all >= self.all_max {
            return Err(NoPlace { max: self.all_max, of_client: false });
        }
        taken.all += 1;
        taken.by_client.insert(client.to_owned(), of_client + 1);
        Ok(Share { shares: Arc::clone(self), client: client.to_owned() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

/// The client, as far as a reply subject shows: everything before its last token is the inbox of one connection. If another account imports the
/// queries, the server writes reply subjects of its own, and the whole account counts as one client. A reply subject of two tokens, such as
/// `_INBOX.AbC`, is an inbox as a whole, because all clients share what stands before its last token.
#[must_use]
pub fn client_of(reply: &str) -> &str {
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
        let shares = Arc::new(ClientShares::new(3, 2));
        let one = shares.take("_INBOX.a").expect("there is room");
        let _two = shares.take("_INBOX.a").expect("there is room");
        assert_eq!(shares.take("_INBOX.a").unwrap_err(), NoPlace { max: 2, of_client: true });
        let _other = shares.take("_INBOX.b").expect("there is room for others");
        assert_eq!(shares.take("_INBOX.c").unwrap_err(), NoPlace { max: 3, of_client: false });
        drop(one);
        assert!(shares.take("_INBOX.a").is_ok());
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
