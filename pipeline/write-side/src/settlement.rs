//! Settles a round: appends what is decided, and decides again if the aggregate has moved on, until each command of the round has its outcome.
//!
//! Repeats of known ids and commands that need no state are separated first, and the others are grouped by aggregate.
//!
//! Then follows the quick way: every aggregate is decided on the state at hand and its commit is appended, slice by slice. The next slice is
//! decided while the commits of the previous one are in flight. The slow way is for aggregates whose append was refused or got no clear answer,
//! and for outcomes that are right only on a current state. It reads the history from the leader, decides, appends, and starts over until the
//! aggregate is settled (`settlement/slow_way.rs`).

mod dead_letters;
mod error;
mod hydration;
mod partners;
mod slow_way;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    FutureExt, StreamExt,
    stream::{self, FuturesOrdered},
};
use millstream_contract::{
    commit::commit_hash,
    dead_letter::DeadLetter,
    outcome::{ContentMark, Outcome},
    stream_names::EVENTS,
    subject::StreamId,
};
use millstream_domain::decider::AggregateType;
use millstream_jetstream::{
    broker::{ATOMIC_BATCH_MAX, AppendError, Broker},
    dead_letter_store::DeadLetterStore,
    event_store::EventStore,
    group_append::{AppendStrategy, GroupAppend},
    id_source::IdSource,
};
use millstream_runtime::{file_work::do_file_work, metrics::HandlerMetrics};

pub use self::error::SettleError;

use crate::{
    aggregate_state::AggregateState,
    id_index::{IdEntry, IdIndex, IdIndexError},
    round::{
        CommandWithPartners, Decidable, DecodedCommand, GroupDecision, HistoryNeeded, NewCommit, Past,
        PreparedCommand, Work, decide_group, rejected,
    },
    settlement::{dead_letters::dead_letter, hydration::fold_any},
    state_cache::{Appended, StateCache},
};

/// How many histories are read from the server at the same time, each with one page in memory.
const LOADS_MAX: usize = 64;
/// How many aggregates' commits are appended together: as many as an atomic batch takes.
const SLICE: usize = ATOMIC_BATCH_MAX;
/// Commits of several commands have at most a quarter of the largest message, so that one more command of usual size still fits.
const COMMITS_A_MESSAGE: usize = 4;
/// The number of slices whose commits are in flight together. If the server syncs each commit separately, more would wait too long for their
/// answers.
const SLICES_UNDER_WAY: usize = 2;

/// An aggregate's commands in a round, in the order of their positions.
struct Group<'a> {
    stream_id: StreamId,
    aggregate: &'a Arc<dyn AggregateType>,
    commands: Vec<Decidable<'a>>,
}

/// A round, sorted.
struct Sorted<'a> {
    groups: Vec<Group<'a>>,
    with_partners: Vec<CommandWithPartners<'a>>,
    letters: Vec<(usize, DeadLetter)>,
    outcomes: Outcomes,
}

/// The outcomes of a round, which are set one by one.
struct Outcomes {
    outcomes: Vec<Option<Outcome>>,
}

impl Outcomes {
    fn set(&mut self, index: usize, outcome: Outcome) {
        if let Some(place) = self.outcomes.get_mut(index) {
            *place = Some(outcome);
        }
    }

    /// All outcomes, in the order of the commands.
    fn finish(self) -> Vec<Outcome> {
        self.outcomes
            .into_iter()
            .map(|outcome| outcome.expect("every command is answered, set aside or in exactly one group"))
            .collect()
    }
}

/// An aggregate whose commands have been decided, with the commit to append.
struct Decided<'a> {
    group: Group<'a>,
    state: AggregateState,
    decision: GroupDecision,
    append: Option<NewCommit>,
}

/// An aggregate that takes the slow way, with the outcomes that it already has.
struct Unsettled<'a> {
    group: Group<'a>,
    outcomes: Vec<(usize, Outcome)>,
    /// The commits that were appended for these outcomes.
    appended: Appended,
    /// Its state, if this handler's own append has just shown that it is current and only commands that did not fit into that commit are left.
    current: Option<Box<AggregateState>>,
}

impl<'a> Unsettled<'a> {
    /// An aggregate whose history has to be read first.
    fn unread(group: Group<'a>) -> Self {
        Self { group, outcomes: Vec::new(), appended: Appended::default(), current: None }
    }
}

/// An aggregate whose commands are all settled, with its state if the state can go back into the cache.
struct Settled {
    stream_id: StreamId,
    state: Option<AggregateState>,
    outcomes: Vec<(usize, Outcome)>,
    /// The commits that were appended for the outcomes.
    appended: Appended,
}

impl Settled {
    fn add(&mut self, outcomes: Vec<(usize, Outcome)>, appended: Appended) {
        self.outcomes.extend(outcomes);
        self.appended.add(appended);
    }
}

/// The result of the quick way: some aggregates are settled, and the others take the slow way.
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
    letters: DeadLetterStore<B>,
    ids: IdSource,
    /// Whether an aggregate that is not in the cache is assumed to be new, which saves a read if it is. It is set again after each slice:
    /// to true if more than half of the slice's uncached aggregates were new.
    suppose_new: AtomicBool,
    metrics: HandlerMetrics,
}

impl<B: Broker> Settlement<B> {
    /// Settles over `broker`.
    pub fn new(broker: B, ids: IdSource, strategy: AppendStrategy, metrics: HandlerMetrics) -> Self {
        Self {
            store: EventStore::new(broker.clone()),
            appends: GroupAppend::new(broker.clone(), EVENTS, strategy),
            letters: DeadLetterStore::new(broker.clone()),
            broker,
            ids,
            suppose_new: AtomicBool::new(true),
            metrics,
        }
    }

    /// Settles a round. Returns one outcome for each command, in their order, and the commits that were appended for it.
    ///
    /// # Errors
    /// [`SettleError`]. Interruptions of the connection only cause a wait.
    pub async fn settle(
        &mut self,
        cache: &mut StateCache,
        index: &Arc<IdIndex>,
        commands: &[PreparedCommand],
    ) -> Result<(Vec<Outcome>, Appended), SettleError> {
        let mut round = sort(commands, first_uses(commands, index).await?);
        let mut letters = round.letters;
        let mut all = self.settle_groups(cache, round.groups).await?;
        // `cut_round` makes such a command a round of its own, so no group has changed an aggregate that it reads.
        for command in round.with_partners {
            all.extend(self.settle_together(cache, &command).await?);
        }
        let mut appended = Appended::default();
        for settled in all {
            appended.add(settled.appended);
            for (place, outcome) in settled.outcomes {
                match dead_letter(&outcome, commands.get(place)) {
                    Some(letter) => letters.push((place, letter)),
                    None => round.outcomes.set(place, outcome),
                }
            }
            if let Some(state) = settled.state {
                cache.put(settled.stream_id, state);
            }
        }
        self.metrics.commits.inc_by(appended.count);
        // The letters are stored before the round is recorded, because nobody decides a recorded command again. After a crash in between, the
        // same letter is appended again; its subject then has a message and accepts no second one.
        let (places, letters): (Vec<_>, Vec<_>) = letters.into_iter().unzip();
        for (place, outcome) in places.into_iter().zip(self.set_aside(&letters).await) {
            round.outcomes.set(place, outcome);
        }
        Ok((round.outcomes.finish(), appended))
    }

    /// First takes the quick way for all aggregates, then the slow way for those that need it.
    async fn settle_groups(
        &mut self,
        cache: &mut StateCache,
        groups: Vec<Group<'_>>,
    ) -> Result<Vec<Settled>, SettleError> {
        let FirstPass { mut settled, slow } = self.settle_quickly(cache, groups).await;
        let slow: Vec<_> = slow
            .into_iter()
            .map(|unsettled| {
                // The states are taken out here, because the aggregates run concurrently on the slow way and there is one cache.
                let unread = unsettled.current.is_none();
                let snapshot = unread.then(|| cache.snapshot(&unsettled.group.stream_id)).flatten();
                self.settle_slowly(unsettled, snapshot).boxed()
            })
            .collect();
        // The order does not matter, because all commands of an aggregate are in one group.
        let mut slowly = stream::iter(slow).buffer_unordered(LOADS_MAX);
        while let Some(done) = slowly.next().await {
            settled.push(done?);
        }
        Ok(settled)
    }

    /// Decides and appends slice by slice: the next slices are decided while the commits of one slice are in flight.
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

    /// Decides the aggregates of a slice on cached or assumed states, and appends all their commits together.
    async fn settle_slice<'a>(&self, slice: Vec<(Group<'a>, Option<AggregateState>)>) -> FirstPass<'a> {
        let count = slice.len();
        let (cached, unknown): (Vec<_>, Vec<_>) = slice.into_iter().partition(|(_, state)| state.is_some());
        self.metrics.cache_hits.inc_by(cached.len() as u64);
        self.metrics.cache_misses.inc_by(unknown.len() as u64);
        let mut done = FirstPass { settled: Vec::with_capacity(count), ..FirstPass::default() };
        let mut decided = Vec::with_capacity(count);
        self.decide_quickly(cached, &mut decided, &mut done.slow);
        let unknown: Vec<_> = unknown.into_iter().map(|(group, _)| group).collect();
        let (unknown_count, supposed_new) = (unknown.len(), self.suppose_new.load(Ordering::Relaxed));
        let first = self.first_states(unknown, supposed_new).await;
        let new =
            first.iter().filter(|(_, state)| state.as_ref().is_some_and(|state| state.version == 0)).count();
        self.decide_quickly(first, &mut decided, &mut done.slow);
        let conflicts = self.append_decided(decided, &mut done).await;
        if unknown_count > 0 {
            // An aggregate that was wrongly assumed to be new has met a conflict. Conflicts of cached states are counted here, too. At worst,
            // the next slice reads some states in vain.
            let new = if supposed_new { new.saturating_sub(conflicts) } else { new };
            self.suppose_new.store(new * 2 > unknown_count, Ordering::Relaxed);
        }
        done
    }

    /// Appends the commits of a slice together, and sorts its aggregates by the results. Returns how many aggregates had moved on.
    ///
    /// What is stored here is read from EVENTS by `pipeline/read-side/src/projection_runner/source.rs`, in a projector for views and in
    /// the reporter for reports.
    async fn append_decided<'a>(&self, decided: Vec<Decided<'a>>, done: &mut FirstPass<'a>) -> usize {
        let appends =
            decided.iter().filter_map(|each| each.append.as_ref().map(NewCommit::message)).collect();
        let mut answers = self.appends.append_all(appends).await.into_iter();
        let mut conflicts = 0;
        for each in decided {
            let answer = each.append.is_some().then(|| answers.next()).flatten();
            let finished = match answer {
                // Nothing was appended, so no expected sequence has proved the state, and a rejection must not rest on it.
                None if each.decision.needs_current && !each.state.current => {
                    Err(Unsettled::unread(each.group))
                }
                None => each.finish(None),
                Some(Ok(sequence)) => each.finish(Some(sequence)),
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
        conflicts
    }

    /// States for aggregates that are not in the cache: the initial state if they are assumed to be new, or else the answer of any replica,
    /// which may be stale. The expected sequence of the append shows whether the state was right.
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
        let state = fold_any(&self.store, &group.stream_id, group.aggregate).await;
        (group, state)
    }

    /// Decides groups on states that may be stale. Groups without a state, and those that need more than a state, take the slow way.
    fn decide_quickly<'a>(
        &self,
        groups: Vec<(Group<'a>, Option<AggregateState>)>,
        decided: &mut Vec<Decided<'a>>,
        slow: &mut Vec<Unsettled<'a>>,
    ) {
        for (group, state) in groups {
            let Some(state) = state else {
                slow.push(Unsettled::unread(group));
                continue;
            };
            match self.decide(group, state, &Past::default(), usize::MAX) {
                Ok(each) => decided.push(each),
                Err((group, HistoryNeeded)) => slow.push(Unsettled::unread(group)),
            }
        }
    }

    /// Decides a group, at most `most` of its commands. If that is not possible, returns the group and the reason.
    fn decide<'a>(
        &self,
        group: Group<'a>,
        mut state: AggregateState,
        past: &Past,
        most: usize,
    ) -> Result<Decided<'a>, (Group<'a>, HistoryNeeded)> {
        let expected_last = state.last_sequence;
        let commands = group.commands.get(..most).unwrap_or(&group.commands);
        let size = self.broker.message_bytes_max() / COMMITS_A_MESSAGE;
        let decision = decide_group(group.aggregate, &mut state, past, commands, size, || self.ids.next_id());
        match decision {
            Ok(mut decision) => {
                let append = decision
                    .commit
                    .take()
                    .map(|commit| NewCommit::new(group.stream_id.clone(), expected_last, commit));
                Ok(Decided { group, state, decision, append })
            }
            Err(needed) => Err((group, needed)),
        }
    }

    fn count(&self, error: &AppendError) {
        match error {
            AppendError::Conflict { .. } => self.metrics.conflicts.inc(),
            _ => self.metrics.unclear_appends.inc(),
        };
    }
}

impl<'a> Decided<'a> {
    /// Completes the outcomes once the commit is stored at `sequence`. Commands that did not fit into the commit are returned.
    fn finish(mut self, sequence: Option<u64>) -> Result<Settled, Unsettled<'a>> {
        // The append expected the last sequence of the state, so the state was current. If nothing was appended, it is as doubtful as before.
        if let (Some(sequence), Some(append)) = (sequence, &self.append) {
            self.state.last_sequence = sequence;
            self.state.last_hash = Some(commit_hash(&append.body));
            self.state.current = true;
        }
        let appended = sequence.map(Appended::one).unwrap_or_default();
        let last_sequence = self.state.last_sequence;
        let drafts = self.decision.drafts.into_iter();
        let outcomes = drafts.map(|(place, draft)| (place, draft.settle(last_sequence))).collect();
        if self.decision.taken < self.group.commands.len() {
            self.group.commands.drain(..self.decision.taken);
            let current = self.state.current.then(|| Box::new(self.state));
            return Err(Unsettled { group: self.group, outcomes, appended, current });
        }
        Ok(Settled { stream_id: self.group.stream_id, state: Some(self.state), outcomes, appended })
    }
}

/// The first uses of the ids of a round, by their place in it. The file is read once for all of them, on a blocking thread.
async fn first_uses(
    commands: &[PreparedCommand],
    index: &Arc<IdIndex>,
) -> Result<HashMap<usize, IdEntry>, IdIndexError> {
    let given = commands.iter().enumerate().filter_map(|(place, command)| Some((place, command.id.clone()?)));
    let (places, ids): (Vec<_>, Vec<_>) = given.unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let index = index.clone();
    let found = do_file_work(move || index.first_uses(&ids)).await?;
    Ok(places.into_iter().zip(found).filter_map(|(place, entry)| Some((place, entry?))).collect())
}

/// Sorts the commands of a round in which no id comes twice ([`crate::round::cut_round`] sees to that).
fn sort(commands: &[PreparedCommand], mut first_uses: HashMap<usize, IdEntry>) -> Sorted<'_> {
    let mut outcomes = Outcomes { outcomes: vec![None; commands.len()] };
    let mut letters = Vec::new();
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut with_partners = Vec::new();
    let mut group_of: HashMap<&StreamId, usize> = HashMap::with_capacity(commands.len());
    for (place, command) in commands.iter().enumerate() {
        if let Some(entry) = first_uses.remove(&place) {
            // A command that is decided again after OUTCOMES was lost is not a repeat of itself.
            let outcome = if entry.position == command.position {
                entry.outcome
            } else {
                let other_content = ContentMark::differ(entry.content, command.content).unwrap_or_default();
                Outcome::Duplicate { of: entry.position, first: Box::new(entry.outcome), other_content }
            };
            outcomes.set(place, outcome);
            continue;
        }
        match &command.work {
            Work::SetAside(letter) => letters.push((place, DeadLetter::clone(letter))),
            Work::Refuse(rejection) => outcomes.set(place, rejected(rejection)),
            Work::Decide(decoded) => {
                let DecodedCommand { aggregate, envelope, command, partners, .. } = &**decoded;
                let command = Decidable { index: place, envelope, command };
                if !partners.is_empty() {
                    with_partners.push(CommandWithPartners { decidable: command, aggregate, partners });
                    continue;
                }
                let stream_id = &envelope.address.stream_id;
                let slot = *group_of.entry(stream_id).or_insert_with(|| {
                    groups.push(Group { stream_id: stream_id.clone(), aggregate, commands: Vec::new() });
                    groups.len() - 1
                });
                if let Some(group) = groups.get_mut(slot) {
                    group.commands.push(command);
                }
            }
        }
    }
    Sorted { groups, with_partners, letters, outcomes }
}

#[cfg(test)]
mod tests;
