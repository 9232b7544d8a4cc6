//! Settles a command that changes several aggregates: it reads their current states, decides once, and appends one atomic batch in
//! which each commit has its own expected sequence. It starts over until the batch is stored or the command has another outcome
//! (docs/adr/0025-a-command-may-change-several-aggregates.md).

use millstream_contract::{
    commit::{Commit, commit_hash},
    error_text::one_line,
    outcome::Outcome,
    subject::StreamId,
};
use millstream_jetstream::{
    broker::{AppendError, Broker, BrokerError},
    event_store::NewCommit,
};

use super::{
    SettleError, Settled, Settlement,
    hydration::{Hydrated, HydrationError, hydrate},
};
use crate::{
    aggregate_state::AggregateState,
    round::{
        AggregateWithPast, CommandWithPartners, DecisionWithPartners, PastOfCommand, decide_overtaken,
        decide_together,
    },
    state_cache::StateCache,
};

/// One of the aggregates that the command changes.
struct ChangedAggregate {
    stream_id: StreamId,
    state: AggregateState,
    /// What the whole history tells of the command, if it was read.
    past: Option<PastOfCommand>,
}

/// Why an attempt failed.
enum Obstacle {
    /// A history could not be read.
    Unread(HydrationError),
    /// The commits are not stored, or it is unclear whether they are.
    NotAppended(AppendError),
}

impl From<HydrationError> for Obstacle {
    fn from(error: HydrationError) -> Self {
        Self::Unread(error)
    }
}

impl<B: Broker> Settlement<B> {
    /// Settles a command with partners. Returns the states of all aggregates that took part, and one outcome.
    pub(super) async fn settle_together(
        &self,
        cache: &mut StateCache,
        command: &CommandWithPartners<'_>,
    ) -> Result<Vec<Settled>, SettleError> {
        let own = &command.decidable.envelope.address.stream_id;
        let dead = |code: &str, cause: &str| {
            tracing::error!(stream_id = %own, code, cause, "setting the command aside");
            let outcome = Outcome::DeadLettered { code: code.into(), message: cause.into() };
            Ok(vec![settled(command, own.clone(), None, Some(outcome))])
        };
        let mut backoff = self.ids.backoff();
        let mut believe_cache = true;
        loop {
            match self.try_together(cache, command, believe_cache).await {
                Ok(settled) => return Ok(settled),
                Err(Obstacle::Unread(HydrationError::Broker(BrokerError::Unavailable {
                    operation,
                    detail,
                }))) => {
                    tracing::debug!(stream_id = %own, operation, detail, "reading the histories again");
                    backoff.pause().await;
                }
                Err(Obstacle::Unread(HydrationError::Broker(error))) => return Err(error.into()),
                Err(Obstacle::Unread(error)) => return dead("history-unreadable", &one_line(&error)),
                Err(Obstacle::NotAppended(AppendError::Refused { detail, .. })) => {
                    return dead("commit-refused", &detail);
                }
                Err(Obstacle::NotAppended(error)) => self.note(&error, own, &mut backoff).await,
            }
            believe_cache = false;
        }
    }

    async fn try_together(
        &self,
        cache: &mut StateCache,
        command: &CommandWithPartners<'_>,
        believe_cache: bool,
    ) -> Result<Vec<Settled>, Obstacle> {
        let envelope = command.decidable.envelope;
        let own_id = &envelope.address.stream_id;
        let mut partners = Vec::with_capacity(command.partners.len());
        for partner in command.partners {
            partners.push(self.current(cache, command, partner, believe_cache).await?);
        }
        let mut own = self.current(cache, command, own_id, believe_cache).await?;
        let settled_before = |changed: &ChangedAggregate| changed.state.last_position >= envelope.position;
        let overtaken = settled_before(&own) || partners.iter().any(settled_before);
        if overtaken {
            for changed in &mut partners {
                *changed = self.whole(command, &changed.stream_id).await?;
            }
            // Read last: if an earlier handler has settled the command, it did so before the later effects in the other histories,
            // so this one cannot lack it.
            own = self.whole(command, own_id).await?;
        }
        let decision = if overtaken {
            let mut aggregates: Vec<_> =
                partners.iter_mut().filter_map(ChangedAggregate::with_past).collect();
            let own = own.with_past().expect("the whole history was just read");
            decide_overtaken(command, own, &mut aggregates, || self.ids.next_id())
        } else {
            let mut states: Vec<_> = partners.iter_mut().map(|changed| &mut changed.state).collect();
            decide_together(command, &mut own.state, &mut states, || self.ids.next_id())
        };
        let outcome = match decision {
            DecisionWithPartners::Settled(outcome) => outcome,
            DecisionWithPartners::Append { partners: commits, own: commit } => {
                self.append_together(&mut own, &mut partners, commits, commit).await?
            }
        };
        if overtaken {
            // The states do not go back into the cache, because what was appended was decided on a past state.
            return Ok(vec![settled(command, own.stream_id, None, Some(outcome))]);
        }
        let mut all: Vec<_> = partners
            .into_iter()
            .map(|changed| settled(command, changed.stream_id, Some(changed.state), None))
            .collect();
        all.push(settled(command, own.stream_id, Some(own.state), Some(outcome)));
        Ok(all)
    }

    /// Appends the commits together and moves the states to them. Returns the outcome.
    async fn append_together(
        &self,
        own: &mut ChangedAggregate,
        partners: &mut [ChangedAggregate],
        commits: Vec<Option<Commit>>,
        commit: Commit,
    ) -> Result<Outcome, Obstacle> {
        let (version, events) = (commit.last_version(), commit.events.len());
        let aggregates =
            partners.iter_mut().zip(commits).filter_map(|(changed, commit)| Some((changed, commit?)));
        let mut aggregates: Vec<_> = aggregates.collect();
        aggregates.push((own, commit));
        let (mut states, mut appends) = (Vec::new(), Vec::new());
        for (changed, commit) in aggregates {
            appends.push(NewCommit::new(changed.stream_id.clone(), changed.state.last_sequence, commit));
            states.push(&mut changed.state);
        }
        let appended = match self.store.append_together(&appends).await {
            Ok(appended) => appended,
            Err(error) => return Err(Obstacle::NotAppended(error)),
        };
        let first = appended.sequence + 1 - appends.len() as u64;
        for ((sequence, append), state) in (first..).zip(&appends).zip(states) {
            self.note_commit(sequence);
            state.last_sequence = sequence;
            state.last_hash = Some(commit_hash(&append.body));
            state.current = true;
        }
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        Ok(Outcome::Accepted { position: appended.sequence, version, events })
    }

    /// A state that is known to be current: the cached one, or the one that the leader has.
    async fn current(
        &self,
        cache: &mut StateCache,
        command: &CommandWithPartners<'_>,
        stream_id: &StreamId,
        believe_cache: bool,
    ) -> Result<ChangedAggregate, HydrationError> {
        let known = match cache.take(stream_id) {
            Some(state) if believe_cache && state.current => {
                return Ok(ChangedAggregate { stream_id: stream_id.clone(), state, past: None });
            }
            known => known,
        };
        let Hydrated { state, .. } = hydrate(&self.store, stream_id, command.aggregate, known, &[]).await?;
        Ok(ChangedAggregate { stream_id: stream_id.clone(), state, past: None })
    }

    /// The whole history, read from the leader.
    async fn whole(
        &self,
        command: &CommandWithPartners<'_>,
        stream_id: &StreamId,
    ) -> Result<ChangedAggregate, HydrationError> {
        let mut past = PastOfCommand::new(command);
        let mut state = AggregateState::initial(command.aggregate);
        let mut history = self.store.current_history(stream_id, 0).await.map_err(HydrationError::from)?;
        while let Some(commits) = history.next_page().await.map_err(HydrationError::from)? {
            for commit in &commits {
                state.apply(command.aggregate, commit)?;
                past.see(command.aggregate, commit)?;
            }
        }
        state.current = true;
        Ok(ChangedAggregate { stream_id: stream_id.clone(), state, past: Some(past) })
    }
}

impl ChangedAggregate {
    fn with_past(&mut self) -> Option<AggregateWithPast<'_>> {
        Some(AggregateWithPast { state: &self.state, past: self.past.as_mut()? })
    }
}

fn settled(
    command: &CommandWithPartners<'_>,
    stream_id: StreamId,
    state: Option<AggregateState>,
    outcome: Option<Outcome>,
) -> Settled {
    let outcomes = outcome.map(|outcome| (command.decidable.index, outcome)).into_iter().collect();
    Settled { stream_id, state, outcomes }
}
