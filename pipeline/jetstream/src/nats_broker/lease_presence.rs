//! Tells whether the owner of a lease is still there. The owner listens on a subject of its own as long as it holds the lease, and the
//! server tells a process that asks there at once if nobody listens. So the lease of a killed process, whose connections the server has
//! seen close, is free long before it lapses.
//!
//! The result may be wrong: an owner whose connection is being re-established seems to be gone. Because leases decide who works and never
//! what is right, this costs only a takeover.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind, Subscriber};
use futures::StreamExt;
use millstream_contract::leases::presence_subject;
use tokio_util::task::AbortOnDropHandle;

use super::lines::Lines;
use crate::{broker::BrokerError, line::Line};

/// A living owner does not answer. If nobody listens, the server says so within a round trip.
const NOBODY_WAIT: Duration = Duration::from_millis(200);
/// The pause before a line that could not be opened is tried again.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

/// Shows that this process is alive, until it is dropped.
#[derive(Debug)]
pub(super) struct Presence {
    _task: AbortOnDropHandle<()>,
}

impl Presence {
    /// Returns when the server knows the subscription.
    pub(super) async fn show(lines: &Lines, key: &str, owner: &str) -> Result<Self, BrokerError> {
        let subject = presence_subject(key, owner);
        let first = listen(lines, &subject).await?;
        let task = tokio::spawn(stay(lines.clone(), subject, first));
        Ok(Self { _task: AbortOnDropHandle::new(task) })
    }
}

async fn listen(lines: &Lines, subject: &str) -> Result<(Line, Subscriber), BrokerError> {
    let failed = |detail: &dyn std::fmt::Display| BrokerError::Unavailable {
        operation: "lease",
        detail: detail.to_string(),
    };
    let line = lines.of_leases().await?;
    let subscriber = line.client().subscribe(subject.to_owned()).await.map_err(|error| failed(&error))?;
    line.client().flush().await.map_err(|error| failed(&error))?;
    Ok((line, subscriber))
}

/// Listens for ever, on the current line of leases.
async fn stay(lines: Lines, subject: String, mut listening: (Line, Subscriber)) {
    loop {
        let (line, questions) = &mut listening;
        tokio::select! {
            () = line.lost() => {}
            // The subscription alone is the answer.
            () = async { while questions.next().await.is_some() {} } => {}
        }
        listening = loop {
            match listen(&lines, &subject).await {
                Ok(listening) => break listening,
                Err(error) => {
                    tracing::debug!(%error, subject, "the owner of a lease cannot show itself now");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
            }
        };
    }
}

/// Whether the server says that the owner of a lease is not connected. It takes a moment if the owner is connected.
pub(super) async fn is_gone(client: &Client, key: &str, owner: &str) -> bool {
    let question = async_nats::Request::new().timeout(Some(NOBODY_WAIT));
    match client.send_request(presence_subject(key, owner), question).await {
        Ok(_) => false,
        Err(error) => error.kind() == RequestErrorKind::NoResponders,
    }
}
