//! Hydration: reads the current state of an aggregate from the leader, either from a snapshot and what followed it or from the
//! whole history.

use std::sync::Arc;

use millstream_contract::{commit::StoredCommit, subject::StreamId};
use millstream_domain::decider::AggregateType;
use millstream_jetstream::{
    broker::{Broker, BrokerError},
    event_store::{EventStore, LoadError, NoCommit},
};

use crate::aggregate_state::{AggregateState, HistoryError};

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub(super) enum HydrationError {
    /// The server did not answer, or refused the question.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A message of the aggregate's subject is not a commit, and was not set aside.
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

/// A current state, with the whole history unless it was folded on top of a snapshot.
pub(super) struct Hydrated {
    pub(super) state: AggregateState,
    pub(super) history: Option<Vec<StoredCommit>>,
}

/// Reads the current state from the leader, on top of `snapshot` if the snapshot belongs to the history.
pub(super) async fn hydrate<B: Broker>(
    store: &EventStore<B>,
    stream_id: &StreamId,
    aggregate: &Arc<dyn AggregateType>,
    snapshot: Option<AggregateState>,
) -> Result<Hydrated, HydrationError> {
    if let Some(snapshot) = snapshot
        && let Some(state) = fold_on(store, stream_id, aggregate, snapshot).await?
    {
        return Ok(Hydrated { state, history: None });
    }
    let history = store.load_current(stream_id, 0).await?;
    let mut state = AggregateState::fold(aggregate, &history)?;
    state.current = true;
    Ok(Hydrated { state, history: Some(history) })
}

/// Folds what followed a snapshot. `None` when the history does not have the commit at which the snapshot was made, or when what
/// follows does not fit. The whole history then tells what is wrong.
async fn fold_on<B: Broker>(
    store: &EventStore<B>,
    stream_id: &StreamId,
    aggregate: &Arc<dyn AggregateType>,
    mut state: AggregateState,
) -> Result<Option<AggregateState>, BrokerError> {
    // One commit further back than needed: its hash proves that the snapshot was made of this history.
    let Some(before) = state.last_sequence.checked_sub(1) else { return Ok(None) };
    let commits = match store.load_current(stream_id, before).await {
        Ok(commits) => commits,
        Err(LoadError::Broker(error)) => return Err(error),
        Err(LoadError::NoCommit(_)) => return Ok(None),
    };
    let Some((own, following)) = commits.split_first() else { return Ok(None) };
    if own.broker_sequence != state.last_sequence || Some(own.hash()) != state.last_hash {
        return Ok(None);
    }
    for commit in following {
        if state.apply(aggregate, commit).is_err() {
            return Ok(None);
        }
    }
    state.current = true;
    Ok(Some(state))
}
