//! Messages that a sifted line has replaced: what the store has of them, as JSON, which carries any bytes.

use std::collections::VecDeque;

use futures::future::join_all;
use millstream_contract::stored_message::StoredMessage;

use crate::{
    broker::{Broker as _, BrokerError},
    nats_broker::NatsBroker,
};

/// How many are asked for at once.
const ASKED_AT_ONCE: usize = 64;

/// The sequences of messages that came without what they hold, in order.
#[derive(Debug, Default)]
pub(super) struct Unread(VecDeque<u64>);

impl Unread {
    pub(super) fn push(&mut self, sequence: u64) {
        self.0.push_back(sequence);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the messages themselves into `ready`, which is in order, and takes out those that are no longer stored. What is left after an
    /// error, or when this is dropped in between, is asked for again.
    pub(super) async fn fetch(
        &mut self,
        broker: &NatsBroker,
        stream: &str,
        ready: &mut VecDeque<StoredMessage>,
    ) -> Result<(), BrokerError> {
        while !self.0.is_empty() {
            let asked = self.0.iter().take(ASKED_AT_ONCE).map(|&sequence| broker.get(stream, sequence));
            for found in join_all(asked).await {
                let found = found?;
                let Some(sequence) = self.0.pop_front() else { continue };
                let Ok(place) = ready.binary_search_by_key(&sequence, |message| message.sequence) else {
                    continue;
                };
                match (found, ready.get_mut(place)) {
                    (Some(message), Some(ready)) => *ready = message,
                    _ => drop(ready.remove(place)),
                }
            }
        }
        Ok(())
    }
}
