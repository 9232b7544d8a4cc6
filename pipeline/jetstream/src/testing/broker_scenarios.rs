//! What the engine relies on in a [`Broker`], as scenarios that run over any implementation. Over a real nats-server they test the adapter;
//! over the twin they test that the twin behaves like the server. Each starts on a server with Millstream's streams, all empty.

mod appending;
mod batches;
mod leases;
mod purging;
mod random_operations;
mod reading;
mod sending;

use std::time::Duration;

use bytes::Bytes;

pub use self::{
    appending::*, batches::*, leases::*, purging::*, random_operations::*, reading::*, sending::*,
};
use millstream_contract::stored_message::{Headers, StoredMessage};

use crate::broker::{AppendError, Broker, NewMessage, ReadError, ReaderConfig, StreamReader};

/// How long a scenario waits for something that must happen without further action.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two checks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A server to run scenarios on.
pub trait Ground {
    /// The engine's connection to it.
    type Broker: Broker;

    /// A separate connection, like that of another process.
    fn connect(&self) -> impl Future<Output = Self::Broker>;

    /// The process of a connection is killed.
    fn kill(&self, broker: Self::Broker) -> impl Future<Output = ()>;

    /// The server is killed and started again.
    fn restart(&mut self) -> impl Future<Output = ()>;

    /// Notes what the server holds, for [`Ground::go_back`].
    fn remember(&mut self) -> impl Future<Output = ()>;

    /// The server is killed and comes back with what it held when it was told to remember. It has then lost its tail.
    fn go_back(&mut self) -> impl Future<Output = ()>;

    /// From now on, notes which plain messages are sent to these subjects, for [`Ground::heard`].
    fn listen(&mut self, subjects: &[&str]) -> impl Future<Output = ()>;

    /// The subjects of the messages that have arrived since the last call. A real server waits for the first one.
    fn heard(&mut self) -> impl Future<Output = Vec<String>>;

    /// Limits the number of messages in `stream`; `None` removes the limit.
    fn limit(&self, stream: &str, messages_max: Option<u32>) -> impl Future<Output = ()>;
}

/// A message that has only a body.
fn message(subject: &str, expected_last: Option<u64>, body: &str) -> NewMessage {
    NewMessage {
        subject: subject.to_owned(),
        expected_last,
        headers: Headers::new(),
        payload: Bytes::copy_from_slice(body.as_bytes()),
    }
}

/// Appends, and returns the sequence.
async fn put<B: Broker>(broker: &B, stream: &str, subject: &str, body: &str) -> u64 {
    let appended = broker.append(stream, message(subject, None, body)).await;
    appended.unwrap_or_else(|error| panic!("append to {subject}: {error}")).sequence
}

fn reader_config(stream: &str, name: &str, after: u64) -> ReaderConfig {
    ReaderConfig {
        stream: stream.to_owned(),
        name: name.to_owned(),
        description: "scenario".to_owned(),
        after,
        filters: Vec::new(),
        replace_live: true,
    }
}

/// Reads until there are `count` messages.
async fn read<R: StreamReader>(reader: &mut R, count: usize) -> Vec<StoredMessage> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let batch = tokio::time::timeout(PATIENCE, reader.next_batch(count - messages.len())).await;
        let batch = batch.unwrap_or_else(|_| panic!("only {} of {count} messages came", messages.len()));
        messages.extend(batch.unwrap_or_else(|error| panic!("the reader ended: {error}")));
    }
    messages
}

fn sequences(messages: &[StoredMessage]) -> Vec<u64> {
    messages.iter().map(|message| message.sequence).collect()
}

fn bodies(messages: &[StoredMessage]) -> Vec<&str> {
    messages.iter().map(|message| std::str::from_utf8(&message.payload).unwrap_or("not text")).collect()
}

/// Repeats `attempt` until it returns true.
async fn eventually<F: Future<Output = bool>>(what: &str, mut attempt: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !attempt().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn is_conflict<T>(answer: &Result<T, AppendError>) -> bool {
    matches!(answer, Err(AppendError::Conflict { .. }))
}

fn is_taken_over<T>(answer: &Result<T, ReadError>) -> bool {
    matches!(answer, Err(ReadError::TakenOver { .. }))
}
