//! The places of clients: several share a connection and its inbox, and each has one command on its way, whose answer comes to its
//! place. So an answer costs the benchmark as little as it can: neither an inbox nor a timer of its own.

use std::{sync::Arc, time::Duration};

use async_nats::Message;
use futures::StreamExt as _;
use millstream_jetstream::nats_broker::NatsBroker;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::closed_loop_error::ClosedLoopError;

/// How long one command may take before it counts as lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Answers that a client has not taken yet: the one that it waits for. A second place is for one that comes twice.
const ANSWERS_MAX: usize = 2;

/// Where one client sends from.
#[derive(Debug)]
pub(crate) struct ClientPlace {
    pub(crate) broker: NatsBroker,
    inbox: Arc<str>,
    index: usize,
    answers: mpsc::Receiver<(usize, Message)>,
}

impl ClientPlace {
    /// Where the answer to the command of this number is awaited.
    pub(crate) fn reply_subject(&self, number: usize) -> String {
        format!("{}.{}.{number}", self.inbox, self.index)
    }

    /// Waits for the answer to the command of this number.
    pub(crate) async fn answer(&mut self, number: usize) -> Result<Message, ClosedLoopError> {
        let awaited = async {
            while let Some((of, answer)) = self.answers.recv().await {
                if of == number {
                    return Some(answer);
                }
            }
            None
        };
        timeout(PATIENCE, awaited).await.ok().flatten().ok_or(ClosedLoopError::NoAnswer)
    }
}

/// Opens `count` places, spread over these connections. What hands answers over ends when the set is dropped.
pub(crate) async fn open(
    connections: &[NatsBroker],
    count: usize,
) -> Result<(Vec<ClientPlace>, JoinSet<()>), ClosedLoopError> {
    let mut places = Vec::with_capacity(count);
    let mut handing_over = JoinSet::new();
    let share = count.div_ceil(connections.len().max(1));
    for broker in connections {
        let inbox: Arc<str> = broker.client().new_inbox().into();
        let mut answers = broker.client().subscribe(format!("{inbox}.*.*")).await?;
        let mut senders = Vec::new();
        for index in 0..share.min(count - places.len()) {
            let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
            senders.push(sender);
            let (broker, inbox) = (broker.clone(), Arc::clone(&inbox));
            places.push(ClientPlace { broker, inbox, index, answers: receiver });
        }
        handing_over.spawn(async move {
            while let Some(answer) = answers.next().await {
                let Some((index, number)) = address(&answer) else { continue };
                if let Some(sender) = senders.get(index) {
                    // A client that has ended, or has not taken two answers, waits for none.
                    drop(sender.try_send((number, answer)));
                }
            }
        });
    }
    Ok((places, handing_over))
}

/// Whose answer it is, and to which command.
fn address(answer: &Message) -> Option<(usize, usize)> {
    let mut tokens = answer.subject.rsplit('.');
    let number = tokens.next()?.parse().ok()?;
    Some((tokens.next()?.parse().ok()?, number))
}
