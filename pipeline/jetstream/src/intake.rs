//! Puts commands of many senders onto COMMANDS together: whatever waits leaves when the group before has returned, as one
//! atomic batch where that is measured to be clearly faster, else singly. No timer, no minimum: a lone command leaves at once.
//!
//! Order is kept: commands are stored in the order in which they were put, except those that the server did not clearly
//! take at first.
//!
//! While COMMANDS is full, [`WhenFull`] says whether a command waits for space or its sender is told.

use std::time::Duration;

use millstream_contract::stream_names::COMMANDS;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    broker::{AppendError, Broker, NewMessage},
    group_append::{AppendStrategy, GroupAppend},
    id_source::IdSource,
};

/// Commands in a group: as many as an atomic batch takes.
const GROUP_MAX: usize = 1000;
/// Commands that may wait for a group; who comes later waits for a place.
const WAITING_MAX: usize = 4 * GROUP_MAX;
/// The log says so often that COMMANDS is full, and not of each command: its senders are told.
const NOTICE_PAUSE: Duration = Duration::from_secs(60);

/// What becomes of a command for which COMMANDS has no space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is sent again until there is space. For senders that have nobody to tell, and go on when there is space.
    Wait,
    /// Its sender gets [`AppendError::Full`] at once: nothing is stored. For those who answer a client, which can wait by itself. A command
    /// that may be stored already, because an earlier append of it had no clear answer, is still sent again.
    Tell,
}

/// A command on its way, and who waits for its position.
#[derive(Debug)]
struct Waiting {
    message: NewMessage,
    /// Whether it was sent before, without a clear answer: it may be stored already.
    again: bool,
    stored: oneshot::Sender<Result<Stored, AppendError>>,
}

impl Waiting {
    /// Tells its sender what there is to tell. Returns the command if it is to be sent again.
    fn settle(mut self, answer: Result<u64, AppendError>, when_full: WhenFull) -> Option<Self> {
        match &answer {
            // An append of it without a clear answer may be stored, or will be: nobody can say that it is not.
            Err(error @ AppendError::Unclear { .. }) => {
                tracing::debug!(%error, "the command is sent again");
                self.again = true;
                return Some(self);
            }
            Err(error @ AppendError::Full { .. }) if self.again || when_full == WhenFull::Wait => {
                tracing::debug!(%error, "the command is sent again");
                return Some(self);
            }
            Ok(_) | Err(_) => {}
        }
        let Self { again, stored, .. } = self;
        // Nobody waits any more for what cannot be delivered.
        drop(stored.send(answer.map(|position| Stored { position, again })));
        None
    }
}

/// Where a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its position.
    pub position: u64,
    /// Whether it may stand at an earlier one as well: it was sent before, without a clear answer.
    pub again: bool,
}

/// Takes commands. Clones put into the same groups; the task behind them ends with the last one.
#[derive(Debug, Clone)]
pub struct Intake {
    waiting: mpsc::Sender<Waiting>,
}

impl Intake {
    /// Begins to put commands onto COMMANDS.
    pub fn start<B: Broker>(broker: B, ids: IdSource, when_full: WhenFull) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(put_groups(broker, ids, when_full, waiting));
        Self { waiting: sender }
    }

    /// Puts a command and answers its position once it is stored. It must carry an id: while there is no clear answer, or no
    /// space to wait for, it is sent again, and what was stored twice is decided once by its id. Cancelled, it is not sent again.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] never; [`AppendError::Refused`] when the server will not take it; its neighbours are stored.
    /// [`AppendError::Full`] where senders are told ([`WhenFull::Tell`]): nothing is stored.
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

async fn put_groups<B: Broker>(
    broker: B,
    ids: IdSource,
    when_full: WhenFull,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    let appends = GroupAppend::new(broker, COMMANDS, AppendStrategy::Measured);
    let mut backoff = ids.backoff();
    let mut group = Vec::new();
    let mut noticed: Option<Instant> = None;
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
        if when_full == WhenFull::Tell
            && let Some(Err(error)) =
                answers.iter().find(|answer| matches!(answer, Err(AppendError::Full { .. })))
            && noticed.is_none_or(|noticed| noticed.elapsed() >= NOTICE_PAUSE)
        {
            noticed = Some(Instant::now());
            tracing::warn!(%error, "commands are not stored, and their senders are told so");
        }
        let again: Vec<Waiting> = group
            .into_iter()
            .zip(answers)
            .filter_map(|(each, answer)| each.settle(answer, when_full))
            .collect();
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
    use crate::testing::{fault_plan::FaultPlan, memory_broker::MemoryBroker, test_server::TestServer};

    /// Longer than anybody waits for an answer.
    const VERY_LONG: Duration = Duration::from_secs(600);

    fn start<B: Broker>(broker: &B, when_full: WhenFull) -> Intake {
        Intake::start(broker.clone(), IdSource::new("intake".to_owned()), when_full)
    }

    fn command(payload: &Bytes) -> NewMessage {
        let (subject, payload) = ("cmd.a.b.c.d".to_owned(), payload.clone());
        NewMessage { subject, expected_last: None, headers: Headers::new(), payload }
    }

    fn is_full(answer: &Result<u64, AppendError>) -> bool {
        matches!(answer, Err(AppendError::Full { stream, .. }) if stream == COMMANDS)
    }

    #[tokio::test(start_paused = true)]
    async fn while_commands_is_full_senders_wait_or_are_told_as_they_were_asked_for() {
        let broker = MemoryBroker::new(1, FaultPlan::none());
        let (waits, tells) = (start(&broker, WhenFull::Wait), start(&broker, WhenFull::Tell));
        let body = Bytes::from_static(b"{}");
        broker.limit_stream(COMMANDS, Some(0));
        let mut waiting = std::pin::pin!(waits.put(command(&body)));
        assert!(tokio::time::timeout(VERY_LONG, &mut waiting).await.is_err(), "it waits for space");
        let told = tokio::time::timeout(VERY_LONG, tells.put(command(&body))).await;
        assert!(told.as_ref().is_ok_and(is_full), "{told:?}");
        broker.limit_stream(COMMANDS, None);
        assert_eq!(waiting.await.unwrap(), 1);
        assert_eq!(tells.put(command(&body)).await.unwrap(), 2);
    }

    /// Its sender would be told that nothing is stored, and would send it under another id.
    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_that_a_command_is_not_stored_if_an_append_of_it_had_no_answer() {
        let broker = MemoryBroker::new(1, FaultPlan { append_answer_lost: 1.0, ..FaultPlan::none() });
        broker.limit_stream(COMMANDS, Some(1));
        let intake = start(&broker, WhenFull::Tell);
        let mut handed_over =
            std::pin::pin!(intake.hand_over(command(&Bytes::from_static(b"{}"))).await.unwrap().stored());
        assert!(tokio::time::timeout(VERY_LONG, &mut handed_over).await.is_err(), "nothing is known of it");
        assert_eq!(broker.dump(COMMANDS).len(), 1, "it is stored, and COMMANDS is full");
        broker.heal();
        assert!(
            tokio::time::timeout(VERY_LONG, &mut handed_over).await.is_err(),
            "that is all there is to say"
        );
        broker.limit_stream(COMMANDS, None);
        assert_eq!(handed_over.await.unwrap(), Stored { position: 2, again: true });
    }

    #[tokio::test]
    async fn a_server_whose_commands_are_full_says_so_of_one_and_of_many_at_once() {
        let server = TestServer::start_provisioned().await;
        let context = async_nats::jetstream::new(server.client().await);
        let mut config = context.get_stream(COMMANDS).await.unwrap().cached_info().config.clone();
        let before = config.max_bytes;
        config.max_bytes = 1;
        context.update_stream(&config).await.unwrap();
        let broker = server.broker().await;
        let body = Bytes::from_static(b"{}");
        let all = || (0..3).map(|_| command(&body)).collect::<Vec<_>>();
        assert!(is_full(&broker.append_atomically(COMMANDS, all()).await.map(|appended| appended.sequence)));
        for strategy in [AppendStrategy::Single, AppendStrategy::Atomic] {
            let answers = GroupAppend::new(broker.clone(), COMMANDS, strategy).append_all(all()).await;
            assert!(answers.len() == 3 && answers.iter().all(is_full), "{strategy:?}: {answers:?}");
        }
        let intake = start(&broker, WhenFull::Tell);
        assert!(is_full(&intake.put(command(&body)).await));
        assert_eq!(broker.state(COMMANDS).await.unwrap().last_sequence, 0);
        config.max_bytes = before;
        context.update_stream(&config).await.unwrap();
        assert_eq!(intake.put(command(&body)).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_may_have_stored_a_command_twice_is_told_so() {
        let plan = FaultPlan { append_answer_lost: 0.5, ..FaultPlan::none() };
        let broker = MemoryBroker::new(1, plan);
        let intake = start(&broker, WhenFull::Wait);
        let mut again = 0;
        for number in 0..40 {
            let payload = Bytes::from(number.to_string());
            let stored = intake.hand_over(command(&payload)).await.unwrap().stored().await.unwrap();
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
