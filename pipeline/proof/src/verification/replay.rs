//! The reference: every command is decided one after the other on a simple fold, and outcomes and events are compared with what the handlers
//! recorded.

use std::{collections::BTreeSet, fmt, sync::Arc};

use millstream_contract::{
    command::{CommandEnvelope, check_id_origin},
    commit::StoredCommit,
    message_pack,
    outcome::Outcome,
    stored_message::StoredMessage,
    stream_names::COMMANDS,
    subject::StreamId,
};
use millstream_domain::decider::{
    AggregateRegistry, DecisionContext, DecisionError, INTERNAL_COMMAND, NewEvent, PlainStates, check_origin,
};

use super::{Check, Dump, Violation, commits::Commits, given_id, is_refused_for_its_id, journal::Journal};

/// From this many bytes on, a command may make a commit that is larger than a server's largest message.
const REFUSED_FROM_BYTES: usize = 128 * 1024;

/// The reference's result for one command.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Accepted { own: Vec<Effect>, partners: Vec<(StreamId, Vec<Effect>)> },
    Rejected(&'static str),
    Duplicate,
    DeadLettered,
}

/// An event, expected or stored.
#[derive(PartialEq, Eq)]
struct Effect {
    event_type: String,
    schema: u16,
    data: Vec<u8>,
}

impl From<NewEvent> for Effect {
    fn from(event: NewEvent) -> Self {
        Self { event_type: event.event_type.to_owned(), schema: event.schema, data: event.data }
    }
}

impl fmt::Debug for Effect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ", self.event_type)?;
        match message_pack::from_slice::<serde_json::Value>(&self.data) {
            Ok(fields) => write!(formatter, "{fields}"),
            Err(_) => write!(formatter, "{:02x?}", self.data),
        }
    }
}

impl Expected {
    fn matches(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Accepted { own, .. }, Outcome::Accepted { events, .. }) => {
                u32::try_from(own.len()) == Ok(*events)
            }
            (Self::Rejected(expected), Outcome::Rejected { code, .. }) => **expected == **code,
            (Self::Duplicate, Outcome::Duplicate { .. })
            | (Self::DeadLettered, Outcome::DeadLettered { .. }) => true,
            _ => false,
        }
    }
}

/// Decides every command of the dump again, in order, and compares. The dump must contain each stream from its first message on. It must not be
/// used for dumps in which an aggregate's commands were set aside because its history could not be read.
pub fn replay(dump: &Dump, registry: &AggregateRegistry) -> Vec<Violation> {
    // `verify` reports what does not decode.
    let mut reported_elsewhere = Vec::new();
    let journal = Journal::read(&dump.outcomes, &mut reported_elsewhere);
    let commits = Commits::read(&dump.events, &mut reported_elsewhere);
    let mut violations = Vec::new();
    let mut reference = Reference { registry, states: PlainStates::default(), used: BTreeSet::new() };
    for message in &dump.commands {
        let line = journal.lines.get(&message.sequence);
        let expected = match line {
            Some(line) if is_refused_by_size(message, &line.outcome) => Expected::DeadLettered,
            _ => reference.decide(message, line.map(|line| &line.outcome)),
        };
        let mut report = |detail: String| {
            violations.push(Violation::new(Check::Order, COMMANDS, message.sequence, detail));
        };
        if let Some(line) = line.filter(|line| !expected.matches(&line.outcome)) {
            report(format!("a sequential fold says {expected:?}, the journal {:?}", line.outcome));
        }
        let wanted = match expected {
            Expected::Accepted { own, partners } => (own, partners),
            _ => (Vec::new(), Vec::new()),
        };
        let own = commits
            .of_position(message.sequence)
            .map(|(stored, _)| effects_of(stored, message.sequence, registry));
        let partners = commits.partners_of(message.sequence);
        let partners =
            partners.map(|stored| (stored.stream_id.clone(), effects_of(stored, message.sequence, registry)));
        let found = (own.unwrap_or_default(), partners.collect::<Vec<_>>());
        if (line.is_some() || found != (Vec::new(), Vec::new())) && found != wanted {
            report(format!("a sequential fold yields {wanted:?}, EVENTS has {found:?}"));
        }
    }
    violations
}

/// Whether a command was set aside because its commit is larger than a message may be, and the command is large enough for that to be true. The
/// reference knows neither the exact size of a commit nor the server's limit.
fn is_refused_by_size(message: &StoredMessage, outcome: &Outcome) -> bool {
    let size = message.headers.block().len() + message.payload.len();
    let refused = matches!(outcome, Outcome::DeadLettered { code, .. } if &**code == "commit-refused");
    refused && size >= REFUSED_FROM_BYTES
}

/// What a command has added to an aggregate. An event that an earlier release wrote in an older version is compared in the current version.
fn effects_of(stored: &StoredCommit, position: u64, registry: &AggregateRegistry) -> Vec<Effect> {
    let aggregate = registry.get(stored.stream_id.context(), stored.stream_id.aggregate());
    let in_this_version = |effect: Effect| {
        let Some(aggregate) = aggregate else { return effect };
        let is_older = |(name, version): &(&str, u16)| *name == effect.event_type && effect.schema < *version;
        if !aggregate.event_types().iter().any(is_older) {
            return effect;
        }
        // Unreadable data stays as it is stored, and is reported as a different effect.
        match aggregate.rewrite_event(&effect.event_type, effect.schema, &effect.data) {
            Ok(event) => Effect::from(event),
            Err(_) => effect,
        }
    };
    stored
        .envelopes()
        .filter(|envelope| envelope.command.position == position)
        .map(|envelope| Effect {
            event_type: envelope.event_type.to_owned(),
            schema: envelope.schema,
            data: envelope.data.to_vec(),
        })
        .map(in_this_version)
        .collect()
}

/// A handler that has everything in memory, is alone, and never fails.
struct Reference<'a> {
    registry: &'a AggregateRegistry,
    states: PlainStates,
    used: BTreeSet<Arc<str>>,
}

impl Reference<'_> {
    /// If the journal does not refuse a command because of its origin, the command is judged without that rule, because older histories have
    /// commands of processes on the common subject.
    fn decide(&mut self, message: &StoredMessage, outcome: Option<&Outcome>) -> Expected {
        if outcome.is_some_and(is_refused_for_its_id) && check_id_origin(message).is_err() {
            return Expected::DeadLettered;
        }
        // Any message under a used id is a repeat, even an unreadable one.
        if given_id(message, outcome).is_some_and(|id| self.used.contains(&id)) {
            return Expected::Duplicate;
        }
        let Ok(envelope) = CommandEnvelope::from_stored(message) else { return Expected::DeadLettered };
        let by_origin =
            matches!(outcome, Some(Outcome::Rejected { code, .. }) if &**code == INTERNAL_COMMAND);
        let expected = self.decide_first(&envelope, by_origin);
        if !matches!(expected, Expected::DeadLettered) {
            self.used.extend(envelope.id.clone());
        }
        expected
    }

    fn decide_first(&mut self, envelope: &CommandEnvelope, by_origin: bool) -> Expected {
        let stream_id = &envelope.address.stream_id;
        let Some(aggregate) = self.registry.get(stream_id.context(), stream_id.aggregate()) else {
            return Expected::DeadLettered;
        };
        if let Err(rejection) = aggregate.check_id(stream_id.id()) {
            return Expected::Rejected(rejection.code);
        }
        if by_origin
            && let Err(rejection) =
                check_origin(aggregate.internal_commands(), &envelope.address, envelope.origin)
        {
            return Expected::Rejected(rejection.code);
        }
        let Ok(command) = aggregate.decode_command(envelope) else { return Expected::DeadLettered };
        let partners = match aggregate.partners(stream_id.id(), &command) {
            Ok(partners) => partners,
            Err(DecisionError::Rejected(rejection)) => return Expected::Rejected(rejection.code),
            Err(DecisionError::Panicked { .. }) => return Expected::DeadLettered,
        };
        let version = self.states.version(stream_id);
        if envelope.expected_version.is_some_and(|expected| expected != version) {
            return Expected::Rejected("version-conflict");
        }
        let context = DecisionContext {
            aggregate_id: stream_id.id(),
            now: envelope.stored_at,
            actor: envelope.actor.as_deref(),
            command_position: envelope.position,
            time_zone: aggregate.time_zone(),
        };
        match self.states.decide(aggregate, stream_id, &partners, &command, &context) {
            Ok(together) => {
                let effects = |events: Vec<NewEvent>| events.into_iter().map(Effect::from).collect();
                let changed = partners.into_iter().zip(together.partners);
                let changed = changed.filter(|(_, events)| !events.is_empty());
                Expected::Accepted {
                    own: effects(together.own),
                    partners: changed.map(|(partner, events)| (partner, effects(events))).collect(),
                }
            }
            Err(DecisionError::Rejected(rejection)) => Expected::Rejected(rejection.code),
            Err(DecisionError::Panicked { .. }) => Expected::DeadLettered,
        }
    }
}
