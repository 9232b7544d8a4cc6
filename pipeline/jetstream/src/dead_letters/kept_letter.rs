//! A letter with its place in DEADLETTERS: as JSON, and as the command that it becomes when it is retried.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use millstream_contract::{
    command::{letter_command_id, letter_of_command_id},
    dead_letter::{DeadLetter, EFFECT_WITHOUT_BODY, further_parts},
    header,
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, TIMERS},
    subject::{CommandAddress, Origin, due_command_subject},
};
use serde_json::{Map, Value, json};

use super::letter_name::LetterName;
use crate::broker::NewMessage;

/// A letter in DEADLETTERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLetter {
    /// The letter.
    pub letter: DeadLetter,
    /// Its sequence in DEADLETTERS.
    pub sequence: u64,
    /// When it was set aside.
    pub set_aside_at: Timestamp,
    /// The subjects of its further parts.
    pub further: Vec<String>,
}

/// Why a letter cannot be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRetriable {
    /// Nobody could read its headers.
    #[error("its headers cannot be read; its sender has to send the command again, then drop the letter")]
    Headers,
    /// Nothing would handle it, or its body is gone.
    #[error(
        "it is no command. Commands are the letters of {COMMANDS}, those of {TIMERS} that fell due on a subject with four names, and whole effects of events"
    )]
    NoCommand,
    /// The server would refuse it.
    #[error(
        "with its id it takes {size} bytes, and this server takes commands of up to {max}; raise max_payload and retry it then"
    )]
    TooLarge {
        /// Its size, headers included.
        size: usize,
        /// The largest message that the server takes.
        max: usize,
    },
}

impl KeptLetter {
    /// Reads as much of a letter as its first message holds. `None` if the message is not the first one of a letter.
    pub fn from_stored(message: &StoredMessage) -> Option<Self> {
        DeadLetter::from_stored(message, &[]).map(|letter| Self::new(message, letter))
    }

    /// A letter that begins with `message`.
    pub fn new(message: &StoredMessage, letter: DeadLetter) -> Self {
        let further = further_parts(message);
        Self { letter, sequence: message.sequence, set_aside_at: message.stored_at, further }
    }

    /// Where its message stood, in the order of streams.
    pub fn place(&self) -> (&str, u64, Option<&str>) {
        (&self.letter.stream, self.letter.sequence, self.letter.effect.as_deref())
    }

    /// Its name, for reading it again.
    pub fn letter_name(&self) -> LetterName {
        let DeadLetter { stream, sequence, effect, .. } = &self.letter;
        LetterName { stream: stream.clone(), sequence: *sequence, effect: effect.clone() }
    }

    /// Its name: stream, sequence and, for an effect, which effect it is.
    pub fn name(&self) -> String {
        self.letter.name()
    }

    /// The subject under which it becomes a command again; `None` if nothing would handle it, or if its body is gone. Effects and due commands
    /// return as commands of processes, even if a letter of an earlier release says otherwise.
    pub fn command_subject(&self) -> Option<String> {
        let DeadLetter { stream, effect, code, subject, .. } = &self.letter;
        match (stream.as_str(), effect) {
            _ if code == EFFECT_WITHOUT_BODY || self.letter.headers.unreadable().is_some() => None,
            (COMMANDS, _) => Some(subject.clone()),
            (_, Some(_)) => {
                let address = CommandAddress::from_subject(subject);
                Some(address.map_or_else(|_| subject.clone(), |address| address.subject_from(Origin::Effect)))
            }
            (TIMERS, _) => due_command_subject(subject),
            _ => None,
        }
    }

    /// The message that puts the letter back: as it was published, under an id. That is its own, or one made from its position, so that it
    /// takes effect once however often it is retried. The server takes messages of up to `bytes_max` bytes.
    ///
    /// # Errors
    /// [`NotRetriable`].
    pub fn command(&self, bytes_max: usize) -> Result<NewMessage, NotRetriable> {
        if self.letter.headers.unreadable().is_some() {
            return Err(NotRetriable::Headers);
        }
        let subject = self.command_subject().ok_or(NotRetriable::NoCommand)?;
        let (headers, payload) = (self.command_headers(), self.letter.payload.clone());
        fitting(NewMessage { subject, expected_last: None, headers, payload }, bytes_max)
    }

    fn command_headers(&self) -> Headers {
        let letter = &self.letter;
        let mut headers = letter.headers.clone();
        // An id whose header is written in another case counts, too. A second id beside it would be refused for ever.
        if headers.find(header::COMMAND_ID).is_none() {
            let id = match &*letter.stream {
                COMMANDS => letter_of_command_id(letter.sequence, self.set_aside_at, &letter.payload),
                stream => letter_command_id(stream, letter.sequence),
            };
            let is_id = |name: &str| name.eq_ignore_ascii_case(header::COMMAND_ID);
            headers = headers.iter().filter(|(name, _)| !is_id(name)).collect();
            headers.push(header::COMMAND_ID, id);
        }
        headers
    }

    /// Whether it was addressed to `<context>.<aggregate>.<id>`.
    pub fn is_of(&self, aggregate: &str) -> bool {
        self.letter.addressed().is_some_and(|[context, kind, id, _]| {
            let mut parts = aggregate.splitn(3, '.');
            [context, kind, id].into_iter().all(|part| parts.next() == Some(part))
        })
    }

    /// Everything but headers and body.
    pub fn summary(&self) -> Value {
        Value::Object(self.fields())
    }

    fn fields(&self) -> Map<String, Value> {
        let fields = [
            ("letter", json!(self.name())),
            ("set_aside_at", json!(self.set_aside_at.to_string())),
            ("stream", json!(self.letter.stream)),
            ("sequence", json!(self.letter.sequence)),
            ("subject", json!(self.letter.subject)),
            ("code", json!(self.letter.code)),
            ("cause", json!(self.letter.cause)),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Everything. A body that is not text is in `body_base64` instead of `body`. A header that was given more than once has a list of values.
    pub fn to_json(&self) -> Value {
        let mut fields = self.fields();
        let mut headers = Map::new();
        for (name, value) in self.letter.headers.iter() {
            match headers.get_mut(name) {
                None => drop(headers.insert(name.to_owned(), json!(value))),
                Some(Value::Array(values)) => values.push(json!(value)),
                Some(first) => *first = json!([first.take(), value]),
            }
        }
        fields.insert("headers".into(), Value::Object(headers));
        if let Some((reason, block)) = self.letter.headers.unreadable() {
            fields.insert("headers_unreadable".into(), json!(reason));
            fields.insert("header_block_base64".into(), json!(STANDARD.encode(block)));
        }
        match std::str::from_utf8(&self.letter.payload) {
            Ok(text) => fields.insert("body".into(), json!(text)),
            Err(_) => fields.insert("body_base64".into(), json!(STANDARD.encode(&self.letter.payload))),
        };
        Value::Object(fields)
    }
}

/// The message, if the server accepts it together with the id that a retry gives it.
fn fitting(message: NewMessage, max: usize) -> Result<NewMessage, NotRetriable> {
    let size = appended_size(&message);
    if size <= max { Ok(message) } else { Err(NotRetriable::TooLarge { size, max }) }
}

/// How large the server finds a message that is appended, in bytes.
pub(super) fn appended_size(message: &NewMessage) -> usize {
    let expected = header::EXPECTED_STREAM.len() + COMMANDS.len() + ": \r\n".len();
    message.headers.block().len() + message.payload.len() + expected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(stream: &str, effect: Option<&str>, subject: &str, payload: Vec<u8>) -> KeptLetter {
        let letter = DeadLetter {
            stream: stream.to_owned(),
            sequence: 7,
            effect: effect.map(str::to_owned),
            subject: subject.to_owned(),
            code: "command-refused".to_owned(),
            cause: String::new(),
            headers: Headers::new(),
            payload: payload.into(),
        };
        KeptLetter { letter, sequence: 1, set_aside_at: Timestamp::UNIX_EPOCH, further: Vec::new() }
    }

    #[test]
    fn what_a_process_asked_for_is_retried_as_a_process_s() {
        for (stream, effect, subject, retried) in [
            ("EVENTS", Some("fulfilment-3-0"), "effect.a.b.c.d", "effect.a.b.c.d"),
            ("EVENTS", Some("fulfilment-3-0"), "cmd.a.b.c.d", "effect.a.b.c.d"),
            (TIMERS, None, "due.cmd.a.b.c.d", "effect.a.b.c.d"),
            (COMMANDS, None, "cmd.a.b.c.d", "cmd.a.b.c.d"),
            (COMMANDS, None, "effect.a.b.c.d", "effect.a.b.c.d"),
        ] {
            let kept = kept(stream, effect, subject, Vec::new());
            assert_eq!(kept.command_subject().as_deref(), Some(retried), "{stream} {subject}");
            assert!(kept.is_of("a.b.c") && !kept.is_of("a.b.c.d") && !kept.is_of("a.b"), "{subject}");
        }
        let other = kept("REPORTS", None, "report.a.b.c.d", Vec::new());
        assert_eq!(other.command(1 << 20), Err(NotRetriable::NoCommand));
    }

    /// It may be what it was set aside for.
    #[test]
    fn a_header_that_comes_again_is_shown_again() {
        let mut kept = kept(COMMANDS, None, "cmd.a.b.c.d", Vec::new());
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3"), ("A", "4")] {
            kept.letter.headers.push(name, value);
        }
        assert_eq!(kept.to_json()["headers"], json!({ "A": ["1", "3", "4"], "B": "2" }));
    }

    #[test]
    fn a_letter_that_fits_only_without_the_id_of_a_retry_stays_and_says_so() {
        let command = |bytes: usize| kept(COMMANDS, None, "cmd.a.b.c.d", vec![b' '; bytes]).command(300);
        assert!(command(100).is_ok());
        let why = command(1_000).unwrap_err().to_string();
        assert!(why.contains("max_payload") && why.contains("300"), "{why}");
    }

    #[test]
    fn a_letter_gets_one_id_however_often_it_is_retried() {
        let kept = kept(COMMANDS, None, "cmd.a.b.c.d", Vec::new());
        let id = |kept: &KeptLetter| {
            kept.command(1 << 20).unwrap().headers.get(header::COMMAND_ID).unwrap().to_owned()
        };
        assert_eq!(id(&kept), id(&kept));
        let mut own = kept;
        own.letter.headers.push("millstream-command-id", "mine");
        let command = own.command(1 << 20).unwrap();
        assert_eq!(command.headers.iter().collect::<Vec<_>>(), [("millstream-command-id", "mine")]);
    }
}
