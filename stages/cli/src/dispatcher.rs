//! Sends many commands at once and hands back what became of each, by the recorded outcomes.
//!
//! What is under way is bounded; no clock decides anything but the patience with a pipeline that records nothing.

use std::{collections::HashMap, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use millstream_contract::{
    exit_code::ExitCode,
    outcome::{CommandOutcome, Outcome},
    stream_names,
};
use millstream_jetstream::{broker::Broker as _, id_source::IdSource, intake::Intake};

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
    /// Whether the id had been used before the dispatcher began.
    pub(crate) known_before: bool,
}

type Publish = BoxFuture<'static, Result<(), PublishError>>;

/// Commands under way, each with a tag of its sender.
pub(crate) struct Dispatcher<T> {
    connected: Connected,
    intake: Intake,
    follower: OutcomeFollower,
    /// What was on COMMANDS before: a duplicate of something later is a publish of our own, repeated.
    commands_before: u64,
    waiting: HashMap<String, T>,
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
            commands_before,
            waiting: HashMap::new(),
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
        self.publishes.is_empty() && self.waiting.is_empty()
    }

    /// Refuses what would not fit into a message.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`].
    pub(crate) fn check_size(&self, command: &OutgoingCommand) -> Result<(), PublishError> {
        command_publisher::check_size(&self.connected.client, command)
    }

    /// Sends a command; ids under way at the same time differ.
    pub(crate) fn send(&mut self, tag: T, command: OutgoingCommand) {
        self.waiting.insert(command.id.clone(), tag);
        let intake = self.intake.clone();
        self.publishes.push(Box::pin(async move {
            intake.put(command.into_message()).await.map(|_position| ()).map_err(PublishError::from)
        }));
    }

    /// Waits for something to happen and hands back what has settled, perhaps nothing. The first outcome of an id
    /// counts; outcomes of others' commands pass by.
    ///
    /// # Errors
    /// When the server refuses, or no outcome is recorded for longer than the patience. What was sent stays sent.
    pub(crate) async fn progress(&mut self) -> Result<Vec<Answered<T>>, CommandFailure> {
        tokio::select! {
            Some(published) = self.publishes.next(), if !self.publishes.is_empty() => {
                published?;
                Ok(Vec::new())
            }
            outcomes = tokio::time::timeout(self.patience, self.follower.next()) => {
                let outcomes = outcomes.map_err(|_| self.nothing_recorded())??;
                Ok(outcomes.into_iter().filter_map(|outcome| self.settle(outcome)).collect())
            }
        }
    }

    fn settle(&mut self, outcome: CommandOutcome) -> Option<Answered<T>> {
        let tag = self.waiting.remove(outcome.id.as_deref()?)?;
        let before = self.commands_before;
        let known_before = matches!(outcome.outcome, Outcome::Duplicate { of, .. } if of <= before);
        Some(Answered { tag, outcome, known_before })
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
