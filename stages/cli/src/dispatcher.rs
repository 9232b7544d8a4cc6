//! Sends many commands at once, and returns the outcome of each from the recorded outcomes.
//!
//! The number of commands under way is limited. Time only matters for how long it waits for a pipeline that records nothing.

mod under_way;

use std::time::Duration;

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use millstream_contract::{exit_code::ExitCode, outcome::CommandOutcome, stream_names};
use millstream_jetstream::{
    broker::Broker as _,
    id_source::IdSource,
    intake::{Intake, Stored, WhenFull},
};

use self::under_way::UnderWay;
use crate::{
    command_publisher::{self, OutgoingCommand, PublishError},
    failure::CommandFailure,
    outcome_follower::OutcomeFollower,
    session::Connected,
};

/// Publishes under way: enough to keep the server busy over a network.
const PUBLISHES_MAX: usize = 1024;
/// The most commands without an outcome. This limits the memory, and the backlog of a handler that stands still.
const WAITING_MAX: usize = 32 * 1024;

/// The result of a command that was sent with a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered<T> {
    /// The sender's tag.
    pub(crate) tag: T,
    /// The recorded outcome.
    pub(crate) outcome: CommandOutcome,
    /// Whether the id had been used before, by an earlier run or by somebody else.
    pub(crate) known_before: bool,
}

/// The id, and the position of the command.
type Publish = BoxFuture<'static, (String, Result<Stored, PublishError>)>;

/// Commands under way, each with a tag of its sender.
pub(crate) struct Dispatcher<T> {
    connected: Connected,
    intake: Intake,
    follower: OutcomeFollower,
    waiting: UnderWay<T>,
    publishes: FuturesUnordered<Publish>,
    patience: Duration,
}

impl<T> Dispatcher<T> {
    /// Begins to follow the outcomes. `nats consumer ls OUTCOMES` shows `purpose`. Waiting ends with an error if no outcome at all is recorded
    /// for `patience`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn begin(
        connected: Connected,
        purpose: &str,
        patience: Duration,
    ) -> Result<Self, CommandFailure> {
        let commands_before = connected.broker.state(stream_names::COMMANDS).await?.last_sequence;
        let follower = OutcomeFollower::begin(&connected.broker, purpose).await?;
        let ids = IdSource::new(ulid::Ulid::generate().to_string());
        let intake = Intake::start(connected.broker.clone(), ids, WhenFull::Wait);
        Ok(Self {
            connected,
            intake,
            follower,
            waiting: UnderWay::new(commands_before),
            publishes: FuturesUnordered::new(),
            patience,
        })
    }

    /// Whether another command may be sent now. If not, outcomes must be taken first.
    pub(crate) fn has_room(&self) -> bool {
        self.publishes.len() < PUBLISHES_MAX && self.waiting.len() < WAITING_MAX
    }

    /// Whether every command has its outcome.
    pub(crate) fn is_settled(&self) -> bool {
        self.publishes.is_empty() && self.waiting.len() == 0
    }

    /// Refuses a command that would not fit into a message.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`].
    pub(crate) fn check_size(&self, command: &OutgoingCommand) -> Result<(), PublishError> {
        command_publisher::check_size(&self.connected.client, command)
    }

    /// Sends a command. Ids that are under way at the same time must differ. Commands are stored in the order in which they are sent, except
    /// those that the server did not clearly accept at the first attempt.
    ///
    /// # Errors
    /// When the process is ending.
    pub(crate) async fn send(&mut self, tag: T, command: OutgoingCommand) -> Result<(), CommandFailure> {
        let id = command.id.clone();
        self.waiting.sent(id.clone(), tag);
        // It is passed on here instead of in the future below, because many futures that wait together are woken in any order.
        let handed_over = self.intake.hand_over(command.into_message()).await.map_err(PublishError::from)?;
        self.publishes
            .push(Box::pin(async move { (id, handed_over.stored().await.map_err(PublishError::from)) }));
        Ok(())
    }

    /// Waits until something happens, and returns the commands that have their outcomes now, possibly none. Outcomes of other senders' commands
    /// are ignored.
    ///
    /// # Errors
    /// When the server refuses, or no outcome is recorded for longer than the patience. Commands that were sent stay sent.
    pub(crate) async fn progress(&mut self) -> Result<Vec<Answered<T>>, CommandFailure> {
        tokio::select! {
            Some((id, stored)) = self.publishes.next(), if !self.publishes.is_empty() => {
                Ok(self.waiting.stored(&id, stored?).into_iter().collect())
            }
            outcomes = tokio::time::timeout(self.patience, self.follower.next()) => {
                let outcomes = outcomes.map_err(|_| self.nothing_recorded())??;
                Ok(outcomes.into_iter().filter_map(|outcome| self.waiting.decided(outcome)).collect())
            }
        }
    }

    fn nothing_recorded(&self) -> CommandFailure {
        CommandFailure::new(
            ExitCode::Unavailable,
            format_args!(
                "no outcome was recorded for {} s and {} commands wait; is the command handler running? \
                 (`millstream doctor`)",
                self.patience.as_secs(),
                self.waiting.len()
            ),
        )
    }

    /// Removes its consumer. Otherwise, the server would remove it after a while.
    pub(crate) async fn end(self) {
        self.follower.end(&self.connected.jetstream).await;
    }
}
