//! Dead letters as they are stored: found by name or by aggregate, and shown.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use millstream_contract::{
    dead_letter::{DEAD_LETTER_PREFIX, DeadLetter, further_parts, is_further_part},
    error_text::cut,
    exit_code::ExitCode,
    stored_message::StoredMessage,
    stream_names::{COMMANDS, DEAD_LETTERS, TIMERS},
    subject::{COMMAND_PREFIX, CommandAddress, EFFECT_PREFIX, Origin, StreamId},
};
use millstream_jetstream::{
    broker::Broker as _,
    dead_letter_store::whole_letter,
    nats_broker::NatsBroker,
    stream_feed::{FeedError, StreamFeed},
};
use millstream_processes::process_runner::{EFFECT_WITHOUT_BODY, command_subject};
use serde_json::{Map, Value, json};

use crate::{console::Console, failure::CommandFailure};

/// How many bytes of a subject, a code and a cause `list` shows; `show` and `--json` show everything.
const SUBJECT_SHOWN: usize = 100;
const CODE_SHOWN: usize = 60;
const CAUSE_SHOWN: usize = 300;

/// The name of a letter: the stream and sequence of the message that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LetterName {
    stream: String,
    sequence: u64,
    /// Of the event there.
    effect: Option<String>,
}

impl FromStr for LetterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stream, place) = text.split_once('.').unwrap_or((COMMANDS, text));
        let (digits, effect) = match place.split_once('-') {
            Some((digits, effect)) => (digits, Some(effect)),
            None => (place, None),
        };
        let usable = !stream.is_empty()
            && stream.chars().all(|it| it.is_ascii_alphanumeric() || it == '_')
            && effect.is_none_or(|effect| effect.chars().all(|it| it.is_ascii_alphanumeric() || it == '-'));
        match digits.parse() {
            Ok(sequence) if usable => {
                Ok(Self { stream: stream.to_owned(), sequence, effect: effect.map(str::to_owned) })
            }
            _ => Err("write STREAM.SEQUENCE, as in COMMANDS.17, or EVENTS.17-fulfilment-3-0 for an effect"
                .to_owned()),
        }
    }
}

impl fmt::Display for LetterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.stream, self.sequence)?;
        self.effect.as_ref().map_or(Ok(()), |effect| write!(formatter, "-{effect}"))
    }
}

/// Checks the name of an aggregate, so that a typing error is not taken for an aggregate without letters.
///
/// # Errors
/// What is wrong, in a sentence.
pub(super) fn aggregate_name(text: &str) -> Result<String, String> {
    let [context, aggregate, id] = text.split('.').collect::<Vec<_>>()[..] else {
        return Err("write CONTEXT.AGGREGATE.ID, as in retail.till.2506_2012-01-31".to_owned());
    };
    StreamId::new(context, aggregate, id).map(|id| id.to_string()).map_err(|error| error.to_string())
}

/// The letters that an action is about.
#[derive(Debug, clap::Args)]
#[group(required = true)]
pub(super) struct Selection {
    /// As in COMMANDS.17; may be repeated
    #[arg(value_name = "LETTER", group = "which")]
    letters: Vec<LetterName>,
    /// All of this aggregate, in their order, as in retail.till.2506_2012-01-31
    #[arg(long, value_name = "CONTEXT.AGGREGATE.ID", group = "which", value_parser = aggregate_name)]
    aggregate: Option<String>,
    /// All there are
    #[arg(long, group = "which")]
    all: bool,
}

impl Selection {
    /// The letters, in the order in which their messages stood in their streams.
    /// The letters, in the order in which their messages stood in their streams.
    /// # Errors
    /// When a named letter does not exist, none is found, or the server does not answer.
    pub(super) async fn read(
        &self,
        broker: &NatsBroker,
        console: &Console,
    ) -> Result<Vec<KeptLetter>, CommandFailure> {
        let mut found = Vec::new();
        for name in &self.letters {
            found.push(read_one(broker, name).await?);
        }
        if self.letters.is_empty() {
            let mut letters = Letters::open(broker, console).await?;
            while let Some(kept) = letters.next().await? {
                if !self.aggregate.as_deref().is_none_or(|aggregate| kept.is_of(aggregate)) {
                    continue;
                }
                if kept.further.is_empty() {
                    found.push(kept);
                } else {
                    found.push(read_one(broker, &kept.letter_name()).await?);
                }
            }
            letters.close().await;
        }
        if found.is_empty() {
            let of = self.aggregate.as_ref().map(|aggregate| format!(" of {aggregate}")).unwrap_or_default();
            return Err(CommandFailure::new(ExitCode::Usage, format_args!("there are no dead letters{of}"))
                .with_code(crate::NOTHING_FOUND));
        }
        found.sort_by(|one, other| one.place().cmp(&other.place()));
        found.dedup_by(|one, other| one.place() == other.place());
        Ok(found)
    }
}

/// A letter in DEADLETTERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptLetter {
    pub(super) letter: DeadLetter,
    /// Its sequence in DEADLETTERS.
    pub(super) sequence: u64,
    pub(super) set_aside_at: Timestamp,
    /// The subjects of its further parts.
    pub(super) further: Vec<String>,
}

impl KeptLetter {
    /// Reads as much of a letter as its first message holds.
    fn from_stored(message: &StoredMessage) -> Option<Self> {
        DeadLetter::from_stored(message, &[]).map(|letter| Self::new(message, letter))
    }

    fn new(message: &StoredMessage, letter: DeadLetter) -> Self {
        let further = further_parts(message);
        Self { letter, sequence: message.sequence, set_aside_at: message.stored_at, further }
    }

    fn place(&self) -> (&str, u64, Option<&str>) {
        (&self.letter.stream, self.letter.sequence, self.letter.effect.as_deref())
    }

    fn letter_name(&self) -> LetterName {
        let DeadLetter { stream, sequence, effect, .. } = &self.letter;
        LetterName { stream: stream.clone(), sequence: *sequence, effect: effect.clone() }
    }

    /// Its name: stream, sequence and, for an effect, which effect it is.
    pub(super) fn name(&self) -> String {
        self.letter.name()
    }

    /// The subject under which it becomes a command again; `None` if nothing would handle it, or if its body is gone. Effects and due commands
    /// return as commands of processes, even if a letter of an earlier release says otherwise.
    pub(super) fn command_subject(&self) -> Option<String> {
        let DeadLetter { stream, effect, code, subject, .. } = &self.letter;
        match (stream.as_str(), effect) {
            _ if code == EFFECT_WITHOUT_BODY || self.letter.headers.unreadable().is_some() => None,
            (COMMANDS, _) => Some(subject.clone()),
            (_, Some(_)) => {
                let address = CommandAddress::from_subject(subject);
                Some(address.map_or_else(|_| subject.clone(), |address| address.subject_from(Origin::Effect)))
            }
            (TIMERS, _) => command_subject(subject),
            _ => None,
        }
    }

    /// Whether it was addressed to `<context>.<aggregate>.<id>`.
    pub(super) fn is_of(&self, aggregate: &str) -> bool {
        let subject = self.letter.subject.strip_prefix("due.").unwrap_or(&self.letter.subject);
        let is_command = |prefix: &&str| [COMMAND_PREFIX, EFFECT_PREFIX].contains(prefix);
        subject
            .split_once('.')
            .filter(|(prefix, _)| is_command(prefix))
            .and_then(|(_, address)| address.rsplit_once('.'))
            .is_some_and(|(addressed, _)| addressed == aggregate)
    }

    /// Name, subject and cause in one line.
    pub(super) fn line(&self) -> String {
        let DeadLetter { subject, code, cause, .. } = &self.letter;
        format!("{}: {subject} ({code}): {cause}", self.name())
    }

    /// The cells of `list`. A subject or cause of thousands of characters would make every line of the table that wide.
    pub(super) fn row(&self) -> Vec<String> {
        let DeadLetter { subject, code, cause, .. } = &self.letter;
        let texts = [(subject, SUBJECT_SHOWN), (code, CODE_SHOWN), (cause, CAUSE_SHOWN)];
        let shown = texts.map(|(text, most)| cut(text, most).into_owned());
        [self.name(), self.set_aside_at.to_string()].into_iter().chain(shown).collect()
    }

    /// The output of `list --json`.
    pub(super) fn summary(&self) -> Value {
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

    /// Everything. A body that is not text is in `body_base64` instead of `body`.
    pub(super) fn to_json(&self) -> Value {
        let mut fields = self.fields();
        let headers: Map<String, Value> =
            self.letter.headers.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
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

    /// Everything, for people.
    pub(super) fn to_text(&self) -> String {
        let mut lines = vec![
            format!("letter       {}", self.name()),
            format!("set aside at {}", self.set_aside_at),
            format!("subject      {}", self.letter.subject),
            format!("code         {}", self.letter.code),
            format!("cause        {}", self.letter.cause),
        ];
        for (name, value) in self.letter.headers.iter() {
            lines.push(format!("header       {name}: {value}"));
        }
        if let Some((reason, block)) = self.letter.headers.unreadable() {
            lines.push(format!("header block {reason}; as base64: {}", STANDARD.encode(block)));
        }
        lines.push(match std::str::from_utf8(&self.letter.payload) {
            Ok(text) => format!("body         {}", text.trim_end()),
            Err(_) => {
                let bytes = STANDARD.encode(&self.letter.payload);
                format!("body         {} bytes, as base64: {bytes}", self.letter.payload.len())
            }
        });
        lines.join("\n")
    }
}

/// All letters, one after the other.
pub(super) struct Letters {
    feed: StreamFeed<NatsBroker>,
    console: Console,
}

impl Letters {
    /// The letters that exist now.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(super) async fn open(broker: &NatsBroker, console: &Console) -> Result<Self, FeedError> {
        let feed = StreamFeed::open(broker, DEAD_LETTERS, 0, "deadletters").await?;
        Ok(Self { feed, console: console.clone() })
    }

    /// The next letter. A message that is not a letter is reported and skipped.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(super) async fn next(&mut self) -> Result<Option<KeptLetter>, FeedError> {
        while let Some(message) = self.feed.next().await? {
            if is_further_part(&message) {
                continue;
            }
            match KeptLetter::from_stored(&message) {
                Some(kept) => return Ok(Some(kept)),
                None => self.console.say(format_args!("{}", foreign(&message))),
            }
        }
        Ok(None)
    }

    /// Ends reading.
    pub(super) async fn close(self) {
        self.feed.close().await;
    }
}

/// The letter with a name.
///
/// # Errors
/// When there is none, it is not a letter, or the server does not answer.
pub(super) async fn read_one(broker: &NatsBroker, name: &LetterName) -> Result<KeptLetter, CommandFailure> {
    let subject = format!("{DEAD_LETTER_PREFIX}.{name}");
    let Some(message) = broker.last(DEAD_LETTERS, &subject).await? else {
        let failure = CommandFailure::new(ExitCode::Usage, format_args!("there is no dead letter {name}"));
        return Err(failure.with_code(crate::NOTHING_FOUND));
    };
    let letter = whole_letter(broker, &message).await?;
    letter
        .map(|letter| KeptLetter::new(&message, letter))
        .ok_or_else(|| CommandFailure::new(ExitCode::Data, foreign(&message)))
}

fn foreign(message: &StoredMessage) -> String {
    format!("{DEAD_LETTERS} {} on {} is no dead letter", message.sequence, message.subject)
}

#[cfg(test)]
mod tests {
    use millstream_contract::stored_message::Headers;

    use super::*;

    #[test]
    fn the_name_of_an_aggregate_is_checked() {
        assert_eq!(aggregate_name("retail.till.1_2012-01-31").as_deref(), Ok("retail.till.1_2012-01-31"));
        for text in ["", "retail.till", "retail.till.1.close", "Retail.till.1", "retail.till.a b"] {
            assert!(aggregate_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_process_asked_for_is_retried_as_a_process_s() {
        let letter = |stream: &str, effect: Option<&str>, subject: &str| {
            let letter = DeadLetter {
                stream: stream.to_owned(),
                sequence: 7,
                effect: effect.map(str::to_owned),
                subject: subject.to_owned(),
                code: "command-refused".to_owned(),
                cause: String::new(),
                headers: Headers::new(),
                payload: Vec::new().into(),
            };
            let (sequence, set_aside_at, further) = (1, Timestamp::UNIX_EPOCH, Vec::new());
            KeptLetter { letter, sequence, set_aside_at, further }
        };
        for (stream, effect, subject, retried) in [
            ("EVENTS", Some("fulfilment-3-0"), "effect.a.b.c.d", "effect.a.b.c.d"),
            ("EVENTS", Some("fulfilment-3-0"), "cmd.a.b.c.d", "effect.a.b.c.d"),
            (TIMERS, None, "due.cmd.a.b.c.d", "effect.a.b.c.d"),
            (COMMANDS, None, "cmd.a.b.c.d", "cmd.a.b.c.d"),
            (COMMANDS, None, "effect.a.b.c.d", "effect.a.b.c.d"),
        ] {
            let kept = letter(stream, effect, subject);
            assert_eq!(kept.command_subject().as_deref(), Some(retried), "{stream} {subject}");
            assert!(kept.is_of("a.b.c"), "{subject}");
        }
    }

    #[test]
    fn a_long_subject_makes_no_wide_table() {
        let message = StoredMessage {
            subject: format!("cmdq.1.a.b.{}.d", "x".repeat(3_000)),
            sequence: 7,
            stored_at: Timestamp::UNIX_EPOCH,
            headers: Headers::new(),
            payload: Vec::new().into(),
        };
        let letter = DeadLetter::new(COMMANDS, &message, "code", &"cause ".repeat(1_000));
        let kept = KeptLetter::new(&message, letter);
        let width: usize = kept.row().iter().map(String::len).sum();
        assert!(width < 600, "{width}");
        assert!(kept.summary().to_string().len() > 3_000, "JSON tells all");
    }
}
