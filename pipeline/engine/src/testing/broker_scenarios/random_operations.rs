//! Random operations, the same ones over any broker: twin and server must give the same answers, one by one.

use bytes::Bytes;

use super::Ground;
use crate::{
    broker::{AppendError, Appended, Broker, NewMessage},
    contract::{
        header,
        stored_message::{Headers, StoredMessage},
        stream_names::{COMMANDS, EVENTS},
    },
    testing::dice::Dice,
};

/// Runs `count` operations thrown with `seed` and says what was answered to each, in words that do not depend on time.
pub async fn random_operations<G: Ground>(ground: &mut G, seed: u64, count: usize) -> Vec<String> {
    let broker = ground.connect().await;
    let mut dice = Dice::new(seed);
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        answers.push(operation(&broker, &mut dice).await);
    }
    answers
}

async fn operation<B: Broker>(broker: &B, dice: &mut Dice) -> String {
    let stream = if dice.chance(0.5) { EVENTS } else { COMMANDS };
    let id = dice.below(4);
    let published = subject(stream, id);
    match dice.below(10) {
        0..=4 => {
            let new = new_message(broker, dice, stream, &published).await;
            let told = format!("append {} expecting {:?}", new.subject, new.expected_last);
            format!("{told}: {}", told_append(broker.append(stream, new).await))
        }
        5 => {
            let mut batch = Vec::new();
            for id in 0..=dice.below(4) {
                batch.push(new_message(broker, dice, stream, &subject(stream, id)).await);
            }
            let told = format!("batch of {}", batch.len());
            format!("{told}: {}", told_append(broker.append_atomically(stream, batch).await))
        }
        6 => {
            let sequence = dice.below(40);
            let got = broker.get(stream, sequence.max(1)).await.map(|message| told_message(message.as_ref()));
            format!("get {sequence} of {stream}: {got:?}")
        }
        7 => {
            let last = broker.last(stream, &stored_subject(broker, stream, &published).await).await;
            format!("last of {published}: {:?}", last.map(|message| told_message(message.as_ref())))
        }
        8 => {
            let from = dice.below(40);
            let loaded = broker.load(stream, &stored_subject(broker, stream, &published).await, from).await;
            let loaded = loaded.map(|messages| {
                messages.iter().map(|message| told_message(Some(message))).collect::<Vec<_>>()
            });
            format!("load {published} from {from}: {loaded:?}")
        }
        _ => {
            let ends = broker.state(stream).await.map(|state| (state.first_sequence, state.last_sequence));
            format!("state of {stream}: {ends:?}")
        }
    }
}

fn subject(stream: &str, id: u64) -> String {
    if stream == EVENTS { format!("evt.a.b.{id}") } else { format!("cmd.a.b.{id}.c") }
}

/// Under which subject the stream stores what is published on another.
async fn stored_subject<B: Broker>(broker: &B, stream: &str, published: &str) -> String {
    if stream == EVENTS {
        return published.to_owned();
    }
    let last = broker.state(stream).await.map_or(0, |state| state.last_sequence);
    for sequence in (1..=last).rev() {
        if let Ok(Some(message)) = broker.get(stream, sequence).await
            && crate::contract::subject::published_subject(&message.subject) == published
        {
            return message.subject;
        }
    }
    published.to_owned()
}

/// A message whose expectation holds, fails, or is absent, perhaps with an id that was used before.
async fn new_message<B: Broker>(broker: &B, dice: &mut Dice, stream: &str, published: &str) -> NewMessage {
    let stored = stored_subject(broker, stream, published).await;
    let last = broker.last(stream, &stored).await.ok().flatten().map_or(0, |message| message.sequence);
    let expected_last = match dice.below(4) {
        0 => None,
        1 => Some(dice.below(20)),
        _ => Some(last),
    };
    let mut headers = Headers::new();
    if dice.chance(0.3) {
        headers.push(header::NATS_MESSAGE_ID, format!("id-{}", dice.below(12)));
    }
    let payload = Bytes::from(dice.below(1000).to_string());
    NewMessage { subject: published.to_owned(), expected_last, headers, payload }
}

fn told_append(answer: Result<Appended, AppendError>) -> String {
    match answer {
        Ok(Appended { sequence, duplicate }) => format!("at {sequence}, duplicate {duplicate}"),
        Err(AppendError::Conflict { .. }) => "conflict".into(),
        Err(AppendError::Full { .. }) => "full".into(),
        Err(AppendError::Refused { .. }) => "refused".into(),
        Err(AppendError::Unclear { .. }) => "unclear".into(),
    }
}

fn told_message(message: Option<&StoredMessage>) -> String {
    match message {
        Some(message) => {
            let body = String::from_utf8_lossy(&message.payload);
            let id = message.headers.get(header::NATS_MESSAGE_ID).unwrap_or("none");
            format!("{} on {}, body {body}, id {id}", message.sequence, message.subject)
        }
        None => "nothing".into(),
    }
}
