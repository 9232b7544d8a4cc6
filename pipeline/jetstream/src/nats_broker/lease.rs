//! Leases: one key each in the key-value bucket LEASES, with a time to live that the server counts. They decide who works,
//! never what is right.

use std::{collections::HashMap, time::Duration};

use async_nats::{HeaderMap, header::HeaderValue};
use bytes::Bytes;
use futures::StreamExt;
use millstream_contract::{
    stored_message::{Headers, StoredMessage},
    stream_names::LEASES_BUCKET,
};
use tokio::sync::Mutex;

use super::NatsBroker;
use crate::broker::{AppendError, Broker, BrokerError, NewMessage};

/// The revision of each lease that this process holds.
pub(super) type Leases = HashMap<String, u64>;

const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

fn subject(key: &str) -> String {
    format!("$KV.{LEASES_BUCKET}.{key}")
}

fn stream() -> String {
    format!("KV_{LEASES_BUCKET}")
}

/// As [`Broker::hold_lease`].
pub(super) async fn hold(
    broker: &NatsBroker,
    leases: &Mutex<Leases>,
    key: &str,
    owner: &str,
    time_to_live: Duration,
) -> Result<bool, BrokerError> {
    let renewal = leases.lock().await.get(key).copied();
    if let Some(revision) = renewal
        && let Some(revision) = write(broker, key, owner, revision, time_to_live).await?
    {
        leases.lock().await.insert(key.to_owned(), revision);
        return Ok(true);
    }
    // Not held, or the revision is out of date: perhaps an append of ours of which no answer came.
    leases.lock().await.remove(key);
    let expected = match broker.last(&stream(), &subject(key)).await? {
        Some(message) if is_held(&message) && message.payload != owner.as_bytes() => return Ok(false),
        Some(message) => message.sequence,
        None => 0,
    };
    let taken = write(broker, key, owner, expected, time_to_live).await?;
    if let Some(revision) = taken {
        leases.lock().await.insert(key.to_owned(), revision);
    }
    Ok(taken.is_some())
}

/// Writes the key if its revision is still `expected`; says the new revision.
async fn write(
    broker: &NatsBroker,
    key: &str,
    owner: &str,
    expected: u64,
    time_to_live: Duration,
) -> Result<Option<u64>, BrokerError> {
    let mut headers = HeaderMap::new();
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

/// As [`Broker::lease_freed`]: a lease given back is a message on the key's subject; one that lapsed is found by asking
/// again after `wait`.
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
    // Nothing more is learnt from which of the two it was: the caller asks for the lease.
    let _ = tokio::time::timeout(wait, given_back).await;
}

fn is_held(message: &StoredMessage) -> bool {
    message.headers.get(OPERATION).is_none() && message.headers.get(MARKER).is_none()
}
