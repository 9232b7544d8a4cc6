//! Settles a round: appends what is decided and decides again where the aggregate has moved on, until each command of
//! the round has its outcome.
//!
//! First every aggregate is decided on the state at hand and its commit appended, slice by slice: the next one is decided
//! while the commits of the one before are on their way. What was refused, is unclear, or rests on a state that is not
//! known to be current goes the slow way: read the history as the leader has it, from a snapshot on or whole, decide,
//! append, again until it is settled.

mod hydration;
mod sorted;
mod together;

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{
    FutureExt, StreamExt,
    stream::{self, FuturesOrdered},
};
use millstream_contract::{
    commit::{StoredCommit, commit_hash},
    dead_letter::DeadLetter,
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    outcome::Outcome,
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS},
    subject::StreamId,
};
use millstream_jetstream::{
    broker::{ATOMIC_BATCH_MAX, AppendError, Broker, BrokerError, NewMessage},
    event_store::{EventStore, NewCommit},
    group_append::{AppendStrategy, GroupAppend},
    retry::{Backoff, RunIds},
};
use millstream_runtime::metrics::HandlerMetrics;

use crate::{
    aggregate_state::AggregateState,
    id_index::{IdIndex, IdIndexError},
    round::{GroupDecision, GroupError, PreparedCommand, Work, decide_group},
    settlement::{
        hydration::{Hydrated, HydrationError, hydrate},
        sorted::{Group, sort},
    },
    state_cache::StateCache,
};

/// Histories read from the server at a time.
const LOADS_MAX: usize = 64;
/// Aggregates whose commits are appended together: as many as an atomic batch takes.
const SLICE: usize = ATOMIC_BATCH_MAX;
/// Slices whose commits are on their way together. Where each commit is synced alone, more would wait too long for their answers.
const SLICES_UNDER_WAY: usize = 2;

/// Why a round cannot be settled. The position does not move.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The index of ids failed.
    #[error(transparent)]
    Index(#[from] IdIndexError),
    /// A question that cannot be asked again.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Failure for SettleError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(error) => error.exit_code(),
            Self::Index(error) => error.exit_code(),
        }
    }
}

/// An aggregate whose commands have been decided, with the commit to append.
struct Decided<'a> {
    group: Group<'a>,
    state: AggregateState,
    decision: GroupDecision,
    append: Option<NewCommit>,
}

/// An aggregate that goes the slow way, with the outcomes that it has already.
struct Unsettled<'a> {
    group: Group<'a>,
    outcomes: Vec<(usize, Outcome)>,
    /// Its state, when an append of ours has just shown it to be current: only the commands that did not fit into that
    /// commit are left.
    current: Option<Box<AggregateState>>,
}

impl<'a> Unsettled<'a> {
    /// One that has to be read first.
    fn unread(group: Group<'a>) -> Self {
        Self { group, outcomes: Vec::new(), current: None }
    }
}

/// An aggregate on which everything is settled, with its state unless that is of no further use.
struct Settled {
    stream_id: StreamId,
    state: Option<AggregateState>,
    outcomes: Vec<(usize, Outcome)>,
}

/// What came of deciding aggregates on the states at hand: some are settled, the others go the slow way.
#[derive(Default)]
struct FirstPass<'a> {
    settled: Vec<Settled>,
    slow: Vec<Unsettled<'a>>,
}

/// Settles rounds over a broker.
#[derive(Debug)]
pub struct Settlement<B> {
    broker: B,
    store: EventStore<B>,
    appends: GroupAppend<B>,
    ids: RunIds,
    /// Whether to take an aggregate that is not in the cache for a new one, which costs nothing when it is. Judged after each slice
    /// by how those of it turned out.
    suppose_new: AtomicBool,
    metrics: HandlerMetrics,
}

impl<B: Broker> Settlement<B> {
    /// Settles over `broker`.
    pub fn new(broker: B, ids: RunIds, strategy: AppendStrategy, metrics: HandlerMetrics) -> Self {
        Self {
            store: EventStore::new(broker.clone()),
            appends: GroupAppend::new(broker.clone(), EVENTS, strategy),
            broker,
            ids,
            suppose_new: AtomicBool::new(true),
            metrics,
        }
    }

    /// Settles a round: one outcome for each command, in their order.
    ///
    /// # Errors
    /// [`SettleError`]. Interruptions of the connection are waited for.
    pub async fn settle(
        &mut self,
        cache: &mut StateCache,
        index: &IdIndex,
        commands: &[PreparedCommand],
    ) -> Result<Vec<Outcome>, SettleError> {
        let mut round = sort(commands, index)?;
        for (place, letter) in round.letters {
            round.outcomes.set(place, self.set_aside(letter).await);
        }
        let mut all = self.settle_groups(cache, round.groups).await?;
        for joint in round.joints {
            all.extend(self.settle_together(cache, &joint).await?);
        }
        for settled in all {
            for (place, outcome) in settled.outcomes {
                round.outcomes.set(place, self.keep_if_dead(outcome, commands.get(place)).await);
            }
            if let Some(state) = settled.state {
                cache.put(settled.stream_id, state);
            }
        }
        Ok(round.outcomes.finish())
    }

    /// First the quick way for all aggregates, then the slow way for those that need it.
    async fn settle_groups(
        &mut self,
        cache: &mut StateCache,
        groups: Vec<Group<'_>>,
    ) -> Result<Vec<Settled>, SettleError> {
        let FirstPass { mut settled, slow } = self.settle_quickly(cache, groups).await;
        let slow: Vec<_> = slow
            .into_iter()
            .map(|unsettled| {
                let snapshot = cache.snapshot(&unsettled.group.stream_id);
                self.settle_slowly(unsettled, snapshot).boxed()
            })
            .collect();
        let mut slowly = stream::iter(slow).buffer_unordered(LOADS_MAX);
        while let Some(done) = slowly.next().await {
            settled.push(done?);
        }
        Ok(settled)
    }

    /// Decides and appends slice by slice: while the commits of one slice are on their way, the next ones are decided.
    async fn settle_quickly<'a>(&self, cache: &mut StateCache, groups: Vec<Group<'a>>) -> FirstPass<'a> {
        let mut all = FirstPass { settled: Vec::with_capacity(groups.len()), ..FirstPass::default() };
        let mut groups = groups.into_iter();
        let mut under_way = FuturesOrdered::new();
        loop {
            while under_way.len() < SLICES_UNDER_WAY && groups.len() > 0 {
                let slice = groups.by_ref().take(SLICE).map(|group| {
                    let state = cache.take(&group.stream_id);
                    (group, state)
                });
                under_way.push_back(self.settle_slice(slice.collect()).boxed());
            }
            match under_way.next().await {
                Some(slice) => {
                    all.settled.extend(slice.settled);
                    all.slow.extend(slice.slow);
                }
                None => return all,
            }
        }
    }

    /// Decides the aggregates of a slice on what is in the cache, or else supposed, and appends all commits together.
    async fn settle_slice<'a>(&self, slice: Vec<(Group<'a>, Option<AggregateState>)>) -> FirstPass<'a> {
        let mut done = FirstPass { settled: Vec::with_capacity(slice.len()), ..FirstPass::default() };
        let mut decided = Vec::with_capacity(slice.len());
        let mut unknown = Vec::new();
        let count = slice.len();
        for (group, state) in slice {
            match state {
                Some(state) => decided.extend(self.decide_quickly(group, state, &mut done.slow)),
                None => unknown.push(group),
            }
        }
        self.metrics.cache_hits.inc_by((count - unknown.len()) as u64);
        self.metrics.cache_misses.inc_by(unknown.len() as u64);
        let supposed_new = self.suppose_new.load(Ordering::Relaxed);
        let (unknown_count, mut new, mut conflicts) = (unknown.len(), 0_usize, 0);
        for (group, state) in self.first_states(unknown, supposed_new).await {
            let Some(state) = state else {
                done.slow.push(Unsettled::unread(group));
                continue;
            };
            new += usize::from(state.version == 0);
            decided.extend(self.decide_quickly(group, state, &mut done.slow));
        }
        let appends =
            decided.iter().filter_map(|each| each.append.as_ref().map(NewCommit::message)).collect();
        let mut answers = self.appends.append_all(appends).await.into_iter();
        for each in decided {
            let answer = each.append.is_some().then(|| answers.next()).flatten();
            let finished = match answer {
                None if each.decision.needs_current && !each.state.current => {
                    Err(Unsettled::unread(each.group))
                }
                None => each.finish(None),
                Some(Ok(sequence)) => {
                    self.metrics.commits.inc();
                    each.finish(Some(sequence))
                }
                Some(Err(error)) => {
                    conflicts += usize::from(matches!(error, AppendError::Conflict { .. }));
                    self.count(&error);
                    Err(Unsettled::unread(each.group))
                }
            };
            match finished {
                Ok(settled) => done.settled.push(settled),
                Err(unsettled) => done.slow.push(unsettled),
            }
        }
        if unknown_count > 0 {
            let new = if supposed_new { new.saturating_sub(conflicts) } else { new };
            self.suppose_new.store(new * 2 > unknown_count, Ordering::Relaxed);
        }
        done
    }

    /// States for aggregates that are not in the cache: the initial one where they are supposed to be new, else what any
    /// replica answers. The expectation of the append tells whether that was right.
    async fn first_states<'a>(
        &self,
        groups: Vec<Group<'a>>,
        suppose_new: bool,
    ) -> Vec<(Group<'a>, Option<AggregateState>)> {
        if suppose_new {
            return groups
                .into_iter()
                .map(|group| {
                    let state = AggregateState::initial(group.aggregate);
                    (group, Some(state))
                })
                .collect();
        }
        let loads: Vec<_> = groups.into_iter().map(|group| self.load_any(group).boxed()).collect();
        stream::iter(loads).buffer_unordered(LOADS_MAX).collect().await
    }

    async fn load_any<'a>(&self, group: Group<'a>) -> (Group<'a>, Option<AggregateState>) {
        let history = self.store.load(&group.stream_id, 0).await;
        let state = history.ok().and_then(|it| AggregateState::fold(group.aggregate, &it).ok());
        (group, state)
    }

    /// Decides a group on a state that may be old; where that is not possible it goes the slow way.
    fn decide_quickly<'a>(
        &self,
        group: Group<'a>,
        state: AggregateState,
        slow: &mut Vec<Unsettled<'a>>,
    ) -> Option<Decided<'a>> {
        match self.decide(group, state, None) {
            Ok(decided) => Some(decided),
            Err((group, _)) => {
                slow.push(Unsettled::unread(group));
                None
            }
        }
    }

    /// Decides a group; gives it back with what is wrong when that is not possible.
    fn decide<'a>(
        &self,
        group: Group<'a>,
        mut state: AggregateState,
        history: Option<&[StoredCommit]>,
    ) -> Result<Decided<'a>, (Group<'a>, Box<GroupError>)> {
        let expected_last = state.last_sequence;
        let decision =
            decide_group(group.aggregate, &mut state, history, &group.commands, || self.ids.next_id());
        match decision {
            Ok(mut decision) => {
                let append = decision
                    .commit
                    .take()
                    .map(|commit| NewCommit::new(group.stream_id.clone(), expected_last, commit));
                Ok(Decided { group, state, decision, append })
            }
            Err(error) => Err((group, Box::new(error))),
        }
    }

    /// Reads the state where it is not known to be current, decides, appends; again until every command of the group has its
    /// outcome.
    async fn settle_slowly(
        &self,
        unsettled: Unsettled<'_>,
        mut snapshot: Option<AggregateState>,
    ) -> Result<Settled, SettleError> {
        let Unsettled { mut group, mut outcomes, mut current } = unsettled;
        let mut backoff = self.ids.backoff();
        loop {
            let hydrated = match current.take() {
                Some(state) => Ok(Hydrated { state: *state, history: None }),
                None => hydrate(&self.store, &group.stream_id, group.aggregate, snapshot.take()).await,
            };
            let Hydrated { state, history } = match hydrated {
                Ok(hydrated) => hydrated,
                Err(HydrationError::Broker(BrokerError::Unavailable { operation, detail })) => {
                    tracing::debug!(stream_id = %group.stream_id, operation, detail, "reading the history again");
                    backoff.pause().await;
                    continue;
                }
                Err(HydrationError::Broker(error)) => return Err(error.into()),
                Err(error) => return Ok(group.dead(outcomes, "history-unreadable", &one_line(&error))),
            };
            let decided = match self.decide(group, state, history.as_deref()) {
                Ok(decided) => decided,
                Err((same, error)) => match *error {
                    // On top of a snapshot only what is new can be told.
                    GroupError::HistoryNeeded if history.is_none() => {
                        group = same;
                        continue;
                    }
                    error => return Ok(same.dead(outcomes, "history-unreadable", &one_line(&error))),
                },
            };
            let answer = match &decided.append {
                None => None,
                Some(append) => match self.store.append(append).await {
                    Ok(appended) => {
                        self.metrics.commits.inc();
                        Some(appended.sequence)
                    }
                    Err(AppendError::Refused { detail, .. }) => {
                        return Ok(decided.group.dead(outcomes, "commit-refused", &detail));
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
                    done.outcomes.append(&mut outcomes);
                    return Ok(done);
                }
                Err(rest) => {
                    outcomes.extend(rest.outcomes);
                    (group, current) = (rest.group, rest.current);
                }
            }
        }
    }

    fn count(&self, error: &AppendError) {
        match error {
            AppendError::Conflict { .. } => self.metrics.conflicts.inc(),
            _ => self.metrics.unclear_appends.inc(),
        };
    }

    async fn note(&self, error: &AppendError, stream_id: &StreamId, backoff: &mut Backoff) {
        self.count(error);
        match error {
            AppendError::Conflict { .. } => return,
            AppendError::Full { .. } => tracing::error!(%stream_id, %error, "the commit waits for space"),
            _ => tracing::warn!(%stream_id, %error, "the commit is tried again"),
        }
        backoff.pause().await;
    }

    /// Sets the command aside when its rules or its history failed; other outcomes stay as they are.
    async fn keep_if_dead(&self, outcome: Outcome, command: Option<&PreparedCommand>) -> Outcome {
        match (&outcome, command.map(|command| &command.work)) {
            (Outcome::DeadLettered { code, message }, Some(Work::Decide(decoded))) => {
                self.set_aside(&DeadLetter::new(COMMANDS, &decoded.message, code, message)).await
            }
            _ => outcome,
        }
    }

    /// Stores a dead letter, once. Where that is impossible the outcome says so: the command itself stays in COMMANDS.
    async fn set_aside(&self, letter: &DeadLetter) -> Outcome {
        let message = NewMessage::dead_letter(letter);
        let mut backoff = self.ids.backoff();
        let lost = loop {
            match self.broker.append(DEAD_LETTERS, message.clone()).await {
                // A conflict: a handler before has set it aside already.
                Ok(_) | Err(AppendError::Conflict { .. }) => break None,
                Err(error @ (AppendError::Full { .. } | AppendError::Refused { .. })) => break Some(error),
                Err(error) => {
                    tracing::warn!(%error, "the dead letter is not stored yet");
                    backoff.pause().await;
                }
            }
        };
        let text = match lost {
            None => letter.cause.clone(),
            Some(error) => {
                tracing::error!(%error, sequence = letter.sequence, "the dead letter could not be kept");
                format!("{}; not kept in {DEAD_LETTERS} ({error}), but still in {COMMANDS}", letter.cause)
            }
        };
        Outcome::DeadLettered { code: letter.code.as_str().into(), message: text.into() }
    }
}

impl<'a> Decided<'a> {
    /// Completes the outcomes, the commit being stored at `sequence`. Commands that did not fit into the commit come back.
    fn finish(mut self, sequence: Option<u64>) -> Result<Settled, Unsettled<'a>> {
        if let (Some(sequence), Some(append)) = (sequence, &self.append) {
            self.state.last_sequence = sequence;
            self.state.last_hash = Some(commit_hash(&append.body));
            self.state.current = true;
        }
        let last_sequence = self.state.last_sequence;
        let drafts = self.decision.drafts.into_iter();
        let outcomes = drafts.map(|(place, draft)| (place, draft.settle(last_sequence))).collect();
        if self.decision.taken < self.group.commands.len() {
            self.group.commands.drain(..self.decision.taken);
            let current = self.state.current.then(|| Box::new(self.state));
            return Err(Unsettled { group: self.group, outcomes, current });
        }
        Ok(Settled { stream_id: self.group.stream_id, state: Some(self.state), outcomes })
    }
}

impl Group<'_> {
    /// All commands of the group set aside for the same cause.
    fn dead(self, mut outcomes: Vec<(usize, Outcome)>, code: &str, cause: &str) -> Settled {
        tracing::error!(stream_id = %self.stream_id, code, cause, "setting the aggregate's commands aside");
        outcomes.extend(self.commands.iter().map(|command| {
            (command.index, Outcome::DeadLettered { code: code.into(), message: cause.into() })
        }));
        Settled { stream_id: self.stream_id, state: None, outcomes }
    }
}

#[cfg(test)]
mod tests;
