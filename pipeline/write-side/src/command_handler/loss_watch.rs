//! Checks, while a handler is active, that the streams still hold what the handler knows. A server can come back with less than it had: a
//! stream may have lost its tail, or an older copy may have been restored. A reconnected client notices nothing of that. The handler would
//! continue, and commits that others have seen would be gone. Instead it ends, as its next start would, and says what to do.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_contract::{
    commit::commit_hash,
    outcome::Generations,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker, BrokerError},
    id_source::IdSource,
    lost_tail::state_reaching,
};

use super::{HandlerError, TurnEnd};
use crate::{outcome_journal::JournalError, state_snapshots::NamedCommit};

/// The pause between two checks. Another generation or another commit is noticed this long after the server is back. A lost tail is noticed
/// once the server has reported it for long enough (`LossDoubt` in `pipeline/jetstream/src/lost_tail.rs`).
const INTERVAL: Duration = Duration::from_secs(1);

/// What the streams held. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Known(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    generations: Generations,
    commands: AtomicU64,
    outcomes: AtomicU64,
    newest: Mutex<Option<NamedCommit>>,
}

impl Known {
    /// COMMANDS holds messages up to `commands`, and OUTCOMES up to `outcomes`.
    pub(super) fn new(generations: Generations, commands: u64, outcomes: u64) -> Self {
        let (commands, outcomes) = (commands.into(), outcomes.into());
        Self(Arc::new(Inner { generations, commands, outcomes, newest: Mutex::default() }))
    }

    /// The commands up to `through` have outcomes; the last outcome is in the record at `record`.
    pub(super) fn recorded(&self, through: u64, record: u64) {
        self.0.commands.fetch_max(through, Ordering::Relaxed);
        self.0.outcomes.fetch_max(record, Ordering::Relaxed);
    }

    /// The newest commit.
    pub(super) fn committed(&self, newest: Option<NamedCommit>) {
        *self.0.newest.lock().unwrap_or_else(PoisonError::into_inner) = newest;
    }

    fn newest(&self) -> Option<NamedCommit> {
        *self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks repeatedly until something is missing.
pub(super) async fn run<B: Broker>(broker: B, ids: IdSource, known: Known) -> Result<(), TurnEnd> {
    loop {
        tokio::time::sleep(INTERVAL).await;
        match look(&broker, &ids, &known).await {
            Err(HandlerError::Broker(BrokerError::Unavailable { operation, detail })) => {
                tracing::debug!(operation, detail, "whether the server has lost anything is not known now");
            }
            looked => looked?,
        }
    }
}

async fn look<B: Broker>(broker: &B, ids: &IdSource, known: &Known) -> Result<(), HandlerError> {
    let Known(inner) = known;
    let of = &inner.generations;
    let newest = known.newest();
    let commits = newest.map_or(0, |newest| newest.sequence);
    let streams =
        [(COMMANDS, &of.commands, inner.commands.load(Ordering::Relaxed)), (EVENTS, &of.events, commits)];
    for (stream, generation, named) in streams {
        let state = state_reaching(broker, ids, stream, named).await?;
        if *state.generation != **generation {
            let mut found = of.clone();
            *(if stream == EVENTS { &mut found.events } else { &mut found.commands }) =
                state.generation.into();
            let (recorded, found) = (Box::new(of.clone()), Box::new(found));
            return Err(JournalError::OtherGeneration { recorded, found }.into());
        }
        if state.last_sequence < named {
            return Err(HandlerError::LostTail { stream, last: state.last_sequence, named });
        }
    }
    if let Some(newest) = newest
        && let Some(found) = broker.get(EVENTS, newest.sequence).await?
        && commit_hash(&found.payload) != newest.hash
    {
        return Err(HandlerError::OtherCommit { sequence: newest.sequence });
    }
    let recorded = inner.outcomes.load(Ordering::Relaxed);
    let last = state_reaching(broker, ids, OUTCOMES, recorded).await?.last_sequence;
    if last < recorded {
        tracing::error!(
            last,
            recorded,
            "OUTCOMES has lost its tail; what it lacks is decided again, with the same results"
        );
        return Err(JournalError::LostTurn.into());
    }
    Ok(())
}
