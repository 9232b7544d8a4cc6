//! A dead letter: a message set aside with its original bytes and the cause.

use bytes::Bytes;

use super::{header, stored_message::Headers, stored_message::StoredMessage, subject};

/// Prefix of the subjects of DEADLETTERS: `dlq.<stream>.<sequence>`, for an effect of an event
/// `dlq.EVENTS.<sequence>-<effect>`; one subject a letter, so that setting the same thing aside again is refused by the
/// expectation that there is none.
pub const DEAD_LETTER_PREFIX: &str = "dlq";

/// A message that could not be handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The JetStream stream it came from.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Which of the effects of the event there, `<process>-<version>-<index>`; none when it is the message itself.
    pub effect: Option<String>,
    /// The subject on which it was published, or should have been.
    pub subject: String,
    /// Stable, for programs.
    pub code: String,
    /// The cause chain, outermost first.
    pub cause: String,
    /// Its own headers.
    pub headers: Headers,
    /// Its own bytes.
    pub payload: Bytes,
}

impl DeadLetter {
    /// Sets `message` of `stream` aside.
    pub fn new(stream: &str, message: &StoredMessage, code: &str, cause: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            sequence: message.sequence,
            effect: None,
            subject: subject::published_subject(&message.subject),
            code: code.to_owned(),
            cause: single_line(cause),
            headers: message.headers.clone(),
            payload: message.payload.clone(),
        }
    }

    /// Where it stood, which is what people call it: `COMMANDS.17`, or `EVENTS.17-fulfilment-3-0` for an effect.
    pub fn name(&self) -> String {
        let Self { stream, sequence, effect, .. } = self;
        match effect {
            None => format!("{stream}.{sequence}"),
            Some(effect) => format!("{stream}.{sequence}-{effect}"),
        }
    }

    /// Its own subject in DEADLETTERS.
    pub fn dead_letter_subject(&self) -> String {
        format!("{DEAD_LETTER_PREFIX}.{}", self.name())
    }

    /// The headers to store it with: those of the message, except JetStream's own, and the cause. The message id travels
    /// as the command id that it is: as a message id it would make DEADLETTERS drop the second letter of a command that
    /// was sent twice, and COMMANDS drop the retry.
    pub fn stored_headers(&self) -> Headers {
        let mut headers: Headers =
            self.headers.iter().filter(|(name, _)| !name.starts_with("Nats-")).collect();
        if let (None, Some(id)) = (headers.get(header::COMMAND_ID), self.headers.get(header::NATS_MESSAGE_ID))
        {
            headers.push(header::COMMAND_ID, id);
        }
        headers.push(header::DEAD_LETTER_STREAM, &self.stream);
        headers.push(header::DEAD_LETTER_SEQUENCE, self.sequence.to_string());
        if let Some(effect) = &self.effect {
            headers.push(header::DEAD_LETTER_EFFECT, effect);
        }
        headers.push(header::DEAD_LETTER_SUBJECT, &self.subject);
        headers.push(header::DEAD_LETTER_CODE, &self.code);
        headers.push(header::DEAD_LETTER_CAUSE, &self.cause);
        headers
    }

    /// Reads a message of DEADLETTERS; `None` when it lacks the headers of one. Headers of JetStream's own are those of the
    /// append to DEADLETTERS, not the message's.
    pub fn from_stored(message: &StoredMessage) -> Option<Self> {
        let text = |name: &str| message.headers.get(name).map(str::to_owned);
        Some(Self {
            stream: text(header::DEAD_LETTER_STREAM)?,
            sequence: text(header::DEAD_LETTER_SEQUENCE)?.parse().ok()?,
            effect: text(header::DEAD_LETTER_EFFECT),
            subject: text(header::DEAD_LETTER_SUBJECT)?,
            code: text(header::DEAD_LETTER_CODE)?,
            cause: text(header::DEAD_LETTER_CAUSE)?,
            headers: message
                .headers
                .iter()
                .filter(|(name, _)| {
                    !name.starts_with("Millstream-Dead-Letter-") && !name.starts_with("Nats-")
                })
                .collect(),
            payload: message.payload.clone(),
        })
    }
}

/// Headers cannot carry line breaks.
pub fn single_line(text: &str) -> String {
    text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_a_command_sent_twice_carry_its_id_and_no_message_id() {
        let headers = [(header::NATS_MESSAGE_ID, "one"), (header::EXPECTED_STREAM, "COMMANDS"), ("X", "y")];
        let message = StoredMessage {
            subject: "cmdq.3.a.b.c.d".into(),
            sequence: 7,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            headers: headers.into_iter().collect(),
            payload: Bytes::from_static(b"body"),
        };
        let letter = DeadLetter::new("COMMANDS", &message, "code", "line 1\nline 2");
        let stored = StoredMessage {
            subject: letter.dead_letter_subject(),
            headers: letter.stored_headers(),
            ..message
        };
        assert!(stored.headers.iter().all(|(name, _)| !name.starts_with("Nats-")));
        // The server keeps what the append expected.
        let mut stored = stored;
        stored.headers.push(header::EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        let read = DeadLetter::from_stored(&stored).unwrap();
        assert_eq!(read.headers.get(header::EXPECTED_LAST_SUBJECT_SEQUENCE), None);
        assert_eq!(
            (read.sequence, read.subject.as_str(), read.cause.as_str()),
            (7, "cmd.a.b.c.d", "line 1; line 2")
        );
        assert_eq!((read.headers.get(header::COMMAND_ID), read.headers.get("X")), (Some("one"), Some("y")));
    }
}
