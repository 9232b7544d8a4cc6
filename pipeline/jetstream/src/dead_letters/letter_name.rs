//! The name of a letter: the stream and sequence of the message that was set aside.

use std::{fmt, str::FromStr};

use millstream_contract::{dead_letter::DEAD_LETTER_PREFIX, stream_names::COMMANDS};

/// As in `COMMANDS.17`, or `EVENTS.17-fulfilment-3-0` for an effect of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterName {
    pub(super) stream: String,
    pub(super) sequence: u64,
    /// Of the event there.
    pub(super) effect: Option<String>,
}

/// A text that names no letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write STREAM.SEQUENCE, as in COMMANDS.17, or EVENTS.17-fulfilment-3-0 for an effect")]
pub struct LetterNameError;

impl LetterName {
    /// The subject of the letter in DEADLETTERS.
    pub fn subject(&self) -> String {
        format!("{DEAD_LETTER_PREFIX}.{self}")
    }
}

/// A number alone is one of COMMANDS.
impl FromStr for LetterName {
    type Err = LetterNameError;

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
            _ => Err(LetterNameError),
        }
    }
}

impl fmt::Display for LetterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.stream, self.sequence)?;
        self.effect.as_ref().map_or(Ok(()), |effect| write!(formatter, "-{effect}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_never_become_a_wildcard() {
        for name in ["COMMANDS.17", "TIMERS.5", "EVENTS.17-fulfilment-3-0"] {
            let read: LetterName = name.parse().unwrap();
            assert_eq!((read.to_string().as_str(), read.subject()), (name, format!("dlq.{name}")));
        }
        assert_eq!("17".parse::<LetterName>().unwrap().to_string(), "COMMANDS.17");
        for text in ["", "*", ">", "COMMANDS.*", "COMMANDS.>", "*.17", "COMMANDS.17-*", "COMMANDS.1.2", ".17"]
        {
            assert_eq!(text.parse::<LetterName>(), Err(LetterNameError), "{text}");
        }
    }
}
