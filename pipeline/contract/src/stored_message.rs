//! A message as a JetStream stream stores it, free of the client library's types.

use bytes::Bytes;
use jiff::Timestamp;

use super::header_block;

/// Headers in the order in which they were sent. A message has few of them, so a list is faster than a map.
///
/// The server stores any bytes as headers. If a client could not send them, the whole block is kept beside the headers that can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    list: Vec<(String, String)>,
    unreadable: Option<Box<Unreadable>>,
}

/// A header block that cannot be read as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unreadable {
    reason: String,
    block: Bytes,
}

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a received header block, `NATS/1.0\r\nName: value\r\n\r\n`; an empty block has no headers. A block that cannot be read as a
    /// whole is kept together with those of its headers that can be read.
    pub fn from_block(block: Bytes) -> Self {
        match header_block::read(&block) {
            (list, None) => Self { list, unreadable: None },
            (list, Some(reason)) => Self { list, unreadable: Some(Box::new(Unreadable { reason, block })) },
        }
    }

    /// The block from which these headers come and why it cannot be read as a whole; `None` if it can be.
    pub fn unreadable(&self) -> Option<(&str, &Bytes)> {
        self.unreadable.as_deref().map(|unreadable| (unreadable.reason.as_str(), &unreadable.block))
    }

    /// The block as it is stored, or as these headers are sent; `None` without headers.
    pub fn block(&self) -> Bytes {
        match &self.unreadable {
            Some(unreadable) => unreadable.block.clone(),
            None if self.list.is_empty() => Bytes::new(),
            None => header_block::write(self.iter()).into(),
        }
    }

    /// The first value of `name`, if any.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of `name`, written in any case; an empty value counts as absent. This is for headers that people write.
    ///
    /// If the header occurs in several cases, the first one in byte order counts, wherever it stands. The client library keeps headers
    /// without an order, and a second reading of a message must give the same value.
    pub fn find(&self, name: &str) -> Option<&str> {
        let named =
            self.list.iter().filter(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty());
        named.min_by_key(|(key, _)| key).map(|(_, value)| value.as_str())
    }

    /// Adds a header; an earlier one of the same name stays.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.list.push((name.into(), value.into()));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.unreadable.is_none()
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let list = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { list, unreadable: None }
    }
}

/// A stored message. `sequence` is its sequence in its JetStream stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The subject under which it is stored. COMMANDS stores messages under another subject than the one on which they were published.
    pub subject: String,
    /// Its sequence in the JetStream stream, from 1.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}
