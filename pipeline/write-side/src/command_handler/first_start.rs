//! Decides whether a handler that finds no outcome journal may begin one.
//!
//! Commits name positions of COMMANDS, but not the generation of COMMANDS. If COMMANDS was deleted and made again while EVENTS
//! still holds older commits, its first commands would have positions that those commits name, and would be answered with the
//! outcomes of other commands.
//!
//! So a handler begins a journal only in three cases: EVENTS is empty; COMMANDS is still the stream whose positions the commits name; or
//! COMMANDS begins after all those positions, which is how `millstream setup` creates it.

use millstream_contract::{
    commit::{StoredCommit, timestamp_to_nanoseconds},
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS},
};
use millstream_jetstream::{
    broker::{Broker, StreamState},
    event_store::PAGE_BYTES,
    id_source::IdSource,
    retry::answered,
};

use super::HandlerError;

/// How many of the last commits are read to find the highest position that EVENTS names. Positions do not follow the order of EVENTS exactly,
/// because a handler appends many commits before it records. This number is many times larger than that.
const COMMITS_LOOKED_AT: u64 = 65_536;

/// Fails if positions no longer mean what they meant when the commits were written.
pub(super) async fn check<B: Broker>(
    broker: &B,
    ids: &IdSource,
    commands: &StreamState,
    events: &StreamState,
) -> Result<(), HandlerError> {
    let mut from = events.last_sequence.saturating_sub(COMMITS_LOOKED_AT) + 1;
    let mut newest: Option<StoredCommit> = None;
    loop {
        let page = answered(ids, || broker.load_page(EVENTS, ">", from, PAGE_BYTES)).await?;
        let commits = page.messages.iter().filter_map(|message| StoredCommit::from_stored(message).ok());
        newest = newest.into_iter().chain(commits).max_by_key(|stored| stored.commit.last_position());
        match page.messages.last() {
            Some(last) if page.more => from = last.sequence + 1,
            _ => break,
        }
    }
    let Some(newest) = newest else { return Ok(()) };
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
    if named.is_some_and(|message| caused(&message, &newest)) {
        tracing::warn!(
            "OUTCOMES holds no record; what COMMANDS keeps is decided again, with the same results"
        );
        return Ok(());
    }
    Err(HandlerError::NoJournal { highest, first: commands.first_sequence })
}

/// Whether a message is the last command of a commit. A commit has the time at which COMMANDS stored that command, to the
/// nanosecond, so another message at the same position would have another time.
fn caused(message: &StoredMessage, stored: &StoredCommit) -> bool {
    timestamp_to_nanoseconds(message.stored_at) == stored.commit.recorded_at
}
