//! Stream positions: a place in one incarnation of one JetStream stream. Deliberately absent: bare numbers. A bare number is a sequence,
//! and a command's own sequence in COMMANDS is called its position.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A place in a JetStream stream. `generation` is made when the stream is created, so that a sequence of a stream that was deleted and made
/// again is never taken for one of the new stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamPosition {
    /// The JetStream stream's name.
    pub stream: String,
    /// The ULID in the stream's metadata.
    pub generation: String,
    /// The sequence; 0 means before the first message.
    pub sequence: u64,
}

/// Why a text is not a stream position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a position: expected STREAM:GENERATION:SEQUENCE, as in EVENTS:01JD0ZV6V8Q6Y0Q3M1R5J3X2A4:17"
)]
pub struct StreamPositionError {
    text: String,
}

impl StreamPosition {
    /// The position of a sequence in `stream`.
    pub fn new(stream: impl Into<String>, generation: impl Into<String>, sequence: u64) -> Self {
        Self { stream: stream.into(), generation: generation.into(), sequence }
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.stream, self.generation, self.sequence)
    }
}

impl FromStr for StreamPosition {
    type Err = StreamPositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || StreamPositionError { text: text.to_owned() };
        let mut parts = text.trim().split(':');
        let (Some(stream), Some(generation), Some(sequence), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(error());
        };
        if stream.is_empty() || generation.is_empty() {
            return Err(error());
        }
        Ok(Self::new(stream, generation, sequence.parse().map_err(|_| error())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let position = StreamPosition::new("EVENTS", "01JD", 17);
        assert_eq!(position.to_string().parse(), Ok(position));
    }

    #[test]
    fn malformed_text_is_refused_with_an_example() {
        for text in ["", "17", "EVENTS:17", "EVENTS:01JD:x", "EVENTS::1", "a:b:1:2"] {
            let error = text.parse::<StreamPosition>().unwrap_err();
            assert!(error.to_string().contains("EVENTS:01JD"), "{text}");
        }
    }
}
