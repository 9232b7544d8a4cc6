//! A message as a JetStream stream stores it, free of the client library's types.

use bytes::Bytes;
use jiff::Timestamp;

/// Headers in the order of the wire. Messages carry few, so a list beats a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value of `name`, if any.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Adds a header; an earlier one of the same name stays.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// A stored message. `sequence` is the position in its JetStream stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The subject under which it is stored (COMMANDS stores under another one than was published on).
    pub subject: String,
    /// Its position in the JetStream stream, from 1.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}
