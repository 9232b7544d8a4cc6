//! How far the effects of a process have been carried out, by any replica. The server stores this beside the leases, and each replica reads it,
//! so that a rebuild does not carry anything out again.
//!
//! Within a generation of EVENTS, progress only increases, and it is written with an expected sequence. So if two replicas both believe that
//! they are active, neither can undo what the other has recorded.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use millstream_contract::{
    leases::{leases_stream, progress_subject},
    stored_message::Headers,
};
use millstream_jetstream::broker::{AppendError, Broker, BrokerError, NewMessage};
use serde::{Deserialize, Serialize};

/// How often new progress is recorded. After a crash, everything since the last record is sent again under the same ids, without a second
/// effect.
pub(super) const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// How often a record is tried if another replica writes it at the same time. After that, it waits for the next occasion.
const TRIES_MAX: usize = 5;

/// All effects of events up to `sequence` have been carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The generation of EVENTS; empty before the first record.
    pub(super) generation: String,
    pub(super) sequence: u64,
}

impl Progress {
    /// Takes the greater of the two. If their generations differ, it takes the other one, which is newer.
    fn advance(&mut self, other: Self) {
        if self.generation != other.generation || self.sequence < other.sequence {
            *self = other;
        }
    }
}

/// The progress as this replica knows it.
#[derive(Debug, Default)]
pub(super) struct KnownProgress(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The generation of EVENTS that the process folds.
    reading: String,
    progress: Progress,
}

impl KnownProgress {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment, so a poisoned lock leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begins(&self, generation: &str) {
        generation.clone_into(&mut self.lock().reading);
    }

    pub(super) fn learn(&self, progress: Progress) {
        self.lock().progress.advance(progress);
    }

    pub(super) fn progress(&self) -> Progress {
        self.lock().progress.clone()
    }

    /// Whether the effects of the event at `sequence` have been carried out, in the generation that the process folds.
    pub(super) fn covers(&self, sequence: u64) -> bool {
        let known = self.lock();
        known.progress.generation == known.reading && sequence <= known.progress.sequence
    }
}

/// The recorded progress, and the sequence of the record.
async fn recorded<B: Broker>(broker: &B, process: &str) -> Result<Option<(Progress, u64)>, BrokerError> {
    let stream = leases_stream();
    let subject = progress_subject(process);
    let Some(message) = broker.last(&stream, &subject).await? else { return Ok(None) };
    let progress = serde_json::from_slice(&message.payload).map_err(|error| BrokerError::StreamForeign {
        stream,
        detail: format!("holds something else at {subject} ({error})"),
    })?;
    Ok(Some((progress, message.sequence)))
}

/// The recorded progress.
pub(super) async fn load<B: Broker>(broker: &B, process: &str) -> Result<Option<Progress>, BrokerError> {
    Ok(recorded(broker, process).await?.map(|(progress, _)| progress))
}

/// Records where a process that has never run begins, unless another replica has just done so. Returns the recorded progress.
pub(super) async fn begin<B: Broker>(
    broker: &B,
    process: &str,
    progress: Progress,
) -> Result<Progress, BrokerError> {
    let unavailable =
        |detail| BrokerError::Unavailable { operation: "record where a process begins", detail };
    match broker.append(&leases_stream(), message(process, &progress, Some(0))).await {
        Ok(_) => Ok(progress),
        Err(AppendError::Conflict { detail }) => {
            load(broker, process).await?.ok_or_else(|| unavailable(detail))
        }
        Err(error) => Err(unavailable(error.to_string())),
    }
}

fn message(process: &str, progress: &Progress, expected_last: Option<u64>) -> NewMessage {
    NewMessage {
        subject: progress_subject(process),
        expected_last,
        headers: Headers::new(),
        payload: Bytes::from(serde_json::to_vec(progress).expect("a text and a number are JSON")),
    }
}

/// Records `progress`, unless more is already recorded. Returns the recorded progress.
pub(super) async fn store<B: Broker>(
    broker: &B,
    process: &str,
    progress: Progress,
) -> Result<Progress, BrokerError> {
    let mut detail = String::new();
    for _ in 0..TRIES_MAX {
        let found = recorded(broker, process).await?;
        if let Some((found, _)) = &found
            && found.generation == progress.generation
            && found.sequence >= progress.sequence
        {
            return Ok(found.clone());
        }
        let expected = found.map_or(0, |(_, sequence)| sequence);
        match broker.append(&leases_stream(), message(process, &progress, Some(expected))).await {
            Ok(_) => return Ok(progress),
            Err(AppendError::Conflict { detail: found }) => detail = found,
            Err(error) => {
                let detail = error.to_string();
                return Err(BrokerError::Unavailable { operation: "record progress", detail });
            }
        }
    }
    Err(BrokerError::Unavailable { operation: "record progress", detail })
}
