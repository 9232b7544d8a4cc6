//! Purging: the active handler removes old commands that have their outcome, old outcome records, and the ids in those.
//!
//! Purging runs beside the rounds, when a turn begins and from time to time. Ages are measured in the server's time, from the
//! newest record of the journal, so that a wrong clock of ours cannot purge too early. Nothing else depends on purging: what
//! fails is tried again the next time. EVENTS is never purged.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use millstream_contract::{
    outcome::{OUTCOME_SUBJECT, OutcomeRecord},
    stream_names::{COMMANDS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker, BrokerError},
    moments::last_stored_before,
};

use super::{HandlerError, TurnEnd};
use crate::{
    file_work::do_file_work,
    id_index::{IdIndex, IdIndexError},
    outcome_journal::JournalError,
};

/// What is purged, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeSettings {
    /// Commands that have their outcome and are older than this are purged; none when absent.
    pub commands_after: Option<Duration>,
    /// Outcome records older than this are purged, except the last; none when absent. A repeated id is recognised for this long.
    pub outcomes_after: Option<Duration>,
    /// The pause between two purges.
    pub interval: Duration,
}

/// How much a purge removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) commands: u64,
    pub(super) records: u64,
    pub(super) ids: u64,
}

/// Purges again and again until the turn ends.
pub(super) async fn run<B: Broker>(
    broker: B,
    index: Arc<IdIndex>,
    settings: PurgeSettings,
) -> Result<(), TurnEnd> {
    loop {
        match purge(&broker, &index, settings).await {
            Ok(purged) if purged == Purged::default() => {}
            Ok(Purged { commands, records, ids }) => {
                tracing::info!(commands, records, ids, "purged what is old");
            }
            Err(error) => {
                let cause = millstream_contract::error_text::one_line(&error);
                tracing::warn!(cause, "purging is put off");
            }
        }
        tokio::time::sleep(settings.interval).await;
    }
}

/// Purges once. The last record stays, whatever its age: it is the cursor.
pub(super) async fn purge<B: Broker>(
    broker: &B,
    index: &Arc<IdIndex>,
    settings: PurgeSettings,
) -> Result<Purged, HandlerError> {
    let mut purged = Purged::default();
    let Some(last) = broker.last(OUTCOMES, OUTCOME_SUBJECT).await? else { return Ok(purged) };
    let covered = OutcomeRecord::from_stored(&last).map_err(JournalError::from)?.through;
    if let Some(age) = settings.commands_after {
        let through = last_stored_before(broker, COMMANDS, before(last.stored_at, age), covered).await?;
        purged.commands = purge_through(broker, COMMANDS, through).await?;
    }
    if let Some(age) = settings.outcomes_after {
        let limit = last.sequence.saturating_sub(1);
        let through = last_stored_before(broker, OUTCOMES, before(last.stored_at, age), limit).await?;
        purged.records = purge_through(broker, OUTCOMES, through).await?;
        purged.ids = forget(index, broker.state(OUTCOMES).await?.first_sequence).await?;
    }
    Ok(purged)
}

fn before(newest: Timestamp, age: Duration) -> Timestamp {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    newest.checked_sub(age).unwrap_or(Timestamp::MIN)
}

async fn purge_through<B: Broker>(broker: &B, stream: &str, through: u64) -> Result<u64, BrokerError> {
    if through == 0 { Ok(0) } else { broker.purge_subject(stream, ">", Some(through)).await }
}

/// Forgets ids, away from the async threads and in pieces, so that rounds go on meanwhile.
async fn forget(index: &Arc<IdIndex>, first_sequence: u64) -> Result<u64, IdIndexError> {
    let index = index.clone();
    // `None` means that the runtime is shutting down. The next turn forgets the ids.
    do_file_work(move || index.forget_before(first_sequence)).await.unwrap_or(Ok(0))
}

#[cfg(test)]
mod tests;
