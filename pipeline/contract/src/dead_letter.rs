//! A dead letter: a message set aside with its original bytes and the cause.
//!
//! Any message fits into a letter. If its headers cannot be read or are too many, they stand in the letter's body, in front of the
//! message's own body. If the body is too large for one message, it continues in further messages.

use bytes::Bytes;

use super::{
    header,
    stored_message::{Headers, StoredMessage},
    subject::{self, addressed},
};
use crate::error_text::{bounded, cut};

/// Up to so many bytes, a message's headers become headers of the letter; larger ones stand in its body. JetStream takes 64 KiB of headers.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// The longest subject that a letter names.
const SUBJECT_BYTES_MAX: usize = 8 * 1024;
/// Room for the headers of the append itself.
const APPEND_HEADERS_BYTES: usize = 512;
/// The most messages that one letter takes. The largest message that any server accepts needs far fewer.
const PARTS_MAX: usize = 10_000;
/// The prefix of a letter's own headers.
const LETTERS_PREFIX: &str = "Millstream-Dead-Letter-";
/// The smallest part of a letter's body that one message holds.
const PART_BYTES_MIN: usize = 256;

/// Prefix of the subjects of DEADLETTERS: `dlq.<stream>.<sequence>`, or `dlq.EVENTS.<sequence>-<effect>` for an effect of an event. Each
/// letter has its own subject and expects it to be empty, so setting the same message aside twice stores one letter.
pub const DEAD_LETTER_PREFIX: &str = "dlq";

/// The code of a dead letter that lacks its body: earlier releases left out a body that did not fit.
pub const EFFECT_WITHOUT_BODY: &str = "effect-too-large";

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
            cause: single_line(&bounded(cause)),
            headers: message.headers.clone(),
            payload: message.payload.clone(),
        }
    }

    /// Where the message stood, which is also the letter's name for people: `COMMANDS.17`, or `EVENTS.17-fulfilment-3-0` for an effect.
    pub fn name(&self) -> String {
        let Self { stream, sequence, effect, .. } = self;
        match effect {
            None => format!("{stream}.{sequence}"),
            Some(effect) => format!("{stream}.{sequence}-{effect}"),
        }
    }

    /// The context, the aggregate, the id and the command that its subject names; `None` if it is not the subject of a command. None of them
    /// is checked: a sender may have written anything.
    pub fn addressed(&self) -> Option<[&str; 4]> {
        addressed(&self.subject)
    }

    /// Its own subject in DEADLETTERS.
    pub fn dead_letter_subject(&self) -> String {
        format!("{DEAD_LETTER_PREFIX}.{}", self.name())
    }

    /// The messages to store. They may be stored in any order, but the first one must come last, so that a reader that finds it finds the
    /// whole letter. With its headers, none is larger than `max` bytes, unless `max` is less than a few kilobytes.
    pub fn parts(&self, max: usize) -> Vec<LetterPart> {
        let (mut headers, body) = self.headers_and_body();
        let written: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let room = max.saturating_sub(written + APPEND_HEADERS_BYTES).max(PART_BYTES_MIN);
        let chunks = body.len().div_ceil(room).max(1);
        if chunks > 1 {
            headers.push(header::DEAD_LETTER_PARTS, chunks.to_string());
        }
        let subject = self.dead_letter_subject();
        let part = |number: usize| {
            let chunk = body.slice(((number - 1) * room).min(body.len())..(number * room).min(body.len()));
            let headers = [(header::DEAD_LETTER_PART, number.to_string())].into_iter().collect();
            LetterPart { subject: part_subject(&subject, number), headers, payload: chunk }
        };
        let first = LetterPart { subject: subject.clone(), headers, ..part(1) };
        std::iter::once(first).chain((2..=chunks).map(part)).collect()
    }

    /// The message's own headers stay headers, except those of JetStream. The message id becomes the command id, which is what it means. As
    /// a message id it would make DEADLETTERS drop the second letter of a command that was sent twice, and COMMANDS drop the retry.
    fn headers_and_body(&self) -> (Headers, Bytes) {
        let mut own: Headers = self.headers.iter().filter(|(name, _)| !is_jetstreams(name)).collect();
        if let (None, Some(id)) =
            (self.headers.find(header::COMMAND_ID), self.headers.find(header::NATS_MESSAGE_ID))
        {
            own.push(header::COMMAND_ID, id);
        }
        let unreadable = self.headers.unreadable().map(|(_, block)| block.clone());
        let block = unreadable.unwrap_or_else(|| own.block());
        // A sender's header with the name of one of the letter's own headers would be mistaken for it.
        let confusing = own.iter().any(|(name, _)| is_letters(name));
        let in_body = self.headers.unreadable().is_some() || confusing || block.len() > HEADERS_BYTES_MAX;
        let (mut headers, body) = if in_body {
            let length = [(header::DEAD_LETTER_HEADER_BYTES, block.len().to_string())];
            (length.into_iter().collect(), [&block[..], &self.payload[..]].concat().into())
        } else {
            (own, self.payload.clone())
        };
        self.put_description(&mut headers);
        (headers, body)
    }

    fn put_description(&self, headers: &mut Headers) {
        headers.push(header::DEAD_LETTER_STREAM, &self.stream);
        headers.push(header::DEAD_LETTER_SEQUENCE, self.sequence.to_string());
        if let Some(effect) = &self.effect {
            headers.push(header::DEAD_LETTER_EFFECT, effect);
        }
        let subject = cut(&self.subject, SUBJECT_BYTES_MAX);
        if subject.bytes().all(|byte| byte.is_ascii_graphic()) {
            headers.push(header::DEAD_LETTER_SUBJECT, subject);
        } else {
            headers.push(header::DEAD_LETTER_SUBJECT, percent_encoded(&subject));
            headers.push(header::DEAD_LETTER_SUBJECT_ENCODING, header::PERCENT);
        }
        headers.push(header::DEAD_LETTER_CODE, &self.code);
        headers.push(header::DEAD_LETTER_CAUSE, &self.cause);
    }

    /// Reads a letter from its first message and from the further messages, if [`further_parts`] names any. Returns `None` if the first
    /// message lacks the headers of a letter. Without the further messages, the body is cut.
    pub fn from_stored(message: &StoredMessage, further: &[StoredMessage]) -> Option<Self> {
        let text = |name: &str| message.headers.get(name).map(str::to_owned);
        let mut payload = message.payload.clone();
        if !further.is_empty() {
            let chunks = std::iter::once(message).chain(further).map(|part| &part.payload[..]);
            payload = chunks.collect::<Vec<_>>().concat().into();
        }
        let mut headers: Headers =
            message.headers.iter().filter(|(name, _)| !is_letters(name) && !is_jetstreams(name)).collect();
        if let Some(length) = message.headers.get(header::DEAD_LETTER_HEADER_BYTES) {
            let length: usize = length.parse().ok()?;
            headers = Headers::from_block(payload.split_to(length.min(payload.len())));
        }
        let subject = text(header::DEAD_LETTER_SUBJECT)?;
        let encoded = message.headers.get(header::DEAD_LETTER_SUBJECT_ENCODING) == Some(header::PERCENT);
        Some(Self {
            stream: text(header::DEAD_LETTER_STREAM)?,
            sequence: text(header::DEAD_LETTER_SEQUENCE)?.parse().ok()?,
            effect: text(header::DEAD_LETTER_EFFECT),
            subject: if encoded { percent_decoded(&subject) } else { subject },
            code: text(header::DEAD_LETTER_CODE)?,
            cause: text(header::DEAD_LETTER_CAUSE)?,
            headers,
            payload,
        })
    }
}

/// One message of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterPart {
    /// Where it is stored.
    pub subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Its share of the body.
    pub payload: Bytes,
}

/// Whether a message of DEADLETTERS is a further part of a letter.
pub fn is_further_part(message: &StoredMessage) -> bool {
    message.headers.get(header::DEAD_LETTER_PART).is_some()
}

/// The subjects of the further parts of the letter that begins with `message`, in order. Most letters have none.
pub fn further_parts(message: &StoredMessage) -> Vec<String> {
    let parts = message.headers.get(header::DEAD_LETTER_PARTS).and_then(|parts| parts.parse().ok());
    (2..=parts.unwrap_or(1).min(PARTS_MAX)).map(|number| part_subject(&message.subject, number)).collect()
}

/// The stream and sequence that a subject of DEADLETTERS names, of a letter or of a further part.
pub fn named_message(subject: &str) -> Option<(&str, u64)> {
    let (stream, name) = subject.strip_prefix(DEAD_LETTER_PREFIX)?.strip_prefix('.')?.split_once('.')?;
    let sequence = name.split(['-', '_']).next()?;
    Some((stream, sequence.parse().ok()?))
}

fn part_subject(subject: &str, number: usize) -> String {
    format!("{subject}_{number}")
}

fn is_letters(name: &str) -> bool {
    name.get(..LETTERS_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(LETTERS_PREFIX))
}

fn is_jetstreams(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            byte if byte.is_ascii_graphic() && byte != b'%' => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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
        let mut stored = stored(&letter, 1 << 20).pop().unwrap();
        assert!(stored.headers.iter().all(|(name, _)| !name.starts_with("Nats-")));
        // The server keeps what the append expected.
        stored.headers.push(header::EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        let read = DeadLetter::from_stored(&stored, &[]).unwrap();
        assert_eq!(read.headers.get(header::EXPECTED_LAST_SUBJECT_SEQUENCE), None);
        assert_eq!(
            (read.sequence, read.subject.as_str(), read.cause.as_str()),
            (7, "cmd.a.b.c.d", "line 1; line 2")
        );
        assert_eq!((read.headers.get(header::COMMAND_ID), read.headers.get("X")), (Some("one"), Some("y")));
    }

    /// A client may send such a header with a command; `millstream deadletters` then looked for as many messages as it says.
    #[test]
    fn headers_that_a_sender_calls_like_those_of_letters_stay_the_senders() {
        let block = b"NATS/1.0\r\nmillstream-dead-letter-parts: 2\r\nMillstream-Dead-Letter-Parts: 18446744073709551615\r\n\r\n";
        let letter = letter("due.x", block, b"body".into());
        let stored = stored(&letter, 1 << 20).pop().unwrap();
        assert!(further_parts(&stored).is_empty());
        assert_eq!(DeadLetter::from_stored(&stored, &[]), Some(letter));
        let mut foreign = stored;
        foreign.headers.push(header::DEAD_LETTER_PARTS, usize::MAX.to_string());
        assert!(further_parts(&foreign).len() < PARTS_MAX);
    }

    fn stored(letter: &DeadLetter, max: usize) -> Vec<StoredMessage> {
        let parts = letter.parts(max).into_iter();
        let stored = parts.map(|LetterPart { subject, headers, payload }| {
            let size = headers.block().len() + payload.len();
            assert!(size <= max, "{size} bytes on {subject}");
            StoredMessage { subject, sequence: 1, stored_at: jiff::Timestamp::UNIX_EPOCH, headers, payload }
        });
        stored.collect()
    }

    /// A letter of a message with these bytes.
    fn letter(subject: &str, block: &[u8], payload: Vec<u8>) -> DeadLetter {
        let message = StoredMessage {
            subject: subject.into(),
            sequence: 7,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            headers: Headers::from_block(Bytes::copy_from_slice(block)),
            payload: payload.into(),
        };
        DeadLetter::new("TIMERS", &message, "code", "cause")
    }

    #[test]
    fn subject_of_a_letter_names_the_message() {
        let named = |subject| named_message(subject);
        assert_eq!(named("dlq.COMMANDS.17"), Some(("COMMANDS", 17)));
        assert_eq!(named("dlq.TIMERS.17_2"), Some(("TIMERS", 17)));
        assert_eq!(named("dlq.EVENTS.17-stock-keeping-3-0"), Some(("EVENTS", 17)));
        assert_eq!((named("dlq.COMMANDS"), named("dlq.COMMANDS.x"), named("evt.a.b.c")), (None, None, None));
    }

    #[test]
    fn bytes_that_cannot_be_read_come_back_and_stand_in_no_header() {
        let strange = letter("due.cmd.a%\u{a0}b", b"NATS/1.0\r\nX: a\rb\r\nY: z\r\n\r\n", b"body".into());
        let stored = stored(&strange, 1 << 20).pop().unwrap();
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        assert!(stored.headers.iter().all(|(name, value)| visible(name) && visible(value)), "{stored:?}");
        assert_eq!(DeadLetter::from_stored(&stored, &[]), Some(strange));
    }

    #[test]
    fn a_letter_that_is_too_large_for_one_message_has_several() {
        let many: String = (0..2_000).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let block = format!("NATS/1.0\r\n{many}\r\n");
        for (block, bytes) in [(b"".as_slice(), 100_000), (block.as_bytes(), 65_536), (block.as_bytes(), 0)] {
            let large = letter("due.x", block, vec![7; bytes]);
            let stored = stored(&large, 65_536);
            let (first, further) = stored.split_first().unwrap();
            assert_eq!(further.len(), usize::from(bytes > 0));
            assert!(further.iter().all(is_further_part) && !is_further_part(first));
            assert!(further.iter().map(|part| &part.subject).eq(&further_parts(first)));
            assert_eq!(DeadLetter::from_stored(first, further), Some(large));
        }
    }
}
