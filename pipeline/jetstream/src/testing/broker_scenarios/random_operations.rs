//! Random operations, the same ones over any broker. Twin and server must give the same answers, one by one.

use bytes::Bytes;
use millstream_contract::{
    header,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS},
    testing::dice::Dice,
};

use super::Ground;
use crate::{
    broker::{Broker, NewMessage},
    testing::operation::Operation,
};

/// Runs `count` operations drawn with `seed`, and returns the answers as texts that do not depend on time.
pub async fn random_operations<G: Ground>(ground: &mut G, seed: u64, count: usize) -> Vec<String> {
    let broker = ground.connect().await;
    let mut dice = Dice::new(seed);
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        let operation = operation(&broker, &mut dice).await;
        answers.push(format!("{operation:?}: {}", operation.ask(&broker).await));
    }
    answers
}

async fn operation<B: Broker>(broker: &B, dice: &mut Dice) -> Operation {
    let stream = if dice.chance(0.5) { EVENTS } else { COMMANDS };
    let id = dice.below(4);
    let published = subject(stream, id);
    match dice.below(10) {
        0..=4 => {
            let message = new_message(broker, dice, stream, &published).await;
            Operation::Append { stream: stream.to_owned(), message }
        }
        5 => {
            let mut messages = Vec::new();
            for id in 0..=dice.below(4) {
                messages.push(new_message(broker, dice, stream, &subject(stream, id)).await);
            }
            Operation::AppendAtomically { stream: stream.to_owned(), messages }
        }
        6 => Operation::Get { stream: stream.to_owned(), sequence: dice.below(40).max(1) },
        7 => {
            let subject = stored_subject(broker, stream, &published).await;
            Operation::Last { stream: stream.to_owned(), subject }
        }
        8 => {
            let from = dice.below(40);
            let subject = stored_subject(broker, stream, &published).await;
            Operation::Load { stream: stream.to_owned(), subject, from }
        }
        _ => Operation::State { stream: stream.to_owned() },
    }
}

fn subject(stream: &str, id: u64) -> String {
    if stream == EVENTS { format!("evt.a.b.{id}") } else { format!("cmd.a.b.{id}.c") }
}

/// The subject under which the stream stores a message that is published on another one.
async fn stored_subject<B: Broker>(broker: &B, stream: &str, published: &str) -> String {
    if stream == EVENTS {
        return published.to_owned();
    }
    let last = broker.state(stream).await.map_or(0, |state| state.last_sequence);
    for sequence in (1..=last).rev() {
        if let Ok(Some(message)) = broker.get(stream, sequence).await
            && millstream_contract::subject::published_subject(&message.subject) == published
        {
            return message.subject;
        }
    }
    published.to_owned()
}

/// A message whose expectation holds, fails or is absent. It may have an id that was used before.
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
