//! Process managers: pure functions from events to commands and timers.
//!
//! A process sees every event of the aggregates it handles, in the order of EVENTS, and keeps its own rows, like a
//! projection. In answer to an event it asks for *effects*: commands to send, timers to set or to cancel. Its rows, its
//! checkpoint and the effects that are still to be carried out belong into one transaction of the store that runs it.
//!
//! A process gives no ids: [`react`] derives the id of each command from the process's name, the event's place and the
//! command's index in the answer. An effect that is carried out twice, after a crash or on a replay, therefore repeats a
//! command under its first id, and changes nothing. There is no clock either: what a process knows of time is when its
//! events were recorded, and what it wants of time is a timer. A timer is a command for later; the aggregate decides
//! whether it still matters.
//!
//! Deliberately absent: answers. What became of a command is told by events alone, so a command whose refusal matters to
//! a process must record the refusal as an event (docs/adr/0011-refusals-that-processes-need-are-events.md).

use jiff::Timestamp;
use millstream_contract::{
    command::process_command_id,
    commit::EventEnvelope,
    subject::{CommandAddress, SubjectError},
};
use serde::Serialize;

use crate::{
    decider::{Decider, EventError, EventSet as _},
    projection::{ProjectionError, Rows},
};

/// Longest name of a timer within its process: an aggregate's id and what it is for.
pub const TIMER_NAME_LENGTH_MAX: usize = 192;

/// Why a process cannot go on. It halts before the event's commit and says so; it never skips.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// An event that this release cannot read.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Its rows cannot be read, or contradict the events.
    #[error(transparent)]
    Rows(#[from] ProjectionError),
    /// It addresses a command to what cannot be an aggregate: a bug of the process, which has to check ids that come
    /// out of the fields of events.
    #[error("the process addresses a command to what cannot be an aggregate")]
    Address(#[from] SubjectError),
    /// It names a timer in a way that no subject can carry: a bug of the process.
    #[error("timer name {name:?} is not allowed: use 1 to {TIMER_NAME_LENGTH_MAX} of A-Z a-z 0-9 _ - : @")]
    TimerName {
        /// What was given.
        name: String,
    },
}

/// A command that a process asks for. Its id, its actor and what caused it are the engine's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessCommand {
    /// The aggregate and the command's name.
    pub address: CommandAddress,
    /// The command's fields as JSON.
    pub body: Vec<u8>,
}

impl ProcessCommand {
    /// The command `command` to the aggregate `id` of the decider `D`, with the fields of `body`.
    ///
    /// # Errors
    /// [`ProcessError::Address`] when the id is not allowed.
    pub fn to<D: Decider>(id: &str, command: &str, body: &impl Serialize) -> Result<Self, ProcessError> {
        let address = CommandAddress::new(D::CONTEXT, D::AGGREGATE, id, command)?;
        let body = serde_json::to_vec(body).expect("commands hold only plain data with text keys");
        Ok(Self { address, body })
    }
}

/// A command for later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// Its name within the process: 1 to [`TIMER_NAME_LENGTH_MAX`] of the characters of an id. A timer of the same name is
    /// replaced.
    pub name: String,
    /// When. A time that has passed means at once.
    ///
    /// A time behind the year 2200 is taken for the beginning of that year: the server cannot count further than 2262.
    pub at: Timestamp,
    /// What.
    pub command: ProcessCommand,
}

/// What a process asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a command.
    Send(ProcessCommand),
    /// Set a timer, or move one that is set.
    SetTimer(Timer),
    /// Cancel the timer of this name. Nothing happens when there is none; its command may already be under way.
    CancelTimer(String),
}

/// From events to effects.
pub trait Process: Send + Sync + 'static {
    /// Its name, lower-kebab-case, for ever: it is part of the ids of its commands and of the names of its timers.
    fn name(&self) -> &'static str;

    /// Raised whenever its rows come out differently; they are then built anew, without carrying out any effect again.
    fn version(&self) -> u32 {
        1
    }

    /// The tables it keeps its rows in; each starts with its name.
    fn tables(&self) -> &'static [&'static str];

    /// Whether it wants the events of `aggregate` of `context`. An unknown event type of a wanted aggregate halts it.
    fn handles(&self, context: &str, aggregate: &str) -> bool;

    /// Reads one event, keeps its rows, and says what is to be done, in order. The same event on the same rows always
    /// gives the same effects.
    ///
    /// # Errors
    /// [`ProcessError`]; the process then halts before this event's commit.
    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError>;
}

/// A process that answers the events of one aggregate, in short. It is a [`Process`].
pub trait AggregateProcess: Send + Sync + 'static {
    /// Whose events it answers.
    type Aggregate: Decider;

    /// As [`Process::name`].
    const NAME: &'static str;

    /// As [`Process::tables`]; most such processes keep no rows.
    const TABLES: &'static [&'static str] = &[];

    /// As [`Process::version`].
    const VERSION: u32 = 1;

    /// Answers one event, as [`Process::react`].
    ///
    /// # Errors
    /// As there.
    fn answer(
        &self,
        event: <Self::Aggregate as Decider>::Event,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError>;
}

impl<P: AggregateProcess> Process for P {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn tables(&self) -> &'static [&'static str] {
        P::TABLES
    }

    fn handles(&self, context: &str, aggregate: &str) -> bool {
        (context, aggregate) == (P::Aggregate::CONTEXT, P::Aggregate::AGGREGATE)
    }

    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError> {
        self.answer(<P::Aggregate as Decider>::Event::from_envelope(envelope)?, envelope, rows)
    }
}

/// A command of a process as it goes to COMMANDS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCommand {
    /// Its id: the same whenever the same process answers the same event.
    pub id: String,
    /// The command.
    pub command: ProcessCommand,
    /// Who asks: `process:<name>`.
    pub actor: String,
    /// What the event's command belonged to; the id of that command when it belonged to nothing else.
    pub correlation_id: String,
    /// The event: `<context>.<aggregate>.<id>/<version>`.
    pub causation_id: String,
    /// The W3C trace context that the event's command was sent in, if any.
    pub traceparent: Option<String>,
}

/// An effect with everything that carrying it out takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuedEffect {
    /// Put a command on COMMANDS.
    Send(IssuedCommand),
    /// Put a schedule on TIMERS. The command that comes of it gets an id made from the schedule's position there.
    SetTimer {
        /// The token of the schedule's subject: `<process>:<name>`.
        name: String,
        /// When.
        at: Timestamp,
        /// The command; its id identifies the schedule itself, so that it is set once.
        command: IssuedCommand,
    },
    /// Take the schedule of this name from TIMERS.
    CancelTimer {
        /// The token of the schedule's subject.
        name: String,
    },
}

/// Lets a process answer an event, and gives each effect its id, actor and cause.
///
/// # Errors
/// As [`Process::react`]; [`ProcessError::TimerName`].
pub fn react(
    process: &dyn Process,
    envelope: &EventEnvelope<'_>,
    rows: &mut (dyn Rows + '_),
) -> Result<Vec<IssuedEffect>, ProcessError> {
    let effects = process.react(envelope, rows)?;
    (0..).zip(effects).map(|(index, effect)| issued(process.name(), envelope, index, effect)).collect()
}

/// The id of the command at `index` of the answer of `process` to an event.
pub fn command_id(process: &str, envelope: &EventEnvelope<'_>, index: usize) -> String {
    process_command_id(process, envelope.broker_sequence, envelope.aggregate_version, index)
}

fn issued(
    process: &str,
    envelope: &EventEnvelope<'_>,
    index: usize,
    effect: Effect,
) -> Result<IssuedEffect, ProcessError> {
    let command = |command| IssuedCommand {
        id: command_id(process, envelope, index),
        command,
        actor: format!("process:{process}"),
        correlation_id: {
            let cause = envelope.command;
            cause.correlation_id.as_ref().unwrap_or(&cause.id).to_string()
        },
        causation_id: format!("{}/{}", envelope.stream_id, envelope.aggregate_version),
        traceparent: envelope.command.traceparent.as_deref().map(str::to_owned),
    };
    Ok(match effect {
        Effect::Send(send) => IssuedEffect::Send(command(send)),
        Effect::SetTimer(timer) => IssuedEffect::SetTimer {
            name: timer_name(process, &timer.name)?,
            at: timer.at,
            command: command(timer.command),
        },
        Effect::CancelTimer(name) => IssuedEffect::CancelTimer { name: timer_name(process, &name)? },
    })
}

/// The token under which a process's timer stands on TIMERS.
fn timer_name(process: &str, name: &str) -> Result<String, ProcessError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':' | b'@');
    if (1..=TIMER_NAME_LENGTH_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(format!("{process}:{name}"))
    } else {
        Err(ProcessError::TimerName { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests;
