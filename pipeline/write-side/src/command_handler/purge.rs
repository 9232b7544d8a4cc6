//! Purging: the active handler removes old commands that have their outcome, old outcome records, and the ids in those; younger
//! ones too when the streams run out of room. A full COMMANDS refuses every sender, and a full OUTCOMES stops the handler, so it
//! is better that a repeated id is recognised for a shorter time.
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
    broker::{Broker, BrokerError, StreamState},
    moments::last_stored_before,
};
use millstream_runtime::metrics::{HandlerMetrics, PurgeMetrics};
use tokio::time::Instant;

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

/// Between two looks at how full COMMANDS and OUTCOMES are. What is left between [`CROWDED`] and full takes commands for longer.
const ROOM_INTERVAL: Duration = Duration::from_secs(5);
/// The part of its limit above which a stream is crowded.
const CROWDED: f64 = 0.8;
/// The part of its limit down to which COMMANDS is purged then.
const COMMANDS_LEFT: f64 = 0.6;
/// The same of OUTCOMES: ids are kept for as long as there is room.
const OUTCOMES_LEFT: f64 = 0.75;

/// How much a purge removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) commands: u64,
    pub(super) records: u64,
    pub(super) ids: u64,
}

impl Purged {
    fn count(&self, metrics: &PurgeMetrics) {
        metrics.commands.inc_by(self.commands);
        metrics.records.inc_by(self.records);
    }
}

/// Purges again and again until the turn ends.
pub(super) async fn run<B: Broker>(
    broker: B,
    index: Arc<IdIndex>,
    settings: PurgeSettings,
    metrics: HandlerMetrics,
) -> Result<(), TurnEnd> {
    let mut age_due = Instant::now();
    loop {
        if Instant::now() >= age_due {
            age_due = Instant::now() + settings.interval;
            match purge(&broker, &index, settings).await {
                Ok(purged) if purged == Purged::default() => {}
                Ok(purged) => {
                    let Purged { commands, records, ids } = purged;
                    tracing::info!(commands, records, ids, "purged what is old");
                    purged.count(&metrics.purged_for_age);
                }
                Err(error) => put_off(&error),
            }
        }
        match make_room(&broker, &index, settings).await {
            Ok(purged) => purged.count(&metrics.purged_for_space),
            Err(error) => put_off(&error),
        }
        tokio::time::sleep(ROOM_INTERVAL.min(settings.interval)).await;
    }
}

fn put_off(error: &HandlerError) {
    let cause = millstream_contract::error_text::one_line(error);
    tracing::warn!(cause, "purging is put off");
}

/// Purges what is covered, the oldest first, from streams that are crowded. Never what has no outcome, and never the last record.
/// A stream that is never purged by age is left alone.
pub(super) async fn make_room<B: Broker>(
    broker: &B,
    index: &Arc<IdIndex>,
    settings: PurgeSettings,
) -> Result<Purged, HandlerError> {
    let mut purged = Purged::default();
    let commands = broker.state(COMMANDS).await?;
    let outcomes = broker.state(OUTCOMES).await?;
    let crowded =
        |state: &StreamState, after: Option<Duration>| after.is_some() && state.usage.ratio() > CROWDED;
    let (commands_crowded, outcomes_crowded) =
        (crowded(&commands, settings.commands_after), crowded(&outcomes, settings.outcomes_after));
    if !commands_crowded && !outcomes_crowded {
        return Ok(purged);
    }
    let Some(last) = broker.last(OUTCOMES, OUTCOME_SUBJECT).await? else { return Ok(purged) };
    if commands_crowded {
        let covered = OutcomeRecord::from_stored(&last).map_err(JournalError::from)?.through;
        purged.commands = purge_down(broker, COMMANDS, covered, COMMANDS_LEFT).await?;
        say(COMMANDS, &commands, purged.commands);
    }
    if outcomes_crowded {
        let limit = last.sequence.saturating_sub(1);
        purged.records = purge_down(broker, OUTCOMES, limit, OUTCOMES_LEFT).await?;
        purged.ids = forget(index, broker.state(OUTCOMES).await?.first_sequence).await?;
        say(OUTCOMES, &outcomes, purged.records);
    }
    Ok(purged)
}

fn say(stream: &str, before: &StreamState, messages: u64) {
    let used = format!("{:.0} %", before.usage.ratio() * 100.0);
    if messages > 0 {
        tracing::warn!(
            stream,
            used,
            messages,
            "the stream was crowded; purged the oldest of what is covered before its time"
        );
    } else {
        tracing::warn!(
            stream,
            used,
            "the stream is crowded, and nothing of it is covered; raise its max_bytes"
        );
    }
}

/// Purges from the front, at most through `limit`, until no more than `left` of the stream's limit is taken. Says how many went.
async fn purge_down<B: Broker>(broker: &B, stream: &str, limit: u64, left: f64) -> Result<u64, BrokerError> {
    let mut purged = 0;
    loop {
        let state = broker.state(stream).await?;
        let used = state.usage.ratio();
        if used <= left || state.first_sequence > limit {
            return Ok(purged);
        }
        // By half of what is too much on average: messages differ in size, and none shall go that need not.
        let share = (used - left) / used / 2.0;
        let count = ((state.usage.messages as f64 * share) as u64).max(1);
        let through = limit.min(state.first_sequence.saturating_add(count - 1));
        purged += purge_through(broker, stream, through).await?;
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
    do_file_work(move || index.forget_before(first_sequence)).await
}

#[cfg(test)]
mod tests;
