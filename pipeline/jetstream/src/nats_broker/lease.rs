//! Leases: one key each in the key-value bucket LEASES, with a time to live that the server counts. They decide who works,
//! never what is right. The lease of an owner that is gone ([`super::presence`]) is taken before it lapses.

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
    presence::{Presence, is_gone},
};
use crate::broker::{AppendError, Broker, BrokerError, NewMessage};

/// The leases that this process holds.
pub(super) type Leases = HashMap<String, Held>;

/// A lease that this process holds.
#[derive(Debug)]
pub(super) struct Held {
    revision: u64,
    presence: Presence,
}

/// Part of the time to live that passes between two answers that an owner is gone: its connection may just be made again.
const CONFIRMATIONS: u32 = 16;

const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

fn subject(key: &str) -> String {
    format!("$KV.{LEASES_BUCKET}.{key}")
}

fn stream() -> String {
    format!("KV_{LEASES_BUCKET}")
}

/// Asks on the line of leases, for at most `limit`: what travels on the other connections, and what the server answers there one after
/// the other, keeps no lease waiting.
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
    let renewal = leases.lock().await.get(key).map(|held| held.revision);
    if let Some(revision) = renewal
        && let Some(revision) = write(broker, key, owner, revision, time_to_live).await?
    {
        if let Some(held) = leases.lock().await.get_mut(key) {
            held.revision = revision;
        }
        return Ok(true);
    }
    // Not held, or the revision is out of date: perhaps an append of ours of which no answer came.
    let held = leases.lock().await.remove(key);
    let expected = match broker.last(&stream(), &subject(key)).await? {
        Some(message) if is_held(&message) && message.payload != owner.as_bytes() => {
            if !is_left(broker, key, &message, time_to_live).await {
                return Ok(false);
            }
            message.sequence
        }
        Some(message) => message.sequence,
        None => 0,
    };
    // Before the lease is taken: whoever finds it taken must find its owner.
    let presence = match held {
        Some(held) => held.presence,
        None => Presence::show(&broker.lines, key, owner).await?,
    };
    let taken = write(broker, key, owner, expected, time_to_live).await?;
    if let Some(revision) = taken {
        leases.lock().await.insert(key.to_owned(), Held { revision, presence });
    }
    Ok(taken.is_some())
}

/// Whether the owner of a lease that has not lapsed is gone, asked twice.
async fn is_left(broker: &NatsBroker, key: &str, lease: &StoredMessage, time_to_live: Duration) -> bool {
    let owner = String::from_utf8_lossy(&lease.payload);
    if !is_gone(&broker.client, key, &owner).await {
        return false;
    }
    tokio::time::sleep(time_to_live / CONFIRMATIONS).await;
    let gone = is_gone(&broker.client, key, &owner).await;
    if gone {
        tracing::info!(lease = key, owner = &*owner, "the owner of the lease is not connected any more");
    }
    gone
}

/// Writes the key if its revision is still `expected`; says the new revision.
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

/// As [`Broker::lease_freed`]: a lease given back is a message on the key's subject, the server says when its owner is gone, and one
/// that lapsed is found by asking again after `wait`.
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
            Ok(Some(owner)) => while !is_gone(broker.client(), key, &owner).await {},
            Ok(None) => {}
            // Without an answer only the time tells.
            Err(_) => std::future::pending().await,
        }
    };
    // Nothing more is learnt from which of them it was: the caller asks for the lease.
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

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{line::Dialer, testing::test_server::TestServer};

    const TIME_TO_LIVE: Duration = Duration::from_secs(3);

    /// Hands on what one side sends, until it is stopped.
    async fn carry(
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
        stopped: Arc<AtomicBool>,
    ) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            if stopped.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            to.write_all(bytes.get(..count).unwrap()).await.unwrap();
        }
    }

    /// Renewals stood behind everything else on the process's connection. Under the load of a cold takeover they came too late, and
    /// the turn was lost.
    #[tokio::test(flavor = "multi_thread")]
    async fn lease_is_renewed_while_the_connection_of_the_process_is_stuck() {
        let server = TestServer::start_provisioned().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stuck = format!("nats://{}", listener.local_addr().unwrap());
        let address = server.url().trim_start_matches("nats://").to_owned();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(address).await.unwrap();
            let ((client_in, client_out), (server_in, server_out)) =
                (client.into_split(), server.into_split());
            tokio::spawn(carry(client_in, server_out, stopped.clone()));
            carry(server_in, client_out, stopped).await;
        });
        let client = async_nats::connect(stuck).await.unwrap();
        let broker = NatsBroker::new(client, Dialer::plain(&server.url()), None);
        assert!(broker.hold_lease("key", "owner", TIME_TO_LIVE).await.unwrap());
        stop.store(true, Ordering::Relaxed);
        assert!(broker.hold_lease("key", "owner", TIME_TO_LIVE).await.unwrap());
        broker.release_lease("key", "owner").await.unwrap();
    }
}
