//! The real content of messages that a sifted line has replaced. It is read as JSON, which carries any bytes.

use std::collections::VecDeque;

use futures::future::join_all;
use millstream_contract::stored_message::StoredMessage;

use crate::{
    broker::{Broker as _, ReadError},
    nats_broker::NatsBroker,
};

/// How many messages are requested at once.
const ASKED_AT_ONCE: usize = 64;

/// The sequences of messages that came without their content, in order.
#[derive(Debug, Default)]
pub(super) struct Unread(VecDeque<u64>);

impl Unread {
    pub(super) fn push(&mut self, sequence: u64) {
        self.0.push_back(sequence);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the real messages into `ready`, which is ordered, and removes those that are no longer stored. After an error, or if this is
    /// dropped before its end, the rest is requested again. If a different message stands in the place of one of them, the server has lost
    /// what it had sent.
    pub(super) async fn fetch(
        &mut self,
        broker: &NatsBroker,
        stream: &str,
        ready: &mut VecDeque<StoredMessage>,
    ) -> Result<(), ReadError> {
        while !self.0.is_empty() {
            let asked = self.0.iter().take(ASKED_AT_ONCE).map(|&sequence| broker.get(stream, sequence));
            for found in join_all(asked).await {
                let found = found?;
                let Some(sequence) = self.0.pop_front() else { continue };
                let Ok(place) = ready.binary_search_by_key(&sequence, |message| message.sequence) else {
                    continue;
                };
                match (found, ready.get_mut(place)) {
                    (Some(message), Some(sent)) if message.stored_at == sent.stored_at => *sent = message,
                    (Some(_), Some(_)) => {
                        return Err(ReadError::OtherMessage { stream: stream.to_owned(), sequence });
                    }
                    _ => drop(ready.remove(place)),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::{SignedDuration, Timestamp};
    use millstream_contract::{stored_message::Headers, stream_names::COMMANDS};

    use super::*;
    use crate::testing::{raw_client::RawClient, test_server::TestServer};

    fn sent(sequence: u64, stored_at: Timestamp) -> StoredMessage {
        let (subject, headers) = (String::new(), Headers::new());
        StoredMessage { subject, sequence, stored_at, headers, payload: "".into() }
    }

    #[tokio::test]
    async fn what_is_stored_takes_its_place_and_nothing_else_does() {
        let server = TestServer::start_provisioned().await;
        let broker = server.broker().await;
        let mut raw = RawClient::connect(&server.url()).await;
        for body in ["first", "second", "third"] {
            raw.publish("cmd.a.b.c.d", b"NATS/1.0\r\nX: \xff\r\n\r\n", body).await;
        }
        // The server has taken what was sent before it answers, and stores it a moment later.
        let stored = async {
            loop {
                if let Some(third) = broker.get(COMMANDS, 3).await.unwrap() {
                    return third;
                }
            }
        };
        let third = tokio::time::timeout(Duration::from_secs(30), stored).await.unwrap();
        let first = broker.get(COMMANDS, 1).await.unwrap().unwrap();
        broker.remove(COMMANDS, 2).await.unwrap();
        let mut ready: VecDeque<_> =
            [sent(1, first.stored_at), sent(2, first.stored_at), sent(3, third.stored_at)].into();
        let mut unread = Unread((1..=3).collect());
        unread.fetch(&broker, COMMANDS, &mut ready).await.unwrap();
        assert_eq!((ready, unread.is_empty()), ([first, third.clone()].into(), true));

        // The server has lost what it had sent, and has another message in its place.
        let mut ready = [sent(3, third.stored_at + SignedDuration::from_nanos(1))].into();
        unread.push(3);
        let refused = unread.fetch(&broker, COMMANDS, &mut ready).await;
        assert!(matches!(refused, Err(ReadError::OtherMessage { sequence: 3, .. })), "{refused:?}");
    }
}
