//! The consumer of a reader: requests messages from the server, puts them in order, and says when the consumer can no longer be trusted.

use std::{collections::VecDeque, time::Duration};

use async_nats::{Message, Subscriber};
use futures::{FutureExt, StreamExt};
use millstream_contract::stored_message::StoredMessage;
use serde_json::json;
use tokio::time::Instant;

use super::{reader_position::Reached, replaced_messages::Unread, reply_subject::Place};
use crate::{
    broker::ReaderConfig,
    line::{Line, unreadable_reason},
    nats_broker::{NatsBroker, headers_from},
};

/// How many messages a request asks for. The next request is sent when half of them have come, so that the server never waits.
const PULL_BATCH: u64 = 4096;
/// How many bytes a request asks for. This limits what waits in the connection's buffers.
pub(super) const PULL_BYTES: u64 = 16 * 1024 * 1024;
/// How long the server keeps a request open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often an idle server sends a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After this much silence, the consumer is made anew.
pub(super) const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// The current consumer. At any doubt it is discarded as a whole.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) line: Line,
    answers: Subscriber,
    inbox: String,
    consumer_sequence: u64,
    outstanding: u64,
    pub(super) pending: u64,
    /// Since when the reader has waited without hearing from the server. If nobody waits, the server owes nothing: a request ends when its
    /// bytes have come, and the next one is sent when somebody wants more.
    silent_since: Option<Instant>,
}

/// Why the consumer can no longer be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    Silent,
    LineLost,
    Gap,
    OtherMessage,
    Deleted,
    Refused,
}

impl Consumer {
    /// A consumer that delivers to `inbox`; messages arrive through `answers` on the same line.
    pub(super) fn new(line: Line, answers: Subscriber, inbox: String) -> Self {
        Self { line, answers, inbox, consumer_sequence: 0, outstanding: 0, pending: 0, silent_since: None }
    }

    /// Receives messages until there is at least one or a heartbeat interval has passed, and then what else has come, up to `max`.
    pub(super) async fn fill(
        &mut self,
        broker: &NatsBroker,
        config: &ReaderConfig,
        max: usize,
        ready: &mut VecDeque<StoredMessage>,
        reached: &mut Reached,
        unread: &mut Unread,
    ) -> Result<(), Doubt> {
        self.pull(broker, config).await?;
        let answer = match self.answers.next().now_or_never() {
            Some(answer) => answer.ok_or(Doubt::LineLost)?,
            None => match self.wait().await? {
                Some(answer) => answer,
                None => return Ok(()),
            },
        };
        self.silent_since = None;
        self.take(answer, ready, reached, unread)?;
        while ready.len() < max {
            match self.answers.next().now_or_never() {
                Some(Some(answer)) => self.take(answer, ready, reached, unread)?,
                Some(None) => return Err(Doubt::LineLost),
                None => break,
            }
        }
        Ok(())
    }

    /// Keeps at least half a batch requested.
    async fn pull(&mut self, broker: &NatsBroker, config: &ReaderConfig) -> Result<(), Doubt> {
        if self.outstanding > PULL_BATCH / 2 {
            return Ok(());
        }
        let request = json!({
            "batch": PULL_BATCH,
            "max_bytes": PULL_BYTES,
            "expires": nanoseconds(PULL_EXPIRES),
            "idle_heartbeat": nanoseconds(HEARTBEAT),
        });
        let subject = broker.api_subject(&format!("CONSUMER.MSG.NEXT.{}.{}", config.stream, config.name));
        let sent = self
            .line
            .client()
            .publish_with_reply(subject, self.inbox.clone(), request.to_string().into())
            .await;
        self.outstanding += PULL_BATCH;
        sent.map_err(|_| Doubt::LineLost)
    }

    /// Waits for the next message from the server; `None` if nothing has come for a heartbeat interval. Silence is counted across calls
    /// that were cancelled.
    async fn wait(&mut self) -> Result<Option<Message>, Doubt> {
        if self.silent_since.get_or_insert_with(Instant::now).elapsed() >= SILENCE_MAX {
            return Err(Doubt::Silent);
        }
        tokio::select! {
            biased;
            // What came before the line was lost is handled first.
            answer = self.answers.next() => answer.map(Some).ok_or(Doubt::LineLost),
            () = self.line.lost() => Err(Doubt::LineLost),
            () = tokio::time::sleep(HEARTBEAT) => Ok(None),
        }
    }

    fn take(
        &mut self,
        answer: Message,
        ready: &mut VecDeque<StoredMessage>,
        reached: &mut Reached,
        unread: &mut Unread,
    ) -> Result<(), Doubt> {
        let place = answer.reply.as_ref().and_then(|reply| Place::parse(reply));
        // A stored message may have a status of its own.
        match place.ok_or(answer.status.map(|status| status.as_u16())) {
            Ok(place) => {
                if place.consumer_sequence != self.consumer_sequence + 1 {
                    return Err(Doubt::Gap);
                }
                self.consumer_sequence = place.consumer_sequence;
                self.pending = place.pending;
                self.outstanding = self.outstanding.saturating_sub(1);
                let stored_at = Some(place.stored_at);
                if place.stream_sequence == reached.sequence {
                    return if stored_at == reached.stored_at { Ok(()) } else { Err(Doubt::OtherMessage) };
                }
                *reached = Reached { sequence: place.stream_sequence, stored_at, readable: true };
                if unreadable_reason(&answer).is_some() {
                    unread.push(place.stream_sequence);
                }
                ready.push_back(StoredMessage {
                    sequence: place.stream_sequence,
                    stored_at: place.stored_at,
                    headers: headers_from(answer.headers.as_ref()),
                    subject: answer.subject.to_string(),
                    payload: answer.payload,
                });
                Ok(())
            }
            Err(Some(100)) => Ok(()),
            Err(Some(404 | 408)) => {
                self.outstanding = self.outstanding.saturating_sub(undelivered(&answer));
                Ok(())
            }
            Err(Some(409)) => self.take_conflict(&answer),
            Err(_) => Err(Doubt::Refused),
        }
    }

    fn take_conflict(&mut self, answer: &Message) -> Result<(), Doubt> {
        let words = answer.description.as_deref().unwrap_or_default().to_ascii_lowercase();
        if words.contains("consumer deleted") {
            Err(Doubt::Deleted)
        } else if words.contains("maxbytes") || words.contains("batch completed") {
            self.outstanding = self.outstanding.saturating_sub(undelivered(answer));
            Ok(())
        } else {
            Err(Doubt::Refused)
        }
    }
}

/// How much of a request the server will not deliver any more.
fn undelivered(answer: &Message) -> u64 {
    answer
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Pending-Messages"))
        .and_then(|value| value.as_str().parse().ok())
        .unwrap_or(PULL_BATCH)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("the constants above are seconds")
}
