//! Settles a command that changes several aggregates: it reads their current states, decides once, and appends one atomic batch in
//! which each commit has its own expected sequence. It starts over until the batch is stored or the command has another outcome
//! (docs/adr/0025-a-command-may-change-several-aggregates.md).

use millstream_contract::{
    commit::{Commit, commit_hash},
    error_text::one_line,
    outcome::Outcome,
    subject::StreamId,
};
use millstream_jetstream::broker::{AppendError, Broker, BrokerError};

use super::{
    SettleError, Settled, Settlement,
    hydration::{Hydrated, HydrationError, hydrate},
};
use crate::{
    aggregate_state::AggregateState,
    round::{
        AggregateWithPast, CommandWithPartners, DecisionWithPartners, NewCommit, PastOfCommand,
        decide_overtaken, decide_with_partners,
    },
    state_cache::{Appended, StateCache},
};

/// One of the aggregates that the command changes.
struct ChangedAggregate {
    stream_id: StreamId,
    state: AggregateState,
}

/// Why an attempt failed.
enum Obstacle {
    /// A history could not be read.
    Unread(HydrationError),
    /// The commits were not stored, or it is unclear whether they were.
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
            let outcomes = vec![(command.decidable.index, outcome)];
            Ok(vec![Settled { stream_id: own.clone(), state: None, outcomes, appended: Appended::default() }])
        };
        let mut backoff = self.ids.backoff();
        let mut believe_cache = true;
        loop {
            match self.try_with_partners(cache, command, believe_cache).await {
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

    async fn try_with_partners(
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
        let decision = if overtaken {
            let mut pasts = Vec::with_capacity(partners.len());
            for changed in &mut partners {
                let (state, past) = self.whole(command, &changed.stream_id).await?;
                changed.state = state;
                pasts.push(past);
            }
            // It is read last. If an earlier handler has settled the command, it did so before the later effects in the other histories, so
            // this history cannot lack it.
            let (state, mut past) = self.whole(command, own_id).await?;
            own.state = state;
            let mut partners: Vec<_> = partners
                .iter()
                .zip(&mut pasts)
                .map(|(changed, past)| AggregateWithPast { state: &changed.state, past })
                .collect();
            let own = AggregateWithPast { state: &own.state, past: &mut past };
            decide_overtaken(command, own, &mut partners, || self.ids.next_id())
        } else {
            let mut states: Vec<_> = partners.iter_mut().map(|changed| &mut changed.state).collect();
            decide_with_partners(command, &mut own.state, &mut states, || self.ids.next_id())
        };
        let (outcome, appended) = match decision {
            DecisionWithPartners::Settled(outcome) => (outcome, Appended::default()),
            DecisionWithPartners::Append { partners: commits, own: commit } => {
                self.append_together(&mut own, &mut partners, commits, commit).await?
            }
        };
        let index = command.decidable.index;
        let settled = |stream_id, state| Settled {
            stream_id,
            state,
            outcomes: Vec::new(),
            appended: Appended::default(),
        };
        let own_state = (!overtaken).then_some(own.state);
        let own = Settled { outcomes: vec![(index, outcome)], appended, ..settled(own.stream_id, own_state) };
        if overtaken {
            // The states do not go back into the cache, because the command was decided on a past state.
            return Ok(vec![own]);
        }
        let partners = partners.into_iter();
        let partners = partners.map(|changed| settled(changed.stream_id, Some(changed.state)));
        Ok(partners.chain([own]).collect())
    }

    /// Appends the commits together and brings the states up to date. Returns the outcome and what was appended.
    async fn append_together(
        &self,
        own: &mut ChangedAggregate,
        partners: &mut [ChangedAggregate],
        commits: Vec<Option<Commit>>,
        commit: Commit,
    ) -> Result<(Outcome, Appended), Obstacle> {
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
        let last = match self.store.append_together(appends.iter().map(NewCommit::message).collect()).await {
            Ok(stored) => stored.sequence,
            Err(error) => return Err(Obstacle::NotAppended(error)),
        };
        let count = appends.len() as u64;
        let first = last + 1 - count;
        for ((sequence, append), state) in (first..).zip(&appends).zip(states) {
            state.last_sequence = sequence;
            state.last_hash = Some(commit_hash(&append.body));
            state.current = true;
        }
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        Ok((Outcome::Accepted { sequence: last, version, events }, Appended { count, first, last }))
    }

    /// A state that is known to be current: the cached one, or the leader's.
    async fn current(
        &self,
        cache: &mut StateCache,
        command: &CommandWithPartners<'_>,
        stream_id: &StreamId,
        believe_cache: bool,
    ) -> Result<ChangedAggregate, HydrationError> {
        let known = match cache.take(stream_id) {
            Some(state) if believe_cache && state.current => {
                return Ok(ChangedAggregate { stream_id: stream_id.clone(), state });
            }
            known => known,
        };
        let Hydrated { state, .. } = hydrate(&self.store, stream_id, command.aggregate, known, &[]).await?;
        Ok(ChangedAggregate { stream_id: stream_id.clone(), state })
    }

    /// The state, and what the whole history says about the command, as the leader has it.
    async fn whole(
        &self,
        command: &CommandWithPartners<'_>,
        stream_id: &StreamId,
    ) -> Result<(AggregateState, PastOfCommand), HydrationError> {
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
        Ok((state, past))
    }
}
