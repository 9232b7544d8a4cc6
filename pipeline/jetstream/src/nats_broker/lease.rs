//! Leases: each is a key in the key-value bucket LEASES, with a time to live that the server counts. They decide who works, never what is
//! right. If the owner of a lease has gone ([`super::lease_presence`]), another process can take the lease before it lapses.

use std::{collections::HashMap, time::Duration};

use async_nats::{HeaderMap, header::HeaderValue};
use bytes::Bytes;
use futures::StreamExt;
use millstream_contract::{
    stored_message::{Headers, StoredMessage},
    stream_names::LEASES_BUCKET,
};
use tokio::sync::Mutex;

use super::{
    NatsBroker,
    lease_presence::{Presence, is_gone},
};
use crate::broker::{AppendError, Broker, BrokerError, NewMessage};

/// The leases that this process holds.
pub(super) type Leases = HashMap<String, Held>;

/// A lease that this process holds, or may hold.
#[derive(Debug)]
pub(super) struct Held {
    /// `None` as long as the revision is not known.
    revision: Option<u64>,
    _presence: Presence,
}

/// The part of the time to live that must pass between two answers that an owner is gone. Its connection may only be reconnecting.
const CONFIRMATIONS: u32 = 16;

/// How often a single wait checks whether the lease is free.
const LOOKS: u32 = 16;

const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

fn subject(key: &str) -> String {
    format!("$KV.{LEASES_BUCKET}.{key}")
}

fn stream() -> String {
    format!("KV_{LEASES_BUCKET}")
}

/// Asks on the line of leases, for at most `limit`. So a lease never waits for traffic on the other connections, which the server processes
/// in order.
pub(super) async fn on_own_line<T, F: Future<Output = Result<T, BrokerError>>>(
    broker: &NatsBroker,
    limit: Duration,
    ask: impl FnOnce(NatsBroker) -> F,
) -> Result<T, BrokerError> {
    let unanswered =
        |detail: &str| Err(BrokerError::Unavailable { operation: "lease", detail: detail.to_owned() });
    let asked = async {
        let line = broker.lines.of_leases().await?;
        let on_line = NatsBroker { client: line.client().clone(), ..broker.clone() };
        tokio::select! {
            biased;
            answer = ask(on_line) => answer,
            () = line.lost() => unanswered("the connection of the leases is lost"),
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| unanswered("no answer in time"))
}

/// As [`Broker::hold_lease`].
pub(super) async fn hold(
    broker: &NatsBroker,
    leases: &Mutex<Leases>,
    key: &str,
    owner: &str,
    time_to_live: Duration,
) -> Result<bool, BrokerError> {
    let renewal = leases.lock().await.get(key).and_then(|held| held.revision);
    if let Some(revision) = renewal
        && let Some(revision) = write(broker, key, owner, revision, time_to_live).await?
    {
        note(leases, key, Some(revision)).await;
        return Ok(true);
    }
    // The lease is not held, or the revision is out of date, perhaps through an append of this process that got no answer. As long as this
    // is not known, this process must stay visible to those who ask for the owner.
    note(leases, key, None).await;
    let expected = match broker.last(&stream(), &subject(key)).await? {
        Some(message) if is_held(&message) && message.payload != owner.as_bytes() => {
            leases.lock().await.remove(key);
            if !is_left(broker, key, owner, &message, time_to_live).await? {
                return Ok(false);
            }
            message.sequence
        }
        Some(message) => message.sequence,
        None => 0,
    };
    // This comes before the lease is taken, because a process that finds it taken must also find its owner.
    if !leases.lock().await.contains_key(key) {
        let presence = Presence::show(&broker.lines, key, owner).await?;
        leases.lock().await.insert(key.to_owned(), Held { revision: None, _presence: presence });
    }
    let taken = write(broker, key, owner, expected, time_to_live).await?;
    match taken {
        Some(revision) => note(leases, key, Some(revision)).await,
        None => drop(leases.lock().await.remove(key)),
    }
    Ok(taken.is_some())
}

/// Notes the revision of a lease that this process holds or may hold.
async fn note(leases: &Mutex<Leases>, key: &str, revision: Option<u64>) {
    if let Some(held) = leases.lock().await.get_mut(key) {
        held.revision = revision;
    }
}

/// Whether the owner of a lease that has not lapsed is gone. The server must say so twice, and must say that this process, which listens in
/// the same way, is there. If permissions keep processes from listening, everybody seems to be gone; leases must then lapse.
async fn is_left(
    broker: &NatsBroker,
    key: &str,
    own: &str,
    lease: &StoredMessage,
    time_to_live: Duration,
) -> Result<bool, BrokerError> {
    let owner = String::from_utf8_lossy(&lease.payload);
    if !is_gone(&broker.client, key, &owner).await {
        return Ok(false);
    }
    let _presence = Presence::show(&broker.lines, key, own).await?;
    let pause = tokio::time::sleep(time_to_live / CONFIRMATIONS);
    let (unheard, ()) = tokio::join!(is_gone(&broker.client, key, own), pause);
    let gone = !unheard && is_gone(&broker.client, key, &owner).await;
    if gone {
        tracing::info!(lease = key, owner = &*owner, "the owner of the lease is not connected any more");
    }
    Ok(gone)
}

/// Writes the key if its revision is still `expected`, and returns the new revision.
async fn write(
    broker: &NatsBroker,
    key: &str,
    owner: &str,
    expected: u64,
    time_to_live: Duration,
) -> Result<Option<u64>, BrokerError> {
    let mut headers = broker.lease_headers.clone();
    headers.insert("Nats-TTL", HeaderValue::from(time_to_live.as_secs().max(1)));
    let message = NewMessage {
        subject: subject(key),
        expected_last: Some(expected),
        headers: Headers::new(),
        payload: Bytes::copy_from_slice(owner.as_bytes()),
    };
    match broker.publish(&stream(), message, headers).await {
        Ok(appended) => Ok(Some(appended.sequence)),
        Err(AppendError::Conflict { .. }) => Ok(None),
        Err(error) => Err(BrokerError::Unavailable { operation: "lease", detail: error.to_string() }),
    }
}

/// As [`Broker::release_lease`].
pub(super) async fn release(
    broker: &NatsBroker,
    leases: &Mutex<Leases>,
    key: &str,
    owner: &str,
) -> Result<(), BrokerError> {
    leases.lock().await.remove(key);
    let Some(message) = broker.last(&stream(), &subject(key)).await? else { return Ok(()) };
    if !is_held(&message) || message.payload != owner.as_bytes() {
        return Ok(());
    }
    let mut headers = HeaderMap::new();
    headers.insert(OPERATION, "DEL");
    let deletion = NewMessage {
        subject: subject(key),
        expected_last: Some(message.sequence),
        headers: Headers::new(),
        payload: Bytes::new(),
    };
    match broker.publish(&stream(), deletion, headers).await {
        Ok(_) | Err(AppendError::Conflict { .. }) => Ok(()),
        Err(error) => Err(BrokerError::Unavailable { operation: "lease", detail: error.to_string() }),
    }
}

/// As [`Broker::lease_owner`].
pub(super) async fn owner(broker: &NatsBroker, key: &str) -> Result<Option<String>, BrokerError> {
    let message = broker.last(&stream(), &subject(key)).await?.filter(is_held);
    Ok(message.map(|message| String::from_utf8_lossy(&message.payload).into_owned()))
}

/// As [`Broker::lease_freed`]. A returned lease is a message on the key's subject, the server says when its owner is gone, and a lapsed
/// lease is found by asking again after `wait`.
pub(super) async fn freed(broker: &NatsBroker, key: &str, wait: Duration) {
    let Ok(mut changes) = broker.client().subscribe(subject(key)).await else {
        tokio::time::sleep(wait).await;
        return;
    };
    let given_back = async {
        while let Some(change) = changes.next().await {
            if change.headers.as_ref().is_some_and(|headers| headers.get(OPERATION).is_some()) {
                return;
            }
        }
    };
    let left = async {
        match owner(broker, key).await {
            Ok(Some(owner)) => {
                while !is_gone(broker.client(), key, &owner).await {
                    tokio::time::sleep(wait / LOOKS).await;
                }
            }
            Ok(None) => {}
            // Without an answer, only time tells.
            Err(_) => std::future::pending().await,
        }
        // The caller may not be allowed to take it yet, and would ask again at once.
        tokio::time::sleep(wait / LOOKS).await;
    };
    // It does not matter which of them it was, because the caller asks for the lease in any case.
    tokio::select! {
        () = given_back => {}
        () = left => {}
        () = tokio::time::sleep(wait) => {}
    }
}

fn is_held(message: &StoredMessage) -> bool {
    message.headers.get(OPERATION).is_none() && message.headers.get(MARKER).is_none()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use async_nats::ConnectOptions;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        line::Dialer,
        testing::{
            relay::{Fate, Relay},
            restricted_server::RestrictedServer,
            test_server::TestServer,
        },
    };

    const TIME_TO_LIVE: Duration = Duration::from_secs(3);

    /// Renewals stood behind everything else on the process's connection. Under the load of a cold takeover they came too late, and
    /// the turn was lost.
    #[tokio::test(flavor = "multi_thread")]
    async fn lease_is_renewed_while_the_connection_of_the_process_is_stuck() {
        let server = TestServer::start_provisioned().await;
        let stopped = Arc::new(AtomicBool::new(false));
        let stops = Arc::clone(&stopped);
        let fate = move |_: &[u8]| if stops.load(Ordering::Relaxed) { Fate::Stop } else { Fate::Pass };
        let relay = Relay::start(&server.url(), fate).await;
        let client = async_nats::connect(relay.url()).await.unwrap();
        let broker = NatsBroker::new(client, Dialer::plain(&server.url()), None);
        assert!(broker.hold_lease("key", "owner", TIME_TO_LIVE).await.unwrap());
        stopped.store(true, Ordering::Relaxed);
        assert!(broker.hold_lease("key", "owner", TIME_TO_LIVE).await.unwrap());
        broker.release_lease("key", "owner").await.unwrap();
    }

    /// What a client sent without its question for a message of a stream; none if it asked none.
    fn without_question(bytes: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(bytes).unwrap();
        let (before, question) = text.split_once("PUB $JS.API.STREAM.MSG.GET")?;
        let (line, rest) = question.split_once("\r\n").unwrap();
        let payload: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
        let behind = rest.get(payload..).unwrap().strip_prefix("\r\n").unwrap();
        Some([before, behind].concat().into_bytes())
    }

    /// A renewal whose answer was lost makes the revision out of date. While the server was slow to tell the new one, nobody found the
    /// owner, and the lease of a process at work was taken.
    #[tokio::test(flavor = "multi_thread")]
    async fn owner_is_found_while_it_does_not_know_its_revision() {
        let server = TestServer::start_provisioned().await;
        let swallowing = Arc::new(AtomicBool::new(false));
        let swallows = Arc::clone(&swallowing);
        let relay = Relay::start(&server.url(), move |bytes| {
            let asked = swallows.load(Ordering::Relaxed).then(|| without_question(bytes)).flatten();
            asked.map_or(Fate::Pass, Fate::Instead)
        })
        .await;
        let client = server.client().await;
        let broker = NatsBroker::new(client.clone(), Dialer::plain(relay.url()), None);
        assert!(broker.hold_lease("key", "owner", TIME_TO_LIVE).await.unwrap());
        // In the owner's name, so that the owner's revision is not the newest.
        assert!(server.broker().await.hold_lease("key", "owner", TIME_TO_LIVE).await.unwrap());
        swallowing.store(true, Ordering::Relaxed);
        let unanswered = broker.hold_lease("key", "owner", TIME_TO_LIVE).await;
        assert!(unanswered.is_err(), "{unanswered:?}");
        assert!(!is_gone(&client, "key", "owner").await, "it listens all the time");
        swallowing.store(false, Ordering::Relaxed);
        assert!(broker.hold_lease("key", "owner", TIME_TO_LIVE).await.unwrap());
    }

    /// Whoever may not take a free lease yet waits and asks again: not as fast as the server answers.
    #[tokio::test(flavor = "multi_thread")]
    async fn free_lease_is_looked_at_now_and_then() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let (began, mut looks) = (Instant::now(), 0);
        while began.elapsed() < TIME_TO_LIVE / 3 {
            broker.lease_freed("key", TIME_TO_LIVE / 3).await;
            looks += 1;
        }
        assert!(looks <= LOOKS, "{looks} looks within one wait");
    }

    /// Where nobody may listen, everybody seems to be gone; processes would take a lease from each other for ever.
    #[tokio::test(flavor = "multi_thread")]
    async fn lease_is_left_to_its_owner_where_nobody_may_show_itself() {
        let allowed = |subject: &str| vec![subject.to_owned()];
        let user = ("stage".to_owned(), allowed(">"), allowed("_INBOX.>"));
        let server = RestrictedServer::start(&[user]).await;
        let connect = async || {
            let options = ConnectOptions::with_user_and_password(
                "stage".to_owned(),
                RestrictedServer::PASSWORD.to_owned(),
            );
            let client = options.clone().connect(server.url()).await.unwrap();
            NatsBroker::new(client, Dialer::with_options(&server.url(), options), None)
        };
        let (first, second) = (connect().await, connect().await);
        assert!(first.hold_lease("key", "first", TIME_TO_LIVE).await.unwrap());
        assert!(is_gone(first.client(), "key", "first").await, "it may not listen");
        assert!(!second.hold_lease("key", "second", TIME_TO_LIVE * 10).await.unwrap());
    }
}
