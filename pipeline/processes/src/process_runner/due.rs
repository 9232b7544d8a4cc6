//! What falls due: messages that JetStream puts on `due.>` of TIMERS are put on COMMANDS, in order, and then taken from
//! TIMERS. Nothing needs to be remembered: whatever still stands there is still to be done, and an id makes sure that it
//! takes effect once.

use std::{collections::BTreeMap, convert::Infallible};

use futures::{StreamExt, stream};
use millstream_contract::{
    command::explicit_id,
    dead_letter::DeadLetter,
    header,
    leases::PROCESS_MANAGER_LEASE,
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, DEAD_LETTERS, TIMERS},
    subject::COMMAND_PREFIX,
};
use millstream_jetstream::{
    broker::{AppendError, Broker, NewMessage, ReaderConfig, StreamReader},
    retry::{RunIds, answered},
};
use millstream_runtime::metrics::Count;

use super::ProcessRunnerError;

/// Prefix of the subjects on which commands fall due, followed by the command's address.
pub const DUE_PREFIX: &str = "due.cmd";

/// What the reader takes.
const FILTER: &str = "due.>";
/// Messages put on their way together.
const MESSAGES_MAX: usize = 1_000;
/// Aggregates published to at once.
const LANES_AT_ONCE: usize = 64;

/// Puts what is due on COMMANDS until it cannot go on.
pub(super) async fn relay<B: Broker>(
    broker: &B,
    ids: &RunIds,
    relayed: &Count,
) -> Result<Infallible, ProcessRunnerError> {
    let generation = answered(ids, || broker.state(TIMERS)).await?.generation;
    let config = ReaderConfig {
        stream: TIMERS.to_owned(),
        name: PROCESS_MANAGER_LEASE.to_owned(),
        description: "commands that have fallen due".to_owned(),
        after: 0,
        filters: vec![FILTER.to_owned()],
        replace_live: true,
    };
    let mut reader = broker.read(config).await?;
    loop {
        let messages = reader.next_batch(MESSAGES_MAX).await?;
        let Some(through) = messages.last().map(|message| message.sequence) else { continue };
        let count = messages.len() as u64;
        publish_all(broker, ids, &generation, messages).await;
        relayed.inc_by(count);
        answered(ids, || broker.purge_subject(TIMERS, FILTER, Some(through))).await?;
    }
}

/// Returns when each has been stored, commands of one aggregate in their order.
async fn publish_all<B: Broker>(broker: &B, ids: &RunIds, generation: &str, messages: Vec<StoredMessage>) {
    let mut lanes: BTreeMap<String, Vec<StoredMessage>> = BTreeMap::new();
    for message in messages {
        let aggregate = message.subject.rsplit_once('.').map_or("", |(aggregate, _)| aggregate).to_owned();
        lanes.entry(aggregate).or_default().push(message);
    }
    stream::iter(lanes.into_values())
        .for_each_concurrent(LANES_AT_ONCE, async |lane| {
            for message in lane {
                publish(broker, ids, generation, &message).await;
            }
        })
        .await;
}

/// Stores one as a command, or sets it aside when it cannot be one.
async fn publish<B: Broker>(broker: &B, ids: &RunIds, generation: &str, message: &StoredMessage) {
    let mut backoff = ids.backoff();
    let mut attempt = match command_subject(&message.subject) {
        Some(subject) => (COMMANDS, command_message(generation, subject, message)),
        None => {
            let cause = "a command falls due on due.cmd.<context>.<aggregate>.<id>.<command>";
            (DEAD_LETTERS, dead_letter_message(message, "subject-not-allowed", cause))
        }
    };
    loop {
        let (stream, to_store) = &attempt;
        match broker.append(stream, to_store.clone()).await {
            Ok(_) => return,
            // It was set aside before.
            Err(AppendError::Conflict { .. }) if *stream == DEAD_LETTERS => return,
            Err(AppendError::Refused { detail, .. }) if *stream == COMMANDS => {
                attempt = (DEAD_LETTERS, dead_letter_message(message, "command-refused", &detail));
            }
            Err(error) => {
                tracing::warn!(subject = message.subject, %error, "what fell due waits");
                backoff.pause().await;
            }
        }
    }
}

fn command_message(generation: &str, subject: String, message: &StoredMessage) -> NewMessage {
    NewMessage {
        subject,
        expected_last: None,
        headers: command_headers(generation, message),
        payload: message.payload.clone(),
    }
}

fn dead_letter_message(message: &StoredMessage, code: &str, cause: &str) -> NewMessage {
    tracing::warn!(
        subject = message.subject,
        sequence = message.sequence,
        code,
        cause,
        "what fell due is set aside"
    );
    let letter = DeadLetter::new(TIMERS, message, code, cause);
    NewMessage::dead_letter(&letter)
}

/// The subject of the command that falls due on `due`. Names and ids are the command handler's to judge; only the shape must
/// be one that COMMANDS takes, else there is none.
pub fn command_subject(due: &str) -> Option<String> {
    let address = due.strip_prefix(DUE_PREFIX)?.strip_prefix('.')?;
    let tokens = address.split('.').filter(|token| !token.is_empty()).count();
    (tokens == 4 && address.split('.').count() == 4).then(|| format!("{COMMAND_PREFIX}.{address}"))
}

/// The headers that the schedule was given, without JetStream's own. Without an id of its own a command gets one made from
/// its position in TIMERS.
fn command_headers(generation: &str, message: &StoredMessage) -> Headers {
    let mut headers: Headers =
        message.headers.iter().filter(|(name, _)| !name.starts_with("Nats-")).collect();
    // An id that cannot be used goes along: the command handler says what is wrong with it.
    if let Ok(None) = explicit_id(message) {
        headers.push(header::COMMAND_ID, format!("timer:{generation}.{}", message.sequence));
    } else if let (None, Some(id)) =
        (headers.get(header::COMMAND_ID), message.headers.get(header::NATS_MESSAGE_ID))
    {
        headers.push(header::COMMAND_ID, id);
    }
    if let Some(id) = headers.get(header::COMMAND_ID).map(str::to_owned) {
        headers.push(header::NATS_MESSAGE_ID, id);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_commands_takes_becomes_a_command() {
        assert_eq!(
            command_subject("due.cmd.retail.till.1.close").as_deref(),
            Some("cmd.retail.till.1.close")
        );
        for other in
            ["due.cmd.retail.till.1", "due.cmd.a.b.c.d.e", "due.cmd.a..c.d", "due.other", "due.cmdx.a.b.c.d"]
        {
            assert_eq!(command_subject(other), None, "{other}");
        }
    }
}
