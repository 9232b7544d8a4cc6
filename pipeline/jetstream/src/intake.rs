//! Puts commands of many senders onto COMMANDS together: whatever waits leaves when the group before has returned, as one
//! atomic batch where that is measured to be clearly faster, else singly. No timer, no minimum: a lone command leaves at once.
//!
//! Order is kept: commands are stored in the order in which they were put, except those that the server did not clearly
//! take at first.

use millstream_contract::stream_names::COMMANDS;
use tokio::sync::{mpsc, oneshot};

use crate::{
    broker::{AppendError, Broker, NewMessage},
    group_append::{AppendStrategy, GroupAppend},
    id_source::IdSource,
};

/// Commands in a group: as many as an atomic batch takes.
const GROUP_MAX: usize = 1000;
/// Commands that may wait for a group; who comes later waits for a place.
const WAITING_MAX: usize = 4 * GROUP_MAX;

/// A command on its way, and who waits for its position.
#[derive(Debug)]
struct Waiting {
    message: NewMessage,
    /// Whether it was sent before, without a clear answer: it may be stored twice.
    again: bool,
    stored: oneshot::Sender<Result<Stored, AppendError>>,
}

/// Where a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its position.
    pub position: u64,
    /// Whether it may stand at an earlier one as well: it was sent more than once.
    pub again: bool,
}

/// Takes commands. Clones put into the same groups; the task behind them ends with the last one.
#[derive(Debug, Clone)]
pub struct Intake {
    waiting: mpsc::Sender<Waiting>,
}

impl Intake {
    /// Begins to put commands onto COMMANDS.
    pub fn start<B: Broker>(broker: B, ids: IdSource) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(put_groups(broker, ids, waiting));
        Self { waiting: sender }
    }

    /// Puts a command and answers its position once it is stored. It must carry an id: while there is no clear answer, or no
    /// space, it is sent again, and what was stored twice is decided once by its id. Cancelled, it is not sent again.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] never; [`AppendError::Refused`] when the server will not take it; its neighbours are stored.
    pub async fn put(&self, message: NewMessage) -> Result<u64, AppendError> {
        Ok(self.hand_over(message).await?.stored().await?.position)
    }

    /// Puts a command, and answers once it has its place in the order: whoever hands over one after the other, without waiting until
    /// they are stored, has them stored in that order, together.
    ///
    /// # Errors
    /// [`AppendError::Unclear`] when the process is ending.
    pub async fn hand_over(&self, message: NewMessage) -> Result<HandedOver, AppendError> {
        let (stored, position) = oneshot::channel();
        let subject = message.subject.clone();
        match self.waiting.send(Waiting { message, again: false, stored }).await {
            Ok(()) => Ok(HandedOver { subject, position }),
            Err(_) => Err(ended(subject)),
        }
    }
}

/// A command that will be stored. Dropped, it is not sent again.
#[derive(Debug)]
pub struct HandedOver {
    subject: String,
    position: oneshot::Receiver<Result<Stored, AppendError>>,
}

impl HandedOver {
    /// Where it is, once it is stored.
    ///
    /// # Errors
    /// As [`Intake::put`].
    pub async fn stored(self) -> Result<Stored, AppendError> {
        self.position.await.unwrap_or_else(|_| Err(ended(self.subject)))
    }
}

fn ended(subject: String) -> AppendError {
    AppendError::Unclear { subject, detail: "the process is ending".to_owned() }
}

async fn put_groups<B: Broker>(broker: B, ids: IdSource, mut waiting: mpsc::Receiver<Waiting>) {
    let appends = GroupAppend::new(broker, COMMANDS, AppendStrategy::Measured);
    let mut backoff = ids.backoff();
    let mut group = Vec::new();
    loop {
        if group.is_empty() {
            let Some(first) = waiting.recv().await else { return };
            group.push(first);
        }
        while group.len() < GROUP_MAX {
            let Ok(more) = waiting.try_recv() else { break };
            group.push(more);
        }
        group.retain(|each: &Waiting| !each.stored.is_closed());
        let messages = group.iter().map(|each| each.message.clone()).collect();
        let answers = appends.append_all(messages).await;
        let mut again = Vec::new();
        for (mut each, answer) in group.into_iter().zip(answers) {
            match answer {
                Err(error @ (AppendError::Unclear { .. } | AppendError::Full { .. })) => {
                    tracing::debug!(%error, "the command is sent again");
                    each.again = true;
                    again.push(each);
                }
                // Nobody waits any more for what cannot be delivered.
                answer => {
                    let again = each.again;
                    drop(each.stored.send(answer.map(|position| Stored { position, again })));
                }
            }
        }
        if again.is_empty() {
            backoff = ids.backoff();
        } else {
            tracing::warn!(commands = again.len(), "commands could not be stored yet");
            backoff.pause().await;
        }
        group = again;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_contract::stored_message::Headers;

    use super::*;
    use crate::testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker};

    #[tokio::test(start_paused = true)]
    async fn whoever_may_have_stored_a_command_twice_is_told_so() {
        let plan = FaultPlan { append_answer_lost: 0.5, ..FaultPlan::none() };
        let broker = MemoryBroker::new(1, plan);
        let intake = Intake::start(broker.clone(), IdSource::new("intake".to_owned()));
        let mut again = 0;
        for number in 0..40 {
            let payload = Bytes::from(number.to_string());
            let message = NewMessage {
                subject: "cmd.a.b.c.d".to_owned(),
                expected_last: None,
                headers: Headers::new(),
                payload: payload.clone(),
            };
            let stored = intake.hand_over(message).await.unwrap().stored().await.unwrap();
            let all = broker.dump(COMMANDS);
            let places: Vec<u64> =
                all.iter().filter(|each| each.payload == payload).map(|each| each.sequence).collect();
            assert_eq!(places.last(), Some(&stored.position));
            assert_eq!(places.len() > 1, stored.again, "{stored:?} {places:?}");
            again += u32::from(stored.again);
        }
        assert!((1..40).contains(&again), "{again} of 40");
    }
}
