//! Purging: the active handler removes old commands that have their outcome, old outcome records, and the ids in those records. When the
//! streams run out of room, it removes younger ones, too. A full COMMANDS refuses every sender and a full OUTCOMES stops the handler, so it is
//! better to recognise repeated ids for a shorter time.
//!
//! A standby purges nothing, but forgets the ids whose records others have purged ([`follow`]).
//!
//! Purging runs beside the rounds, when a turn begins and then regularly. Ages are measured in the server's time from the newest record of the
//! journal, so a wrong local clock cannot purge too early. Nothing else depends on purging: if it fails, it is tried again the next time.
//! EVENTS is never purged.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use millstream_contract::{
    error_text::one_line,
    outcome::{OUTCOME_SUBJECT, OutcomeRecord},
    stream_names::{COMMANDS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker, BrokerError, CROWDED, StreamState},
    position_at_moment::last_stored_before,
};
use millstream_runtime::{
    file_work::do_file_work,
    metrics::{HandlerMetrics, PurgeMetrics},
};
use tokio::time::Instant;

use super::{HandlerError, TurnEnd};
use crate::{id_index::IdIndex, outcome_journal::JournalError};

/// What is purged, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeSettings {
    /// Commands that have their outcome and are older than this are purged; if absent, none are.
    pub commands_after: Option<Duration>,
    /// Outcome records older than this are purged, except the last one; if absent, none are. A repeated id is recognised for this long.
    pub outcomes_after: Option<Duration>,
    /// The pause between two purges.
    pub interval: Duration,
}

/// The pause between two checks of how full COMMANDS and OUTCOMES are. The room between [`CROWDED`] and full must take commands for longer than
/// this.
const ROOM_INTERVAL: Duration = Duration::from_secs(5);
/// A crowded COMMANDS is purged down to this part of its limit.
const COMMANDS_LEFT: f64 = 0.6;
/// The same for OUTCOMES. It is purged less, to keep ids for as long as there is room.
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

/// Purges repeatedly until the turn ends.
pub(super) async fn run<B: Broker>(
    broker: B,
    index: Arc<IdIndex>,
    settings: PurgeSettings,
    metrics: HandlerMetrics,
) -> Result<(), TurnEnd> {
    let mut age_due = Instant::now();
    let mut troubles = Troubles::default();
    loop {
        if Instant::now() >= age_due {
            age_due = Instant::now() + settings.interval;
            let purged = purge(&broker, &index, settings).await;
            if let Some(purged) = troubles.put_off("purging what is old", purged)
                && purged != Purged::default()
            {
                let Purged { commands, records, ids } = purged;
                tracing::info!(commands, records, ids, "purged what is old");
                purged.count(&metrics.purged_for_age);
            }
        }
        let purged = make_room(&broker, &index, settings, &mut troubles).await;
        if let Some(purged) = troubles.put_off("making room", purged) {
            purged.count(&metrics.purged_for_space);
        }
        tokio::time::sleep(ROOM_INTERVAL.min(settings.interval)).await;
    }
}

/// Forgets repeatedly the ids whose records another handler has purged. Otherwise the index of a standby would finally hold every id that ever
/// existed.
///
/// # Errors
/// When the index was damaged and has to be learnt again. Any other failure is tried again.
pub(super) async fn follow<B: Broker>(
    broker: &B,
    index: &Arc<IdIndex>,
    settings: PurgeSettings,
) -> Result<(), HandlerError> {
    let mut troubles = Troubles::default();
    loop {
        let forgotten = forget_purged(broker, index).await;
        if let Err(error) = &forgotten
            && error.index_begun_anew()
        {
            return forgotten.map(drop);
        }
        let forgotten = forgotten.map(|ids| Purged { ids, ..Purged::default() });
        troubles.put_off("forgetting ids of purged records", forgotten);
        tokio::time::sleep(ROOM_INTERVAL.min(settings.interval)).await;
    }
}

/// The current problems. Each is logged once when it begins and once when it has ended.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeSet<&'static str>);

impl Troubles {
    /// Whether `what` begins or ends now: `Some(true)` if it begins, `Some(false)` if it ends.
    fn change(&mut self, what: &'static str, there: bool) -> Option<bool> {
        let changed = if there { self.0.insert(what) } else { self.0.remove(what) };
        changed.then_some(there)
    }

    /// The result of `work`, unless it failed.
    fn put_off(&mut self, work: &'static str, done: Result<Purged, HandlerError>) -> Option<Purged> {
        let cause = done.as_ref().err().map(|error| one_line(error));
        match self.change(work, cause.is_some()) {
            Some(true) => tracing::warn!(work, cause, "purging is put off"),
            Some(false) => tracing::info!(work, "purging goes on"),
            None => {}
        }
        done.ok()
    }

    /// Logs the result of making room in `stream`; `None` if there was enough room.
    fn made_room(&mut self, stream: &'static str, room: Option<Room>) {
        let stuck = room.filter(|room| room.after > CROWDED);
        match self.change(stream, stuck.is_some()) {
            Some(true) => tracing::warn!(
                stream,
                used = room.map(|room| percent(room.after)),
                "the stream stays crowded without what is covered; raise its max_bytes"
            ),
            Some(false) => tracing::info!(stream, "the stream has room again"),
            None => {}
        }
        if let (Some(Room { before, purged, .. }), None) = (room, stuck) {
            tracing::warn!(
                stream,
                used = percent(before),
                messages = purged,
                "the stream was crowded; purged the oldest of what is covered before its time"
            );
        }
    }
}

/// What was done for a crowded stream.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// The used part of its limit before,
    before: f64,
    /// and after.
    after: f64,
    /// How many messages were removed.
    purged: u64,
}

fn percent(used: f64) -> String {
    format!("{:.0} %", used * 100.0)
}

/// Purges crowded streams of covered messages, the oldest first. It never removes a command without an outcome, and never the last record. A
/// stream that is never purged by age is left alone.
pub(super) async fn make_room<B: Broker>(
    broker: &B,
    index: &Arc<IdIndex>,
    settings: PurgeSettings,
    troubles: &mut Troubles,
) -> Result<Purged, HandlerError> {
    let (commands, outcomes) = (broker.state(COMMANDS).await?, broker.state(OUTCOMES).await?);
    let crowded =
        |state: &StreamState, after: Option<Duration>| after.is_some() && state.usage.ratio() > CROWDED;
    let (commands, outcomes) =
        (crowded(&commands, settings.commands_after), crowded(&outcomes, settings.outcomes_after));
    let last = if commands || outcomes { broker.last(OUTCOMES, OUTCOME_SUBJECT).await? } else { None };
    let last = last.as_ref();
    let covered = last.map(OutcomeRecord::from_stored).transpose().map_err(JournalError::from)?;
    let covered = covered.map_or(0, |record| record.through);
    let before_last = last.map_or(0, |last| last.sequence.saturating_sub(1));
    let commands = purge_down(broker, COMMANDS, commands, covered, COMMANDS_LEFT).await?;
    // This happens now, because the next steps can fail.
    troubles.made_room(COMMANDS, commands);
    let outcomes = purge_down(broker, OUTCOMES, outcomes, before_last, OUTCOMES_LEFT).await?;
    troubles.made_room(OUTCOMES, outcomes);
    let ids = match outcomes {
        Some(_) => forget_purged(broker, index).await?,
        None => 0,
    };
    let purged = |room: Option<Room>| room.map_or(0, |room| room.purged);
    Ok(Purged { commands: purged(commands), records: purged(outcomes), ids })
}

/// Purges a `crowded` stream from the front, at most through the sequence `limit`, until no more than `left` of the stream's limit is used.
async fn purge_down<B: Broker>(
    broker: &B,
    stream: &str,
    crowded: bool,
    limit: u64,
    left: f64,
) -> Result<Option<Room>, BrokerError> {
    if !crowded {
        return Ok(None);
    }
    let mut room: Option<Room> = None;
    loop {
        let state = broker.state(stream).await?;
        let used = state.usage.ratio();
        let room = room.get_or_insert(Room { before: used, after: used, purged: 0 });
        room.after = used;
        if used <= left || state.first_sequence > limit {
            return Ok(Some(*room));
        }
        // Each step removes half of the excess, estimated by the average size. Messages differ in size, and none should be removed without
        // need.
        let share = (used - left) / used / 2.0;
        let count = ((state.usage.messages as f64 * share) as u64).max(1);
        let through = limit.min(state.first_sequence.saturating_add(count - 1));
        room.purged += purge_through(broker, stream, through).await?;
    }
}

/// Purges once. The last record stays, whatever its age, because it is the cursor.
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
    }
    // These may also be records that somebody has purged by hand.
    purged.ids = forget_purged(broker, index).await?;
    Ok(purged)
}

fn before(newest: Timestamp, age: Duration) -> Timestamp {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    newest.checked_sub(age).unwrap_or(Timestamp::MIN)
}

async fn purge_through<B: Broker>(broker: &B, stream: &str, through: u64) -> Result<u64, BrokerError> {
    if through == 0 { Ok(0) } else { broker.purge_subject(stream, ">", Some(through)).await }
}

/// Forgets the ids whose records OUTCOMES no longer holds. It works on a blocking thread and in pieces, so that rounds continue in the
/// meantime.
async fn forget_purged<B: Broker>(broker: &B, index: &Arc<IdIndex>) -> Result<u64, HandlerError> {
    let first_sequence = broker.state(OUTCOMES).await?.first_sequence;
    let index = index.clone();
    Ok(do_file_work(move || index.forget_before(first_sequence)).await?)
}

#[cfg(test)]
mod tests;
