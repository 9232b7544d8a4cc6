//! The effects that wait to be carried out: rows written in the process's own transaction, in the order in which they were asked for.

use jiff::Timestamp;
use millstream_contract::{
    dead_letter::{DeadLetter, single_line},
    error_text::bounded,
    header,
    stored_message::Headers,
    stream_names::EVENTS,
    subject::{DUE_PREFIX, EFFECT_PREFIX, TIMER_PREFIX},
};
use millstream_domain::{
    process::{IssuedCommand, IssuedEffect},
    projection::ProjectionError,
};
use serde::{Deserialize, Serialize};

/// The table of each process.
pub(super) const OUTBOX: &str = "outbox";

/// The code of effects that the server refuses for good.
const EFFECT_REFUSED: &str = "effect-refused";

/// JetStream's header with the time when a message is due.
const SCHEDULE: &str = "Nats-Schedule";
/// JetStream's header with the subject on which it then appears.
const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";

/// The server counts nanoseconds since 1970 in 64 bits, which reach until 2262. A later time would fire at once.
const SCHEDULE_MAX: Timestamp = Timestamp::constant(7_258_118_400, 0);

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "kebab-case")]
pub(super) enum Row {
    Send { command: Command },
    SetTimer { name: String, at: Timestamp, command: Command },
    CancelTimer { name: String },
}

/// A command in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) id: String,
    /// `<context>.<aggregate>.<id>.<command>`.
    pub(super) address: String,
    body: String,
    actor: String,
    correlation_id: String,
    causation_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

/// The key of the effect at `index` in the answer to the event of this version in the commit at this sequence.
pub(super) fn key(broker_sequence: u64, aggregate_version: u64, index: usize) -> String {
    format!("{broker_sequence:020}.{aggregate_version:020}.{index:010}")
}

/// The sequence of the commit from which a row comes.
pub(super) fn sequence(key: &str) -> Option<u64> {
    key.split('.').next()?.parse().ok()
}

/// Identifies the effect of a row among those of its event, for the names of dead letters: `<process>-<version>-<index>`.
fn effect(process: &str, key: &str) -> String {
    let numbers = key.split('.').skip(1).map(|number| number.trim_start_matches('0'));
    let numbers = numbers.map(|number| if number.is_empty() { "0" } else { number });
    std::iter::once(process).chain(numbers).collect::<Vec<_>>().join("-")
}

/// A key after those of all rows of commits up to `sequence`.
pub(super) fn key_behind(sequence: u64) -> String {
    key(sequence.saturating_add(1), 0, 0)
}

impl TryFrom<IssuedEffect> for Row {
    type Error = ProjectionError;

    fn try_from(effect: IssuedEffect) -> Result<Self, ProjectionError> {
        Ok(match effect {
            IssuedEffect::Send(command) => Self::Send { command: command.try_into()? },
            IssuedEffect::SetTimer { name, at, command } => {
                Self::SetTimer { name, at, command: command.try_into()? }
            }
            IssuedEffect::CancelTimer { name } => Self::CancelTimer { name },
        })
    }
}

impl TryFrom<IssuedCommand> for Command {
    type Error = ProjectionError;

    fn try_from(issued: IssuedCommand) -> Result<Self, ProjectionError> {
        let address = issued.command.address.to_string();
        let body = String::from_utf8(issued.command.body)
            .map_err(|_| ProjectionError::Inconsistent(format!("the body of {address} is not JSON")))?;
        let IssuedCommand { id, actor, correlation_id, causation_id, traceparent, .. } = issued;
        Ok(Self { id, address, body, actor, correlation_id, causation_id, traceparent })
    }
}

impl Row {
    /// Effects with the same lane must be carried out one after the other: commands to one aggregate, and changes of one timer.
    pub(super) fn lane(&self) -> String {
        match self {
            Self::Send { command } => {
                let aggregate = command.address.rsplit_once('.').map_or("", |(aggregate, _)| aggregate);
                format!("{EFFECT_PREFIX}.{aggregate}")
            }
            Self::SetTimer { name, .. } | Self::CancelTimer { name } => timer_subject(name),
        }
    }
}

/// The dead letter of an effect that the server refuses for good, with the command as it would have been published, even if it is a timer's.
/// `None` for an effect without a command.
pub(super) fn dead_letter(process: &str, key: &str, row: &Row, cause: &str) -> Option<DeadLetter> {
    let (command, cause) = match row {
        Row::Send { command } => (command, cause.to_owned()),
        Row::SetTimer { name, at, command } => (command, format!("timer {name} for {at}: {cause}")),
        Row::CancelTimer { .. } => return None,
    };
    Some(DeadLetter {
        stream: EVENTS.to_owned(),
        sequence: sequence(key).unwrap_or(0),
        effect: Some(effect(process, key)),
        subject: command.subject(),
        code: EFFECT_REFUSED.to_owned(),
        cause: single_line(&bounded(&cause)),
        headers: command.headers(),
        payload: command.payload(),
    })
}

/// The subject of a timer's schedule.
pub(super) fn timer_subject(name: &str) -> String {
    format!("{TIMER_PREFIX}.{name}")
}

impl Command {
    /// The subject on which it is published. It is one of processes only.
    pub(super) fn subject(&self) -> String {
        format!("{EFFECT_PREFIX}.{}", self.address)
    }

    /// Its bytes.
    pub(super) fn payload(&self) -> bytes::Bytes {
        self.body.clone().into()
    }

    /// Its headers. The id is not sent as JetStream's message id: one repeated message id rejects a whole atomic batch. Besides, COMMANDS
    /// remembers the message ids of all senders, so anybody could use the id first, and the server would drop the command.
    pub(super) fn headers(&self) -> Headers {
        let fields = [
            (header::COMMAND_ID, &*self.id),
            (header::ACTOR, &self.actor),
            (header::CORRELATION_ID, &self.correlation_id),
            (header::CAUSATION_ID, &self.causation_id),
            (header::CONTENT_TYPE, header::JSON),
        ];
        let trace = self.traceparent.as_deref().map(|trace| (header::TRACE_PARENT, trace));
        fields.into_iter().chain(trace).collect()
    }

    /// The headers of its schedule. Schedules are sent one by one, so the message id keeps most repeats out; only the process manager and the
    /// operator may publish to TIMERS.
    pub(super) fn schedule_headers(&self, at: Timestamp) -> Headers {
        let mut headers = self.headers();
        headers.push(header::NATS_MESSAGE_ID, &self.id);
        headers.push(SCHEDULE, format!("@at {}", at.min(SCHEDULE_MAX)));
        headers.push(SCHEDULE_TARGET, format!("{DUE_PREFIX}.{}", self.address));
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_effects_were_asked_for() {
        let keys = [key(9, 2, 0), key(9, 2, 10), key(9, 10, 0), key_behind(9), key(10, 1, 0), key(100, 1, 9)];
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(keys.each_ref().map(|key| sequence(key)), [9, 9, 9, 10, 10, 100].map(Some));
        assert_eq!(effect("stock-keeping", &key(9, 10, 0)), "stock-keeping-10-0");
    }

    #[test]
    fn far_future_is_a_time_that_the_server_can_count() {
        assert_eq!(SCHEDULE_MAX.to_string(), "2200-01-01T00:00:00Z");
        let command = Command {
            id: "echo:1.1.0".into(),
            address: "house.door.front.knock".into(),
            body: "{}".into(),
            actor: "process:echo".into(),
            correlation_id: "c".into(),
            causation_id: "e".into(),
            traceparent: None,
        };
        let headers = command.schedule_headers(Timestamp::MAX);
        assert_eq!(headers.get(SCHEDULE), Some("@at 2200-01-01T00:00:00Z"));
        assert_eq!(headers.get(SCHEDULE_TARGET), Some("due.cmd.house.door.front.knock"));
    }
}
