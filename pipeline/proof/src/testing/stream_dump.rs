//! All messages of a server's streams, for verification and for looking at single messages.

use millstream_contract::{
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
};
use millstream_jetstream::{
    broker::{Broker as _, ReaderConfig, StreamReader as _},
    nats_broker::NatsBroker,
};

use crate::verification::Dump;

/// How many messages are read at once.
const BATCH_MAX: usize = 10_000;

/// Every message of a stream, in order.
///
/// # Panics
/// When it cannot be read.
pub async fn messages(broker: &NatsBroker, stream: &str) -> Vec<StoredMessage> {
    let state = broker.state(stream).await.unwrap_or_else(|error| panic!("{stream}: {error}"));
    let mut messages: Vec<StoredMessage> = Vec::new();
    if state.first_sequence > state.last_sequence {
        return messages;
    }
    let config = ReaderConfig {
        stream: stream.to_owned(),
        name: format!("dump-{}", stream.to_lowercase()),
        description: "dump for a test".to_owned(),
        after: state.first_sequence - 1,
        filters: vec![],
        replace_live: true,
    };
    let mut reader = broker.read(config).await.unwrap_or_else(|error| panic!("{stream}: {error}"));
    while messages.last().is_none_or(|last| last.sequence < state.last_sequence) {
        let batch = reader.next_batch(BATCH_MAX).await;
        messages.extend(batch.unwrap_or_else(|error| panic!("{stream}: {error}")));
    }
    reader.close().await;
    messages
}

/// All messages of the three streams of the write side.
///
/// # Panics
/// When they cannot be read.
pub async fn dump(broker: &NatsBroker) -> Dump {
    Dump {
        commands: messages(broker, COMMANDS).await,
        events: messages(broker, EVENTS).await,
        outcomes: messages(broker, OUTCOMES).await,
    }
}
