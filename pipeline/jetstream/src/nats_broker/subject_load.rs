//! Loads the messages of a subject with batched direct gets. Messages come as they are stored, so one that the client library cannot read
//! ends its line. The next message is then read as JSON, which carries any bytes, and the load continues after it.

use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use millstream_contract::stored_message::StoredMessage;
use serde_json::json;

use super::{NatsBroker, wire::stored_from_direct};
use crate::broker::{BrokerError, Page};
use crate::line::Line;

/// How long the next message of a batched direct get may take.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most messages that one batched direct get asks for.
const BATCH: usize = 4096;
/// After an unreadable message, this many in a row must be readable before batches are tried again, because unreadable messages often come
/// together.
const READABLE_RUN: usize = 32;

/// How a batched direct get ended.
enum Ended {
    /// No messages are left.
    Complete,
    /// More messages may follow.
    More,
    /// The line was lost.
    Lost,
}

/// As [`crate::broker::Broker::load_page`].
pub(super) async fn load_page(
    broker: &NatsBroker,
    stream: &str,
    subject: &str,
    from: u64,
    bytes: usize,
) -> Result<Page, BrokerError> {
    let mut messages: Vec<StoredMessage> = Vec::new();
    let mut singly = 0;
    loop {
        let next = messages.last().map_or(from.max(1), |message| message.sequence + 1);
        if singly > 0 {
            let filter = [subject.to_owned()];
            let Some(message) = broker.next_after(stream, next - 1, &filter).await? else {
                return Ok(Page { messages, more: false });
            };
            singly = if message.headers.unreadable().is_some() { READABLE_RUN } else { singly - 1 };
            messages.push(message);
            if singly == 0 || messages.iter().map(|message| message.payload.len()).sum::<usize>() >= bytes {
                return Ok(Page { messages, more: true });
            }
            continue;
        }
        let line = broker.lines.of_loads().await?;
        let wanted = Wanted { stream, subject, from: next, bytes };
        match batch(broker, &line, &wanted, &mut messages).await? {
            Ended::Complete => return Ok(Page { messages, more: false }),
            Ended::More => return Ok(Page { messages, more: true }),
            Ended::Lost => {
                tracing::info!(stream, subject, "the line was lost while a history was read");
                singly = 1;
            }
        }
    }
}

/// The request of a batched direct get.
struct Wanted<'a> {
    stream: &'a str,
    subject: &'a str,
    from: u64,
    bytes: usize,
}

/// One batched direct get.
async fn batch(
    broker: &NatsBroker,
    line: &Line,
    wanted: &Wanted<'_>,
    messages: &mut Vec<StoredMessage>,
) -> Result<Ended, BrokerError> {
    let Wanted { stream, subject, from, bytes } = wanted;
    let inbox = line.client().new_inbox();
    let Ok(mut answers) = line.client().subscribe(inbox.clone()).await else { return Ok(Ended::Lost) };
    let body =
        json!({ "seq": from, "next_by_subj": subject, "batch": BATCH, "max_bytes": bytes }).to_string();
    let path = broker.api_subject(&format!("DIRECT.GET.{stream}"));
    if line.client().publish_with_reply(path, inbox, body.into()).await.is_err() {
        return Ok(Ended::Lost);
    }
    loop {
        let Some(answer) = next_answer(line, &mut answers).await? else { return Ok(Ended::Lost) };
        let header = |name| answer.headers.as_ref().and_then(|headers| headers.get(name));
        // A stored message may have a status of its own.
        if header("Nats-Sequence").is_some() {
            messages.push(stored_from_direct(answer).map_err(unavailable)?);
            continue;
        }
        match answer.status.map(|status| status.as_u16()) {
            Some(204) => {
                let pending = header("Nats-Num-Pending").and_then(|value| value.as_str().parse::<u64>().ok());
                return Ok(if pending.unwrap_or(0) > 0 { Ended::More } else { Ended::Complete });
            }
            Some(404) => return Ok(Ended::Complete),
            Some(503) => return Err(unavailable(format!("{stream} has no direct get now (no responders)"))),
            Some(status) => {
                return Err(unavailable(format!("{status} {}", answer.description.unwrap_or_default())));
            }
            None => return Err(unavailable("an answer is neither a message nor a status".into())),
        }
    }
}

/// The next answer; `None` if the line was lost.
async fn next_answer(
    line: &Line,
    answers: &mut Subscriber,
) -> Result<Option<async_nats::Message>, BrokerError> {
    tokio::select! {
        biased;
        answer = answers.next() => Ok(answer),
        () = line.lost() => Ok(None),
        () = tokio::time::sleep(IDLE_TIMEOUT) => {
            Err(unavailable(format!("no answer in {} s", IDLE_TIMEOUT.as_secs())))
        }
    }
}

fn unavailable(detail: String) -> BrokerError {
    BrokerError::Unavailable { operation: "batched direct get", detail }
}
