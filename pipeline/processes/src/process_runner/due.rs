//! Commands that fall due: messages that JetStream puts on `due.>` of TIMERS are put onto COMMANDS, in order, and then removed from TIMERS. No
//! state is needed: everything that is still on TIMERS is still to be done, and the command's id makes sure that it takes effect once.

use std::{collections::BTreeMap, convert::Infallible};

use futures::{StreamExt, stream};
use millstream_contract::{
    command::{explicit_id, timer_command_id},
    dead_letter::DeadLetter,
    header,
    leases::PROCESS_MANAGER_LEASE,
    stored_message::{Headers, StoredMessage},
    stream_names::{COMMANDS, TIMERS},
    subject::{DUE_PREFIX, EFFECT_PREFIX, FOREIGN_SUBJECT_BYTES_MAX, due_command_subject},
};
use millstream_jetstream::{
    broker::{AppendError, Broker, NewMessage, ReaderConfig, StreamReader},
    dead_letter_store::DeadLetterStore,
    id_source::IdSource,
    retry::answered,
};
use millstream_runtime::{health::ProgressWatch, metrics::Count};

use super::ProcessRunnerError;

/// The subjects that the reader takes.
pub(super) const FILTER: &str = "due.>";
/// How many messages are handled together.
const MESSAGES_MAX: usize = 1_000;
/// How many aggregates are published to at once.
const LANES_AT_ONCE: usize = 64;

/// What the relay reports.
pub(super) struct Relayed {
    /// Commands that fell due and were sent.
    pub(super) count: Count,
    /// Messages that fell due and were set aside.
    pub(super) dead_letters: Count,
    /// Whether it makes progress.
    pub(super) progress: ProgressWatch,
}

/// Puts due commands onto COMMANDS until it cannot continue.
pub(super) async fn relay<B: Broker>(
    broker: &B,
    ids: &IdSource,
    relayed: &Relayed,
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
    let store = DeadLetterStore::new(broker.clone());
    relayed.progress.reached(0);
    let mut reader = broker.read(config).await?;
    loop {
        let messages = reader.next_batch(MESSAGES_MAX).await?;
        let Some(through) = messages.last().map(|message| message.sequence) else { continue };
        let count = messages.len();
        let letters = publish_all(broker, ids, &generation, messages).await;
        relayed.count.inc_by(count.saturating_sub(letters.len()) as u64);
        keep_all(&store, ids, letters, &relayed.dead_letters).await;
        answered(ids, || broker.purge_subject(TIMERS, FILTER, Some(through))).await?;
        relayed.progress.reached(through);
    }
}

/// Returns when each letter is stored, because the messages are then removed from TIMERS.
async fn keep_all<B: Broker>(
    store: &DeadLetterStore<B>,
    ids: &IdSource,
    mut letters: Vec<DeadLetter>,
    kept: &Count,
) {
    let mut backoff = ids.backoff();
    loop {
        let answers = store.keep(&letters, ids).await;
        kept.inc_by(answers.iter().filter(|answer| answer.is_ok()).count() as u64);
        let error = answers.iter().find_map(|answer| answer.as_ref().err());
        let Some(error) = error else { return };
        tracing::error!(%error, "what fell due cannot be set aside; what falls due waits for space in DEADLETTERS");
        let mut open = answers.iter().map(Result::is_err);
        letters.retain(|_| open.next().unwrap_or(true));
        backoff.pause().await;
    }
}

/// Returns when each command is stored, those of one aggregate in their order, together with dead letters for messages that cannot be commands.
async fn publish_all<B: Broker>(
    broker: &B,
    ids: &IdSource,
    generation: &str,
    messages: Vec<StoredMessage>,
) -> Vec<DeadLetter> {
    let mut lanes: BTreeMap<String, Vec<StoredMessage>> = BTreeMap::new();
    for message in messages {
        let aggregate = message.subject.rsplit_once('.').map_or("", |(aggregate, _)| aggregate).to_owned();
        lanes.entry(aggregate).or_default().push(message);
    }
    stream::iter(lanes.into_values())
        .map(async |lane| {
            let mut letters = Vec::new();
            for message in lane {
                letters.extend(publish(broker, ids, generation, &message).await);
            }
            stream::iter(letters)
        })
        .buffer_unordered(LANES_AT_ONCE)
        .flatten()
        .collect()
        .await
}

/// Stores a message as a command, or returns its dead letter if it cannot be one.
async fn publish<B: Broker>(
    broker: &B,
    ids: &IdSource,
    generation: &str,
    message: &StoredMessage,
) -> Option<DeadLetter> {
    if let Some((reason, _)) = message.headers.unreadable() {
        return Some(dead_letter(message, "headers-unreadable", reason));
    }
    let Some(subject) = due_command_subject(&message.subject) else {
        let cause = format!(
            "a command falls due on {DUE_PREFIX}.<context>.<aggregate>.<id>.<command>; it is then sent on \
             {EFFECT_PREFIX}.<context>.<aggregate>.<id>.<command>, a subject of at most {FOREIGN_SUBJECT_BYTES_MAX} bytes"
        );
        return Some(dead_letter(message, "subject-not-allowed", &cause));
    };
    let command = command_message(generation, subject, message);
    let mut backoff = ids.backoff();
    loop {
        match broker.append(COMMANDS, command.clone()).await {
            Ok(_) => return None,
            Err(AppendError::Refused { detail, .. }) => {
                return Some(dead_letter(message, "command-refused", &detail));
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

fn dead_letter(message: &StoredMessage, code: &str, cause: &str) -> DeadLetter {
    tracing::warn!(
        subject = message.subject,
        sequence = message.sequence,
        code,
        cause,
        "what fell due is set aside"
    );
    DeadLetter::new(TIMERS, message, code, cause)
}

/// The headers that the schedule was given, without JetStream's own. A command without an id gets one made from its position in TIMERS. It gets
/// no JetStream message id: COMMANDS remembers the message ids of all senders for a while, so anybody could use the id first, and the server
/// would drop the command.
fn command_headers(generation: &str, message: &StoredMessage) -> Headers {
    let mut headers: Headers =
        message.headers.iter().filter(|(name, _)| !name.starts_with("Nats-")).collect();
    // An id that cannot be used is kept, because the command handler reports what is wrong with it.
    if let Ok(None) = explicit_id(message) {
        headers.push(header::COMMAND_ID, timer_command_id(generation, message.sequence));
    } else if let (None, Some(id)) =
        (headers.find(header::COMMAND_ID), message.headers.find(header::NATS_MESSAGE_ID))
    {
        headers.push(header::COMMAND_ID, id);
    }
    headers
}
