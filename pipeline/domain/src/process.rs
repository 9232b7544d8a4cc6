//! Process managers: pure functions from events to commands and timers.
//!
//! A process sees every event of the aggregates it handles, in the order of EVENTS, and keeps its own rows, like a projection. It answers
//! an event with *effects*: commands to send, timers to set or to cancel. The runner stores its rows, its checkpoint and the effects that
//! are still to be carried out in one transaction.
//!
//! A process makes no ids: [`react`] derives the id of each command from the process's name, the event's place and the command's index in
//! the answer. If an effect is carried out twice, after a crash or in a replay, it repeats a command under its first id and changes
//! nothing. A process has no clock, either: it knows when its events were recorded, and it waits by setting a timer. A timer is a command
//! for later; the aggregate decides whether the command still matters.
//!
//! Deliberately absent: answers. A process learns what became of a command only from events, so if a refusal matters to a process, the
//! aggregate must record it as an event (docs/adr/0011-refusals-that-processes-need-are-events.md).

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

/// The longest name of a timer within its process. An aggregate's id and a purpose fit into it.
pub const TIMER_NAME_LENGTH_MAX: usize = 192;

/// Why a process cannot continue. It halts before the event's commit and reports the error; it never skips an event.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// An event that this release cannot read.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Its rows cannot be read, or contradict the events.
    #[error(transparent)]
    Rows(#[from] ProjectionError),
    /// It addresses a command to an aggregate that cannot exist. This is a bug of the process, which has to check ids that it takes from
    /// the fields of events.
    #[error("the process addresses a command to what cannot be an aggregate")]
    Address(#[from] SubjectError),
    /// It gives a timer a name that no subject can hold. This is a bug of the process.
    #[error("timer name {name:?} is not allowed: use 1 to {TIMER_NAME_LENGTH_MAX} of A-Z a-z 0-9 _ - : @")]
    TimerName {
        /// What was given.
        name: String,
    },
}

/// A command that a process asks for. The engine adds its id, its actor and its cause.
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
    /// Its name within the process: 1 to [`TIMER_NAME_LENGTH_MAX`] of the characters of an id. It replaces a timer of the same name.
    pub name: String,
    /// When the command falls due. A time in the past means at once.
    ///
    /// A time after the year 2200 is changed to the beginning of that year, because the server cannot represent times after 2262.
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
    /// Cancel the timer of this name. Nothing happens if there is none; its command may already have been sent.
    CancelTimer(String),
}

/// From events to effects.
pub trait Process: Send + Sync + 'static {
    /// Its name, lower-kebab-case. It must never change, because it is part of the ids of its commands and of the names of its timers.
    fn name(&self) -> &'static str;

    /// Raised whenever its rows change for the same events. They are then rebuilt without carrying out any effect again.
    fn version(&self) -> u32 {
        1
    }

    /// The tables it keeps its rows in; each starts with its name.
    fn tables(&self) -> &'static [&'static str];

    /// Whether it handles the events of `aggregate` of `context`. An unknown event type of such an aggregate halts it.
    fn handles(&self, context: &str, aggregate: &str) -> bool;

    /// Reads one event, updates its rows, and returns the effects in order. The same event on the same rows always gives the same effects.
    ///
    /// # Errors
    /// [`ProcessError`]; the process then halts before this event's commit.
    fn react(
        &self,
        envelope: &EventEnvelope<'_>,
        rows: &mut (dyn Rows + '_),
    ) -> Result<Vec<Effect>, ProcessError>;
}

/// A shorter form of a process that answers the events of one aggregate. It is a [`Process`].
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

/// A command of a process as it is published on COMMANDS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCommand {
    /// Its id. The same process gives the same id whenever it answers the same event.
    pub id: String,
    /// The command.
    pub command: ProcessCommand,
    /// Who asks: `process:<name>`.
    pub actor: String,
    /// The correlation id of the event's command or, without one, the id of that command.
    pub correlation_id: String,
    /// The event: `<context>.<aggregate>.<id>/<version>`.
    pub causation_id: String,
    /// The W3C trace context that the event's command was sent in, if any.
    pub traceparent: Option<String>,
}

/// An effect with everything that is needed to carry it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuedEffect {
    /// Put a command on COMMANDS.
    Send(IssuedCommand),
    /// Put a schedule on TIMERS. The command that it will publish gets an id made from the schedule's position there.
    SetTimer {
        /// The token of the schedule's subject: `<process>:<name>`.
        name: String,
        /// When.
        at: Timestamp,
        /// The command. Its id also identifies the schedule, so that it is set only once.
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

/// The id of the command at `index` in the answer of `process` to an event.
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

/// The token that names a process's timer on TIMERS.
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
