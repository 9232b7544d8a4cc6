//! One stream of the twin: what it accepts, stores, refuses and forgets. Pure: time is an argument.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use millstream_contract::{
    header,
    stored_message::StoredMessage,
    subject::{COMMAND_PREFIX, COMMAND_QUEUE_PREFIX, CommandAddress},
};

use crate::broker::{AppendError, Appended, NewMessage, StreamState, StreamUsage};

/// The server's window for `Nats-Msg-Id`.
pub(super) const MESSAGE_ID_WINDOW: Duration = Duration::from_secs(120);
/// The server's largest message, headers included.
pub(super) const MESSAGE_SIZE_MAX: usize = 1024 * 1024;

/// The settings of a stream.
#[derive(Debug, Clone)]
pub struct MemoryStreamConfig {
    /// Its name.
    pub name: String,
    /// The subjects that it accepts, with NATS wildcards.
    pub subjects: Vec<String>,
    /// Whether it stores messages on `cmd.…` under `cmdq.<partition>.…`.
    pub queues_commands: bool,
    /// The most messages that it holds; it refuses more.
    pub messages_max: Option<usize>,
}

impl MemoryStreamConfig {
    /// A stream without limits.
    pub fn new(name: &str, subjects: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            queues_commands: false,
            messages_max: None,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct MemoryStream {
    pub(super) config: MemoryStreamConfig,
    generation: String,
    messages: BTreeMap<u64, StoredMessage>,
    last_sequence: u64,
    /// Sequence and time of each message id; forgotten after the window.
    message_ids: BTreeMap<String, (u64, Timestamp)>,
    pub(super) leaderless_until: Option<Timestamp>,
    pub(super) full_until: Option<Timestamp>,
}

impl MemoryStream {
    pub(super) fn new(config: MemoryStreamConfig, generation: String) -> Self {
        Self {
            config,
            generation,
            messages: BTreeMap::new(),
            last_sequence: 0,
            message_ids: BTreeMap::new(),
            leaderless_until: None,
            full_until: None,
        }
    }

    pub(super) fn state(&self) -> StreamState {
        StreamState {
            generation: self.generation.clone(),
            first_sequence: self.messages.keys().next().map_or(self.last_sequence + 1, |&first| first),
            last_sequence: self.last_sequence,
            usage: StreamUsage { messages: self.messages.len() as u64, ..StreamUsage::default() },
        }
    }

    pub(super) fn has_leader(&self, now: Timestamp) -> bool {
        self.leaderless_until.is_none_or(|until| until <= now)
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&StoredMessage> {
        self.messages.get(&sequence)
    }

    pub(super) fn last_of(&self, subject: &str) -> Option<&StoredMessage> {
        self.messages.values().rev().find(|message| takes(subject, &message.subject))
    }

    /// The messages after `after` whose subject matches one of `filters` (or all, if there are none).
    pub(super) fn above<'a>(
        &'a self,
        after: u64,
        filters: &'a [String],
    ) -> impl Iterator<Item = &'a StoredMessage> + 'a {
        self.messages.range(after + 1..).map(|(_, message)| message).filter(move |message| {
            filters.is_empty() || filters.iter().any(|filter| takes(filter, &message.subject))
        })
    }

    /// All or nothing, as an atomic batch: every expectation must hold before the batch, and a repeated message id rejects it.
    pub(super) fn append_atomically(
        &mut self,
        batch: &[NewMessage],
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let mut trial = self.clone();
        let mut last = None;
        for message in batch {
            let appended = trial.append(message, now, true)?;
            if appended.duplicate {
                let detail = "batch publish contains duplicate message id (10201)".into();
                return Err(AppendError::Unclear { subject: message.subject.clone(), detail });
            }
            last = Some(appended);
        }
        let refused = || AppendError::Refused { subject: String::new(), detail: "an empty batch".into() };
        let last = last.ok_or_else(refused)?;
        *self = trial;
        Ok(last)
    }

    /// The server's steps for a message, in the server's order.
    pub(super) fn append(
        &mut self,
        message: &NewMessage,
        now: Timestamp,
        message_id_first: bool,
    ) -> Result<Appended, AppendError> {
        let subject = self.stored_subject(message)?;
        let duplicate = self.duplicate(message, now);
        if message_id_first && let Some(sequence) = duplicate {
            return Ok(Appended { sequence, duplicate: true });
        }
        let last = self.last_of(&subject).map_or(0, |stored| stored.sequence);
        if let Some(expected) = message.expected_last.filter(|&expected| expected != last) {
            return Err(AppendError::Conflict {
                detail: format!("wrong last sequence: {last}, expected {expected} (10071)"),
            });
        }
        if let Some(sequence) = duplicate {
            return Ok(Appended { sequence, duplicate: true });
        }
        let full = self.full_until.is_some_and(|until| until > now)
            || self.config.messages_max.is_some_and(|most| self.messages.len() >= most);
        if full {
            return Err(AppendError::Full {
                stream: self.config.name.clone(),
                detail: "maximum messages exceeded (10077)".into(),
            });
        }
        self.last_sequence += 1;
        let stored = StoredMessage {
            subject,
            sequence: self.last_sequence,
            stored_at: now,
            headers: message.headers.clone(),
            payload: message.payload.clone(),
        };
        if let Some(id) = message.headers.get(header::NATS_MESSAGE_ID) {
            self.message_ids.insert(id.to_owned(), (stored.sequence, now));
        }
        self.messages.insert(stored.sequence, stored);
        Ok(Appended { sequence: self.last_sequence, duplicate: false })
    }

    fn stored_subject(&self, message: &NewMessage) -> Result<String, AppendError> {
        let subject = message.subject.clone();
        if !self.config.subjects.iter().any(|filter| takes(filter, &subject)) {
            return Err(AppendError::Unclear { subject, detail: "no responders".into() });
        }
        let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if message.payload.len() + headers > MESSAGE_SIZE_MAX {
            return Err(AppendError::Refused { subject, detail: "maximum payload exceeded".into() });
        }
        let Some((COMMAND_PREFIX, rest)) = subject.split_once('.').filter(|_| self.config.queues_commands)
        else {
            return Ok(subject);
        };
        // The server computes a partition from any tokens, but only those of allowed names matter.
        let partition =
            CommandAddress::from_subject(&subject).map_or(0, |address| address.stream_id.partition());
        Ok(format!("{COMMAND_QUEUE_PREFIX}.{partition}.{rest}"))
    }

    fn duplicate(&self, message: &NewMessage, now: Timestamp) -> Option<u64> {
        let (sequence, at) = self.message_ids.get(message.headers.get(header::NATS_MESSAGE_ID)?)?;
        (now.duration_since(*at).unsigned_abs() < MESSAGE_ID_WINDOW).then_some(*sequence)
    }

    /// Removes the messages up to `through`.
    pub(super) fn purge(&mut self, through: u64) {
        self.messages = self.messages.split_off(&(through + 1));
    }

    /// Removes the messages that match `filter`, up to `through`, and returns how many there were.
    pub(super) fn purge_subject(&mut self, filter: &str, through: u64) -> u64 {
        let before = self.messages.len();
        self.messages.retain(|sequence, message| *sequence > through || !takes(filter, &message.subject));
        (before - self.messages.len()) as u64
    }

    /// Removes the message at `sequence`.
    pub(super) fn remove(&mut self, sequence: u64) {
        self.messages.remove(&sequence);
    }

    /// The server comes back without its last `count` messages. Their sequences will be assigned again.
    pub(super) fn lose_tail(&mut self, count: u64) {
        self.last_sequence = self.last_sequence.saturating_sub(count);
        self.messages.split_off(&(self.last_sequence + 1));
        self.message_ids.retain(|_, (sequence, _)| *sequence <= self.last_sequence);
    }
}

/// Whether a NATS filter matches a subject: `*` stands for one token, `>` for one or more at the end.
fn takes(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for pattern in filter.split('.') {
        match (pattern, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) if literal == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_subjects_as_the_server_does() {
        assert!(takes("cmd.*.*.*.*", "cmd.a.b.c.d"));
        assert!(!takes("cmd.*.*.*.*", "cmd.a.b.c"));
        assert!(!takes("cmd.*.*.*.*", "cmd.a.b.c.d.e"));
        assert!(takes("evt.>", "evt.a.b"));
        assert!(!takes("evt.>", "evt"));
        assert!(takes("evt.a", "evt.a"));
        assert!(!takes("evt.a", "evt.b"));
    }
}
