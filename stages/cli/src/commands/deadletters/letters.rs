//! The dead letters that an action is about, and how they are shown.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use millstream_contract::{
    dead_letter::{DeadLetter, is_further_part},
    error_text::cut,
    exit_code::ExitCode,
    stream_names::DEAD_LETTERS,
    subject::StreamId,
};
use millstream_jetstream::{
    dead_letters::{LetterError, kept_letter::KeptLetter, letter_name::LetterName, read_letter},
    nats_broker::NatsBroker,
    stream_feed::{FeedError, StreamFeed},
};

use crate::{console::Console, failure::CommandFailure};

/// How many bytes of a subject, a code and a cause `list` shows; `show` and `--json` show everything.
const SUBJECT_SHOWN: usize = 100;
const CODE_SHOWN: usize = 60;
const CAUSE_SHOWN: usize = 300;

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
    ///
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

/// Name, subject and cause in one line.
pub(super) fn line(kept: &KeptLetter) -> String {
    let DeadLetter { subject, code, cause, .. } = &kept.letter;
    format!("{}: {subject} ({code}): {cause}", kept.name())
}

/// The cells of `list`. A subject or cause of thousands of characters would make every line of the table that wide.
pub(super) fn row(kept: &KeptLetter) -> Vec<String> {
    let DeadLetter { subject, code, cause, .. } = &kept.letter;
    let texts = [(subject, SUBJECT_SHOWN), (code, CODE_SHOWN), (cause, CAUSE_SHOWN)];
    let shown = texts.map(|(text, most)| cut(text, most).into_owned());
    [kept.name(), kept.set_aside_at.to_string()].into_iter().chain(shown).collect()
}

/// Everything, for people.
pub(super) fn text(kept: &KeptLetter) -> String {
    let letter = &kept.letter;
    let mut lines = vec![
        format!("letter       {}", kept.name()),
        format!("set aside at {}", kept.set_aside_at),
        format!("subject      {}", letter.subject),
        format!("code         {}", letter.code),
        format!("cause        {}", letter.cause),
    ];
    for (name, value) in letter.headers.iter() {
        lines.push(format!("header       {name}: {value}"));
    }
    if let Some((reason, block)) = letter.headers.unreadable() {
        lines.push(format!("header block {reason}; as base64: {}", STANDARD.encode(block)));
    }
    lines.push(match std::str::from_utf8(&letter.payload) {
        Ok(text) => format!("body         {}", text.trim_end()),
        Err(_) => {
            let bytes = STANDARD.encode(&letter.payload);
            format!("body         {} bytes, as base64: {bytes}", letter.payload.len())
        }
    });
    lines.join("\n")
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
                None => self.console.say(LetterError::of(&message)),
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
    read_letter(broker, name).await?.ok_or_else(|| {
        let failure = CommandFailure::new(ExitCode::Usage, format_args!("there is no dead letter {name}"));
        failure.with_code(crate::NOTHING_FOUND)
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use millstream_contract::{
        stored_message::{Headers, StoredMessage},
        stream_names::COMMANDS,
    };

    use super::*;

    #[test]
    fn the_name_of_an_aggregate_is_checked() {
        assert_eq!(aggregate_name("retail.till.1_2012-01-31").as_deref(), Ok("retail.till.1_2012-01-31"));
        for text in ["", "retail.till", "retail.till.1.close", "Retail.till.1", "retail.till.a b"] {
            assert!(aggregate_name(text).is_err(), "{text}");
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
        let width: usize = row(&kept).iter().map(String::len).sum();
        assert!(width < 600, "{width}");
        assert!(kept.summary().to_string().len() > 3_000, "JSON tells all");
    }
}
