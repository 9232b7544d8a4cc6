//! The pure half of a round: from messages of COMMANDS and states of aggregates to commits and outcomes.
//!
//! Nothing here waits or performs I/O. [`crate::settlement`] appends what is decided here, and decides again if an append was refused.

mod history_fold;
mod partners;
mod prepare;

use std::sync::Arc;

pub use history_fold::{HistoryFold, Past};
pub use partners::{
    AggregateWithPast, CommandWithPartners, DecisionWithPartners, PastOfCommand, decide_overtaken,
    decide_with_partners,
};
pub use prepare::{DecodedCommand, InternalCommands, PreparedCommand, Work, cut_round, prepare};

use bytes::Bytes;
use millstream_contract::{
    command::CommandEnvelope,
    commit::{Commit, CommittedCommand, RecordedEvent, timestamp_to_nanoseconds},
    error_text::bounded,
    header,
    outcome::Outcome,
    stored_message::Headers,
    subject::StreamId,
    version_conflict,
};
use millstream_domain::decider::{
    AggregateType, AnyCommand, DecisionContext, DecisionError, NewEvent, Rejection,
};
use millstream_jetstream::broker::NewMessage;

use crate::aggregate_state::AggregateState;

/// The size of a commit besides its events and the texts of its commands: names of fields and numbers, per event and per command.
const FIELDS_BYTES: usize = 96;

/// A command of one aggregate, ready to be decided.
#[derive(Debug, Clone, Copy)]
pub struct Decidable<'a> {
    /// Its index in the round.
    pub index: usize,
    /// Its headers and its position.
    pub envelope: &'a CommandEnvelope,
    /// Its fields.
    pub command: &'a AnyCommand,
}

/// An outcome that may still lack the sequence of its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Draft {
    /// The outcome is complete.
    Final(Outcome),
    /// The command is accepted with the commit that the decision yields, or changes nothing after that commit. The outcome gets
    /// the commit's sequence once it is stored.
    WithCommit {
        /// The aggregate's version after the command.
        version: u64,
        /// How many events it caused.
        events: u32,
    },
}

impl Draft {
    /// The complete outcome, once the commit is stored at `sequence`.
    pub fn settle(self, sequence: u64) -> Outcome {
        match self {
            Self::Final(outcome) => outcome,
            Self::WithCommit { version, events } => Outcome::Accepted { sequence, version, events },
        }
    }
}

/// What was decided about an aggregate's commands in a round, or about the first of them.
#[derive(Debug)]
pub struct GroupDecision {
    /// Outcomes by index in the round.
    pub drafts: Vec<(usize, Draft)>,
    /// The commit to append; absent if nothing happened.
    pub commit: Option<Commit>,
    /// How many commands were decided. The others go into the next commit, because this one is large enough.
    pub taken: usize,
    /// Whether some outcome is only right if the state is current: a rejection, or nothing to change. An acceptance needs no such proof,
    /// because the append of its commit fails if the state was stale.
    pub needs_current: bool,
}

/// The history holds the effects of commands that are later than one of the group. Only the whole history tells whether that one has already
/// been accepted.
#[derive(Debug, thiserror::Error)]
#[error("the history holds later commands")]
pub struct HistoryNeeded;

/// Decides an aggregate's commands in the order of their positions, and evolves `state` with them.
///
/// If the aggregate's history holds events of later positions than a command's position p, there are two cases. If p is in the history, the
/// command was accepted. If not, it is decided on the fold of what came before p. `past` knows both. No further command joins a commit that
/// already takes `size` bytes.
///
/// # Errors
/// [`HistoryNeeded`] when `past` does not know a command whose position the history has passed.
pub fn decide_group(
    aggregate: &Arc<dyn AggregateType>,
    state: &mut AggregateState,
    past: &Past,
    commands: &[Decidable<'_>],
    size: usize,
    commit_id: impl FnOnce() -> Arc<str>,
) -> Result<GroupDecision, HistoryNeeded> {
    let mut decision = GroupDecision {
        drafts: Vec::with_capacity(commands.len()),
        commit: None,
        taken: 0,
        needs_current: false,
    };
    let mut draft = CommitDraft::new(state);
    // Only the history counts here, because what this call adds raises `last_position`, too.
    let settled_position = state.last_position;
    for command in commands {
        if draft.bytes > size {
            break;
        }
        decision.taken += 1;
        let outcome = if command.envelope.position <= settled_position {
            let outcome = past.outcome(command.envelope.position).ok_or(HistoryNeeded)?;
            decision.needs_current = true;
            Draft::Final(outcome.clone())
        } else {
            decide_next(aggregate, state, &mut draft, command, &mut decision.needs_current)
        };
        decision.drafts.push((command.index, outcome));
    }
    decision.commit = draft.finish(commit_id);
    Ok(decision)
}

/// Decides a command whose position is higher than everything in the history: the usual case.
fn decide_next(
    aggregate: &Arc<dyn AggregateType>,
    state: &mut AggregateState,
    draft: &mut CommitDraft,
    command: &Decidable<'_>,
    needs_current: &mut bool,
) -> Draft {
    match decide_one(aggregate, state, command) {
        Ok(events) if events.is_empty() => {
            *needs_current = true;
            if draft.events.is_empty() {
                Draft::Final(unchanged(state))
            } else {
                Draft::WithCommit { version: state.version, events: 0 }
            }
        }
        Ok(events) => {
            let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
            draft.add(command.envelope, None, events);
            state.version += u64::from(count);
            state.last_position = command.envelope.position;
            Draft::WithCommit { version: state.version, events: count }
        }
        Err(outcome) => {
            *needs_current = true;
            Draft::Final(outcome)
        }
    }
}

/// The outcome of a command that would be accepted, but can no longer be: later commands of its aggregate have taken effect, and
/// versions cannot be inserted. The rules are pure, so this happens only when the earlier handler had other rules.
fn too_late(envelope: &CommandEnvelope) -> Outcome {
    tracing::error!(
        position = envelope.position,
        address = %envelope.address,
        "decided otherwise than the handler before on the same past; was it another release?"
    );
    rejected(&Rejection::new(
        "decided-too-late",
        "later commands of this aggregate were settled before this one could be; send it again under a new id",
    ))
}

/// Decides one command. An error is a complete outcome.
fn decide_one(
    aggregate: &Arc<dyn AggregateType>,
    state: &mut AggregateState,
    command: &Decidable<'_>,
) -> Result<Vec<NewEvent>, Outcome> {
    let context = context_of(aggregate, command.envelope, state.version)?;
    aggregate.decide(&mut state.state, command.command, &context).map_err(|error| not_decided(&error))
}

/// The context of the decision. An error is the outcome of a command that expects another version.
fn context_of<'a>(
    aggregate: &'a Arc<dyn AggregateType>,
    envelope: &'a CommandEnvelope,
    version: u64,
) -> Result<DecisionContext<'a>, Outcome> {
    if let Some(expected) = envelope.expected_version.filter(|expected| *expected != version) {
        let message = version_conflict::sentence(&envelope.address.stream_id, version, expected);
        return Err(rejected(&Rejection::new(version_conflict::CODE, message)));
    }
    Ok(DecisionContext {
        aggregate_id: envelope.address.stream_id.id(),
        now: envelope.stored_at,
        actor: envelope.actor.as_deref(),
        command_position: envelope.position,
        time_zone: aggregate.time_zone(),
    })
}

fn not_decided(error: &DecisionError) -> Outcome {
    match error {
        DecisionError::Rejected(rejection) => rejected(rejection),
        panicked @ DecisionError::Panicked { .. } => {
            let message = bounded(&panicked.to_string()).as_ref().into();
            Outcome::DeadLettered { code: "rules-panicked".into(), message }
        }
    }
}

/// The outcome of a rejection. A long sentence is cut, because it may contain what a client typed.
pub fn rejected(rejection: &Rejection) -> Outcome {
    Outcome::Rejected { code: rejection.code.into(), message: bounded(&rejection.message).as_ref().into() }
}

fn unchanged(state: &AggregateState) -> Outcome {
    Outcome::Accepted { sequence: state.last_sequence, version: state.version, events: 0 }
}

/// A commit that is being built.
struct CommitDraft {
    first_version: u64,
    previous: Option<Vec<u8>>,
    recorded_at: i64,
    commands: Vec<CommittedCommand>,
    events: Vec<RecordedEvent>,
    bytes: usize,
}

impl CommitDraft {
    fn new(state: &AggregateState) -> Self {
        Self {
            first_version: state.version + 1,
            previous: state.last_hash.map(Vec::from),
            recorded_at: 0,
            commands: Vec::new(),
            events: Vec::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, envelope: &CommandEnvelope, partner_of: Option<Arc<str>>, events: Vec<NewEvent>) {
        let index = u32::try_from(self.commands.len()).expect("a commit holds less than a round of commands");
        self.recorded_at = self.recorded_at.max(timestamp_to_nanoseconds(envelope.stored_at));
        let command = CommittedCommand {
            id: envelope.id_or_position(),
            position: envelope.position,
            actor: envelope.actor.clone(),
            correlation_id: envelope.correlation_id.clone(),
            causation_id: envelope.causation_id.clone(),
            traceparent: envelope.traceparent.clone(),
            partner_of,
        };
        let CommittedCommand { actor, correlation_id, causation_id, traceparent, partner_of, .. } = &command;
        let texts = [actor, correlation_id, causation_id, traceparent, partner_of].into_iter().flatten();
        self.bytes += FIELDS_BYTES + command.id.len() + texts.map(|text| text.len()).sum::<usize>();
        self.commands.push(command);
        for event in events {
            self.bytes += FIELDS_BYTES / 2 + event.event_type.len() + event.data.len();
            self.events.push(RecordedEvent {
                event_type: event.event_type.into(),
                schema: event.schema,
                data: event.data,
                command: index,
            });
        }
    }

    fn finish(self, commit_id: impl FnOnce() -> Arc<str>) -> Option<Commit> {
        (!self.events.is_empty()).then(|| self.into_commit(commit_id()))
    }

    fn into_commit(self, commit_id: Arc<str>) -> Commit {
        Commit {
            commit_id,
            first_version: self.first_version,
            recorded_at: self.recorded_at,
            commands: self.commands,
            events: self.events,
            previous: self.previous,
        }
    }
}

/// A commit ready to append.
#[derive(Debug, Clone)]
pub struct NewCommit {
    /// The aggregate.
    pub stream_id: StreamId,
    /// The sequence of the aggregate's last commit; 0 for none.
    pub expected_last: u64,
    /// The commit to append.
    pub commit: Commit,
    /// Its encoding by [`Commit::encode`].
    pub body: Bytes,
}

impl NewCommit {
    /// Encodes `commit`.
    pub fn new(stream_id: StreamId, expected_last: u64, commit: Commit) -> Self {
        let body = commit.encode().into();
        Self { stream_id, expected_last, commit, body }
    }

    /// The message to store.
    pub fn message(&self) -> NewMessage {
        let mut headers = Headers::new();
        if !self.commit.events.is_empty() {
            headers.push(header::EVENT_TYPES, event_types(&self.commit));
        }
        NewMessage {
            subject: self.stream_id.event_subject(),
            expected_last: Some(self.expected_last),
            headers,
            payload: self.body.clone(),
        }
    }
}

/// The distinct event types of a commit, in order of appearance. The list is for people and is kept short.
fn event_types(commit: &Commit) -> String {
    let mut types: Vec<&str> = Vec::new();
    for event in &commit.events {
        if !types.contains(&&*event.event_type) {
            types.push(&event.event_type);
        }
    }
    types.join(",")
}
