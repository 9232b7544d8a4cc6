//! Sends many commands at once and hands back what became of each, by the recorded outcomes.
//!
//! What is under way is bounded; no clock decides anything but the patience with a pipeline that records nothing.

mod under_way;

use std::time::Duration;

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use millstream_contract::{exit_code::ExitCode, outcome::CommandOutcome, stream_names};
use millstream_jetstream::{
    broker::Broker as _,
    id_source::IdSource,
    intake::{Intake, Stored},
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
/// Commands without an outcome: bounds the memory, and what a handler that stands still has to catch up with.
const WAITING_MAX: usize = 32 * 1024;

/// What became of a command that was sent with a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered<T> {
    /// The sender's own.
    pub(crate) tag: T,
    /// The recorded outcome.
    pub(crate) outcome: CommandOutcome,
    /// Whether the id had been used before, by an earlier run or by somebody else.
    pub(crate) known_before: bool,
}

/// The id, and where the command is.
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
    /// Begins to follow the outcomes. `purpose` is shown by `nats consumer ls OUTCOMES`. Whoever waits gives up when no
    /// outcome at all is recorded for `patience`.
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
        let intake =
            Intake::start(connected.broker.clone(), IdSource::new(ulid::Ulid::generate().to_string()));
        Ok(Self {
            connected,
            intake,
            follower,
            waiting: UnderWay::new(commands_before),
            publishes: FuturesUnordered::new(),
            patience,
        })
    }

    /// Whether another command may be sent now; else take outcomes first.
    pub(crate) fn has_room(&self) -> bool {
        self.publishes.len() < PUBLISHES_MAX && self.waiting.len() < WAITING_MAX
    }

    /// Whether every command has its outcome.
    pub(crate) fn is_settled(&self) -> bool {
        self.publishes.is_empty() && self.waiting.len() == 0
    }

    /// Refuses what would not fit into a message.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`].
    pub(crate) fn check_size(&self, command: &OutgoingCommand) -> Result<(), PublishError> {
        command_publisher::check_size(&self.connected.client, command)
    }

    /// Sends a command; ids under way at the same time differ. Commands are stored in the order in which they are sent, except those
    /// that the server did not clearly take at first.
    ///
    /// # Errors
    /// When the process is ending.
    pub(crate) async fn send(&mut self, tag: T, command: OutgoingCommand) -> Result<(), CommandFailure> {
        let id = command.id.clone();
        self.waiting.sent(id.clone(), tag);
        // Handed over here, not in the future below: many futures that wait together are woken in any order.
        let handed_over = self.intake.hand_over(command.into_message()).await.map_err(PublishError::from)?;
        self.publishes
            .push(Box::pin(async move { (id, handed_over.stored().await.map_err(PublishError::from)) }));
        Ok(())
    }

    /// Waits for something to happen and hands back what has settled, perhaps nothing. Outcomes of others' commands pass by.
    ///
    /// # Errors
    /// When the server refuses, or no outcome is recorded for longer than the patience. What was sent stays sent.
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

    /// Takes its consumer away; the server would do so by itself after a while.
    pub(crate) async fn end(self) {
        self.follower.end(&self.connected.jetstream).await;
    }
}
