//! The slow way of [`Settlement::settle`]: decides one aggregate on the history as the leader has it, again and again until each of its
//! commands has an outcome.

use millstream_contract::{error_text::one_line, subject::StreamId};
use millstream_jetstream::{
    backoff::Backoff,
    broker::{AppendError, Broker, BrokerError},
};

use super::{
    SettleError, Settled, Settlement, Unsettled,
    hydration::{Hydrated, HydrationError, hydrate},
};
use crate::{
    aggregate_state::AggregateState,
    round::{HistoryNeeded, Past},
};

impl<B: Broker> Settlement<B> {
    /// Reads the state unless it is known to be current, decides and appends, until every command of the group has its outcome.
    ///
    /// After an unclear answer, the commit may be stored or not. Deciding again on the current history is right in both cases: a command whose
    /// position is in the history was accepted.
    pub(super) async fn settle_slowly(
        &self,
        unsettled: Unsettled<'_>,
        mut snapshot: Option<AggregateState>,
    ) -> Result<Settled, SettleError> {
        let Unsettled { mut group, outcomes, appended, mut current } = unsettled;
        let mut settled = Settled { stream_id: group.stream_id.clone(), state: None, outcomes, appended };
        let (mut backoff, mut most) = (self.ids.backoff(), usize::MAX);
        loop {
            let hydrated = match current.take() {
                Some(state) => Ok(Hydrated { state: *state, past: Past::default(), whole: false }),
                None => {
                    let snapshot = snapshot.take();
                    hydrate(&self.store, &group.stream_id, group.aggregate, snapshot, &group.commands).await
                }
            };
            let Hydrated { state, past, whole } = match hydrated {
                Ok(hydrated) => hydrated,
                Err(HydrationError::Broker(BrokerError::Unavailable { operation, detail })) => {
                    tracing::debug!(stream_id = %group.stream_id, operation, detail, "reading the history again");
                    backoff.pause().await;
                    continue;
                }
                Err(HydrationError::Broker(error)) => return Err(error.into()),
                Err(error) => return Ok(settled.and_dead(&group, "history-unreadable", &one_line(&error))),
            };
            let decided = match self.decide(group, state, &past, most) {
                Ok(decided) => decided,
                // A state from memory or from a snapshot does not say which positions went into it. The next attempt uses neither, and reads
                // the whole history.
                Err((same, HistoryNeeded)) if !whole => {
                    group = same;
                    continue;
                }
                Err((same, error)) => {
                    return Ok(settled.and_dead(&same, "history-unreadable", &one_line(&error)));
                }
            };
            let answer = match &decided.append {
                None => None,
                Some(append) => match self.store.append(append.message()).await {
                    Ok(stored) => Some(stored.sequence),
                    // Fewer commands may fit into a commit. A single command that does not fit never will.
                    Err(AppendError::Refused { .. }) if decided.decision.taken > 1 => {
                        most = decided.decision.taken / 2;
                        group = decided.group;
                        continue;
                    }
                    Err(AppendError::Refused { detail, .. }) => {
                        group = decided.group;
                        settled.outcomes.extend(group.set_first_aside("commit-refused", &detail));
                        if group.commands.is_empty() {
                            return Ok(settled);
                        }
                        continue;
                    }
                    Err(error) => {
                        self.note(&error, &append.stream_id, &mut backoff).await;
                        group = decided.group;
                        continue;
                    }
                },
            };
            match decided.finish(answer) {
                Ok(mut done) => {
                    done.add(settled.outcomes, settled.appended);
                    return Ok(done);
                }
                Err(rest) => {
                    settled.add(rest.outcomes, rest.appended);
                    (group, current) = (rest.group, rest.current);
                }
            }
        }
    }

    /// Counts and logs an append that is repeated. Pauses, unless the aggregate has only moved on.
    pub(super) async fn note(&self, error: &AppendError, stream_id: &StreamId, backoff: &mut Backoff) {
        self.count(error);
        match error {
            AppendError::Conflict { .. } => return,
            AppendError::Full { .. } => tracing::error!(%stream_id, %error, "the commit waits for space"),
            _ => tracing::warn!(%stream_id, %error, "the commit is tried again"),
        }
        backoff.pause().await;
    }
}
