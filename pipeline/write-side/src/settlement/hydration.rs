//! Hydration: reads the current state of an aggregate from the leader, either from a snapshot and the commits after it, or from the whole
//! history.

use std::sync::Arc;

use millstream_contract::subject::StreamId;
use millstream_domain::decider::AggregateType;
use millstream_jetstream::{
    broker::{Broker, BrokerError},
    event_store::{EventStore, LoadError, NoCommit},
};

use crate::{
    aggregate_state::{AggregateState, HistoryError},
    round::{Decidable, HistoryFold, Past},
};

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub(super) enum HydrationError {
    /// The server did not answer, or refused the question.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A message on the aggregate's subject is not a commit, and was not set aside.
    #[error(transparent)]
    NoCommit(#[from] NoCommit),
    /// The commits cannot be folded.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl From<LoadError> for HydrationError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Broker(error) => Self::Broker(error),
            LoadError::NoCommit(error) => Self::NoCommit(error),
        }
    }
}

/// A current state, and what became of commands whose positions the history has passed.
pub(super) struct Hydrated {
    pub(super) state: AggregateState,
    pub(super) past: Past,
    /// Whether the history was read from its beginning, so that `past` is complete.
    pub(super) whole: bool,
}

/// Reads the current state from the leader. It starts from `snapshot` if the snapshot belongs to the history. `commands` are to be decided on
/// the state. The history is folded page by page.
pub(super) async fn hydrate<B: Broker>(
    store: &EventStore<B>,
    stream_id: &StreamId,
    aggregate: &Arc<dyn AggregateType>,
    snapshot: Option<AggregateState>,
    commands: &[Decidable<'_>],
) -> Result<Hydrated, HydrationError> {
    if let Some(snapshot) = snapshot
        && let Some((state, past)) = fold_on(store, stream_id, aggregate, snapshot, commands).await?
    {
        return Ok(Hydrated { state, past, whole: false });
    }
    let mut fold = HistoryFold::new(aggregate, AggregateState::initial(aggregate), commands);
    let mut history = store.current_history(stream_id, 0).await?;
    while let Some(commits) = history.next_page().await? {
        for commit in &commits {
            fold.apply(commit)?;
        }
    }
    let (mut state, past) = fold.finish();
    state.current = true;
    Ok(Hydrated { state, past, whole: true })
}

/// The state that any replica gives, which may be stale; `None` if it cannot be read.
pub(super) async fn fold_any<B: Broker>(
    store: &EventStore<B>,
    stream_id: &StreamId,
    aggregate: &Arc<dyn AggregateType>,
) -> Option<AggregateState> {
    let mut state = AggregateState::initial(aggregate);
    let mut history = store.history(stream_id, 0);
    while let Some(commits) = history.next_page().await.ok()? {
        commits.iter().try_for_each(|commit| state.apply(aggregate, commit)).ok()?;
    }
    Some(state)
}

/// Folds what follows a snapshot. `None` if the history does not have the commit of the snapshot, or if what follows does not fit. The whole
/// history then shows what is wrong.
async fn fold_on<B: Broker>(
    store: &EventStore<B>,
    stream_id: &StreamId,
    aggregate: &Arc<dyn AggregateType>,
    snapshot: AggregateState,
    commands: &[Decidable<'_>],
) -> Result<Option<(AggregateState, Past)>, BrokerError> {
    // It begins one commit earlier than needed, because the hash of that commit proves that the snapshot was made from this history.
    let Some(before) = snapshot.last_sequence.checked_sub(1) else { return Ok(None) };
    let (mut own_place, own_hash) = (Some(snapshot.last_sequence), snapshot.last_hash);
    let mut fold = HistoryFold::new(aggregate, snapshot, commands);
    let mut history = store.current_history(stream_id, before).await?;
    loop {
        let commits = match history.next_page().await {
            Ok(Some(commits)) => commits,
            Ok(None) => break,
            Err(LoadError::Broker(error)) => return Err(error),
            Err(LoadError::NoCommit(_)) => return Ok(None),
        };
        for commit in &commits {
            match own_place.take() {
                Some(own) if commit.broker_sequence != own || Some(commit.hash()) != own_hash => {
                    return Ok(None);
                }
                Some(_) => {}
                None if fold.apply(commit).is_err() => return Ok(None),
                None => {}
            }
        }
    }
    if own_place.is_some() {
        return Ok(None);
    }
    let (mut state, past) = fold.finish();
    state.current = true;
    Ok(Some((state, past)))
}
