//! From a message of COMMANDS to a command that can be decided, or to the reason why it cannot be.

use std::{collections::HashSet, sync::Arc};

use millstream_contract::{
    command::{CommandEnvelope, CommandError, check_id_origin, explicit_id},
    dead_letter::DeadLetter,
    error_text::one_line,
    header,
    outcome::ContentMark,
    stored_message::StoredMessage,
    stream_names::COMMANDS,
    subject::{CommandAddress, Origin, StreamId, published_subject},
};
use millstream_domain::decider::{
    AggregateRegistry, AggregateType, AnyCommand, DecisionError, Rejection, check_origin,
};

/// Who may give what is meant for processes and timers: commands that deciders declare as internal, and ids of their form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InternalCommands {
    /// Only commands on `effect.…`.
    EffectsOnly,
    /// Anybody. This is for an upgrade, as long as a process manager of an earlier release publishes on `cmd.…`.
    Anyone,
}

/// A command of a round.
pub struct PreparedCommand {
    /// Its position: its sequence in COMMANDS.
    pub position: u64,
    /// The id that its sender gave it.
    pub id: Option<Arc<str>>,
    /// A mark of what it says, which distinguishes a repeat from another command; `None` without an id.
    pub content: Option<ContentMark>,
    /// `<context>.<aggregate>.<id>.<command>`.
    pub address: Arc<str>,
    /// The subject to which the outcome is sent.
    pub reply: Option<Arc<str>>,
    /// What the handler has to do with it.
    pub work: Work,
}

impl PreparedCommand {
    /// Who sent it, as far as its headers say.
    pub(crate) fn actor(&self) -> Option<Arc<str>> {
        let headers = match &self.work {
            Work::Decide(decoded) => return decoded.envelope.actor.clone(),
            Work::SetAside(letter) => &letter.headers,
            Work::Refuse(_) => return None,
        };
        headers.get(header::ACTOR).map(Arc::from)
    }

    fn has_partners(&self) -> bool {
        matches!(&self.work, Work::Decide(decoded) if !decoded.partners.is_empty())
    }
}

/// What the handler has to do with a command.
pub enum Work {
    /// Decide it. It is boxed, because commands are moved from vector to vector.
    Decide(Box<DecodedCommand>),
    /// Reject it, which needs no state.
    Refuse(Rejection),
    /// Set it aside as a dead letter, because it cannot be read.
    SetAside(Box<DeadLetter>),
}

/// A command that can be decided.
pub struct DecodedCommand {
    /// The rules.
    pub aggregate: Arc<dyn AggregateType>,
    /// Its headers and its position.
    pub envelope: CommandEnvelope,
    /// Its fields.
    pub command: AnyCommand,
    /// The other aggregates that it changes together with its own.
    pub partners: Vec<StreamId>,
    /// The message as it was stored, in case the command has to be set aside.
    pub message: StoredMessage,
}

/// Decodes a message of COMMANDS. It never fails: what cannot be decoded becomes a rejection or a dead letter, so that each position gets its
/// outcome.
pub fn prepare(
    message: StoredMessage,
    registry: &AggregateRegistry,
    internal: InternalCommands,
) -> PreparedCommand {
    let prefix = Origin::of_stored_subject(&message.subject).prefix();
    let address: Arc<str> = published_subject(&message.subject)
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('.'))
        .unwrap_or(&message.subject)
        .into();
    let reply = message.headers.find(header::REPLY).map(Arc::from);
    let position = message.sequence;
    // The id is checked first. An id that its sender must not use is never looked up, whatever else is wrong with the command.
    match usable_id(&message, internal) {
        Ok(id) => {
            let content = id.is_some().then(|| ContentMark::new(&address, &message.payload));
            let work = work(message, registry, internal);
            PreparedCommand { position, id, content, address, reply, work }
        }
        Err(error) => {
            let work = set_aside(&message, error.code(), &error);
            PreparedCommand { position, id: None, content: None, address, reply, work }
        }
    }
}

/// The sender's id, if the sender may use it.
fn usable_id(message: &StoredMessage, internal: InternalCommands) -> Result<Option<Arc<str>>, CommandError> {
    if internal == InternalCommands::EffectsOnly {
        check_id_origin(message)?;
    }
    explicit_id(message)
}

fn set_aside(message: &StoredMessage, code: &str, error: &dyn std::error::Error) -> Work {
    Work::SetAside(Box::new(DeadLetter::new(COMMANDS, message, code, &one_line(error))))
}

fn work(message: StoredMessage, registry: &AggregateRegistry, internal: InternalCommands) -> Work {
    let set_aside = |code: &str, error: &dyn std::error::Error| set_aside(&message, code, error);
    let envelope = match CommandEnvelope::from_stored(&message) {
        Ok(envelope) => envelope,
        Err(error) => return set_aside(error.code(), &error),
    };
    let stream_id = &envelope.address.stream_id;
    let Some(aggregate) = registry.get(stream_id.context(), stream_id.aggregate()) else {
        return set_aside("aggregate-unknown", &AggregateUnknown::new(&envelope.address, registry));
    };
    if let Err(rejection) = aggregate.check_id(stream_id.id()) {
        return Work::Refuse(rejection);
    }
    if internal == InternalCommands::EffectsOnly
        && let Err(rejection) =
            check_origin(aggregate.internal_commands(), &envelope.address, envelope.origin)
    {
        return Work::Refuse(rejection);
    }
    let command = match aggregate.decode_command(&envelope) {
        Ok(command) => command,
        Err(error) => return set_aside(error.code(), &error),
    };
    match aggregate.partners(stream_id.id(), &command) {
        Ok(partners) => {
            let aggregate = aggregate.clone();
            Work::Decide(Box::new(DecodedCommand { aggregate, envelope, command, partners, message }))
        }
        Err(DecisionError::Rejected(rejection)) => Work::Refuse(rejection),
        Err(panicked @ DecisionError::Panicked { .. }) => set_aside("rules-panicked", &panicked),
    }
}

/// Cuts a round where an id occurs a second time, and before and after a command that changes several aggregates.
///
/// Whether the second command with an id is a repeat depends on what became of the first: a command that was set aside leaves
/// its id free. The cut makes the outcome of the first known before the second is decided. So the result does not depend on
/// where rounds begin and end.
///
/// A command that changes several aggregates is a round of its own. When it is decided, all commands before it are settled and
/// none after it has begun, so that each aggregate sees positions in their order.
pub fn cut_round(mut commands: Vec<PreparedCommand>) -> Vec<Vec<PreparedCommand>> {
    let mut cuts = Vec::new();
    let mut ids: HashSet<&str> = HashSet::with_capacity(commands.len());
    let mut behind_partners = false;
    for (place, command) in commands.iter().enumerate() {
        let id = command.id.as_deref();
        let repeated = id.is_some_and(|id| !ids.insert(id));
        let with_partners = command.has_partners();
        if place > 0 && (repeated || with_partners || behind_partners) {
            cuts.push(place);
            ids.clear();
            ids.extend(id);
        }
        behind_partners = with_partners;
    }
    // The cuts are made from the back, because `split_off` moves what follows. A round without cuts, which is the usual case, is not moved at
    // all.
    let mut rounds: Vec<_> = cuts.into_iter().rev().map(|place| commands.split_off(place)).collect();
    rounds.push(commands);
    rounds.reverse();
    rounds
}

/// The subject names an aggregate for which this handler has no rules.
#[derive(Debug, thiserror::Error)]
#[error("no aggregate {context}.{aggregate}; this handler knows {known}")]
struct AggregateUnknown {
    context: String,
    aggregate: String,
    known: String,
}

impl AggregateUnknown {
    fn new(address: &CommandAddress, registry: &AggregateRegistry) -> Self {
        let known: Vec<_> =
            registry.iter().map(|each| format!("{}.{}", each.context(), each.aggregate())).collect();
        Self {
            context: address.stream_id.context().to_owned(),
            aggregate: address.stream_id.aggregate().to_owned(),
            known: known.join(", "),
        }
    }
}

#[cfg(test)]
mod tests;
