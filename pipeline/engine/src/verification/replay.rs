//! The reference: every command decided one after the other on a plain fold, and the outcomes and events compared with
//! what the handlers recorded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{Check, Dump, Violation, commits::Commits, given_id, journal::Journal};
use crate::{
    contract::{
        command::CommandEnvelope, outcome::Outcome, stored_message::StoredMessage, stream_names::COMMANDS,
        subject::StreamId,
    },
    decider::{AggregateRegistry, AnyState, DecisionContext, DecisionError},
};

/// What the reference says about one command.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Accepted(Vec<Effect>),
    Rejected(&'static str),
    Duplicate,
    DeadLettered,
}

/// An event, as it ought to be or as it is stored.
#[derive(PartialEq, Eq)]
struct Effect {
    event_type: String,
    schema: u16,
    data: Vec<u8>,
}

impl fmt::Debug for Effect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ", self.event_type)?;
        match rmp_serde::from_slice::<serde_json::Value>(&self.data) {
            Ok(fields) => write!(formatter, "{fields}"),
            Err(_) => write!(formatter, "{:02x?}", self.data),
        }
    }
}

impl Expected {
    fn matches(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Accepted(effects), Outcome::Accepted { events, .. }) => {
                u32::try_from(effects.len()) == Ok(*events)
            }
            (Self::Rejected(expected), Outcome::Rejected { code, .. }) => **expected == **code,
            (Self::Duplicate, Outcome::Duplicate { .. })
            | (Self::DeadLettered, Outcome::DeadLettered { .. }) => true,
            _ => false,
        }
    }
}

/// Decides every command of the dump anew, in order, and compares. The dump must be complete from the first message of
/// each stream on. Not for dumps in which an aggregate was parked because its history could not be read.
pub fn replay(dump: &Dump, registry: &AggregateRegistry) -> Vec<Violation> {
    // What does not decode, `verify` reports.
    let mut reported_elsewhere = Vec::new();
    let journal = Journal::read(&dump.outcomes, &mut reported_elsewhere);
    let commits = Commits::read(&dump.events, &mut reported_elsewhere);
    let mut violations = Vec::new();
    let mut reference = Reference { registry, aggregates: BTreeMap::new(), used: BTreeSet::new() };
    for message in &dump.commands {
        let expected = reference.decide(message);
        let mut report = |detail: String| {
            violations.push(Violation::new(Check::Order, COMMANDS, message.sequence, detail));
        };
        let line = journal.lines.get(&message.sequence);
        if let Some(line) = line.filter(|line| !expected.matches(&line.outcome)) {
            report(format!("a sequential fold says {expected:?}, the journal {:?}", line.outcome));
        }
        let wanted = if let Expected::Accepted(effects) = expected { effects } else { Vec::new() };
        let found = effects_of(&commits, message.sequence);
        if (line.is_some() || !found.is_empty()) && found != wanted {
            report(format!("a sequential fold yields {wanted:?}, EVENTS has {found:?}"));
        }
    }
    violations
}

fn effects_of(commits: &Commits, position: u64) -> Vec<Effect> {
    let Some((stored, _)) = commits.of_position(position) else { return Vec::new() };
    stored
        .envelopes()
        .filter(|envelope| envelope.command.position == position)
        .map(|envelope| Effect {
            event_type: envelope.event_type.to_owned(),
            schema: envelope.schema,
            data: envelope.data.to_vec(),
        })
        .collect()
}

/// A handler that has everything in memory, is alone, and never fails.
struct Reference<'a> {
    registry: &'a AggregateRegistry,
    aggregates: BTreeMap<StreamId, (AnyState, u64)>,
    used: BTreeSet<Arc<str>>,
}

impl Reference<'_> {
    fn decide(&mut self, message: &StoredMessage) -> Expected {
        // Whatever comes under a used id is a repeat, readable or not.
        if given_id(message).is_some_and(|id| self.used.contains(&id)) {
            return Expected::Duplicate;
        }
        let Ok(envelope) = CommandEnvelope::from_stored(message) else { return Expected::DeadLettered };
        let expected = self.decide_first(&envelope);
        if !matches!(expected, Expected::DeadLettered) {
            self.used.extend(envelope.id.clone());
        }
        expected
    }

    fn decide_first(&mut self, envelope: &CommandEnvelope) -> Expected {
        let stream_id = &envelope.address.stream_id;
        let Some(aggregate) = self.registry.get(stream_id.context(), stream_id.aggregate()) else {
            return Expected::DeadLettered;
        };
        if let Err(rejection) = aggregate.check_id(stream_id.id()) {
            return Expected::Rejected(rejection.code);
        }
        let Ok(command) = aggregate.decode_command(envelope) else { return Expected::DeadLettered };
        let (state, version) =
            self.aggregates.entry(stream_id.clone()).or_insert_with(|| (aggregate.initial(), 0));
        if envelope.expected_version.is_some_and(|expected| expected != *version) {
            return Expected::Rejected("version-conflict");
        }
        let context = DecisionContext {
            aggregate_id: stream_id.id(),
            now: envelope.stored_at,
            actor: envelope.actor.as_deref(),
            command_position: envelope.position,
        };
        match aggregate.decide(state, &command, &context) {
            Ok(events) => {
                *version += events.len() as u64;
                let effect = |event: crate::decider::NewEvent| Effect {
                    event_type: event.event_type.to_owned(),
                    schema: event.schema,
                    data: event.data,
                };
                Expected::Accepted(events.into_iter().map(effect).collect())
            }
            Err(DecisionError::Rejected(rejection)) => Expected::Rejected(rejection.code),
            Err(DecisionError::Panicked { .. }) => Expected::DeadLettered,
        }
    }
}
