//! A handler that finds no outcome journal: may it begin one? Commits name positions of COMMANDS without its generation, so
//! that beside older commits a COMMANDS made anew would have its first commands answered with the outcomes of others.
//!
//! It begins when EVENTS is empty, when COMMANDS is still the stream whose positions the commits name, and when COMMANDS
//! begins behind all of them, as `millstream setup` makes it. Otherwise it refuses.

use millstream_contract::{
    commit::{StoredCommit, timestamp_to_nanoseconds},
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS},
};
use millstream_jetstream::{
    broker::{Broker, StreamState},
    retry::{RunIds, answered},
};

use super::HandlerError;

/// Commits looked at to find the highest position that EVENTS names: many times what handlers append before they record,
/// and within that window positions follow the order of EVENTS.
const COMMITS_LOOKED_AT: u64 = 65_536;

/// Refuses unless positions mean what they meant when the commits were written.
pub(super) async fn check<B: Broker>(
    broker: &B,
    ids: &RunIds,
    commands: &StreamState,
    events: &StreamState,
) -> Result<(), HandlerError> {
    let from = events.last_sequence.saturating_sub(COMMITS_LOOKED_AT) + 1;
    let messages = answered(ids, || broker.load(EVENTS, ">", from)).await?;
    let commits: Vec<StoredCommit> =
        messages.iter().filter_map(|message| StoredCommit::from_stored(message).ok()).collect();
    let Some(newest) = commits.iter().max_by_key(|stored| stored.commit.last_position()) else {
        return Ok(());
    };
    let highest = newest.commit.last_position();
    if commands.first_sequence > highest {
        tracing::info!(
            highest,
            first = commands.first_sequence,
            "COMMANDS begins behind all that EVENTS names"
        );
        return Ok(());
    }
    let named = answered(ids, || broker.get(COMMANDS, highest)).await?;
    if named.is_some_and(|message| caused(&message, newest)) {
        tracing::warn!(
            "OUTCOMES holds no record; what COMMANDS keeps is decided again, with the same results"
        );
        return Ok(());
    }
    Err(HandlerError::NoJournal { highest, first: commands.first_sequence })
}

/// Whether a message is the last command of a commit: a commit has its time to the nanosecond.
fn caused(message: &StoredMessage, stored: &StoredCommit) -> bool {
    timestamp_to_nanoseconds(message.stored_at) == stored.commit.recorded_at
}
