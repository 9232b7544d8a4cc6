//! The rounds of a turn, between two channels: commands are read and decoded ahead of what is settled, what waits becomes a round, and a
//! settled round goes on to the recorder.

use std::sync::Arc;

use millstream_contract::stored_message::StoredMessage;
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::broker::{Broker, StreamReader};
use millstream_runtime::shutdown::Shutdown;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

use super::{
    CommandHandler, HandlerError, TurnEnd, loss_watch::Known, recorder::SettledRound,
    state_keeper::StateFollower,
};
use crate::round::{InternalCommands, PreparedCommand, cut_round, prepare};

/// The memory for commands that are read and decoded ahead of the round that is being settled, in KiB. A command counts the KiB
/// of its body and one more, so this is about as many small commands as a round takes.
const AHEAD_KIB: u32 = 32 * 1024;
/// The largest first round of a turn. Each following round may be twice as large as the one before, up to the configured size.
/// A handler with nothing in memory is slow, and what it decides counts only once its round is recorded. With small first
/// rounds, a handler that is killed again and again loses about half of its work; with large ones it would lose all of it.
const FIRST_ROUND_MAX: usize = 1000;

/// Commands that were read together.
pub(super) struct ReadAhead {
    commands: Vec<PreparedCommand>,
    /// The share of the memory that they take, freed when a round takes them.
    _memory: OwnedSemaphorePermit,
}

/// The rounds of a turn.
pub(super) struct Rounds {
    read: mpsc::UnboundedReceiver<ReadAhead>,
    /// Commands that the round before had no room for.
    held: Option<ReadAhead>,
    next_max: usize,
    round_max: usize,
}

impl Rounds {
    /// Makes rounds of at most `round_max` commands from what `read` brings.
    pub(super) fn new(read: mpsc::UnboundedReceiver<ReadAhead>, round_max: usize) -> Self {
        Self { read, held: None, next_max: FIRST_ROUND_MAX.min(round_max), round_max }
    }

    /// Waits for commands, and takes all that wait into one round. `None` when the reader has ended. Cancelling it loses nothing:
    /// there is no await between taking the first commands and returning them.
    pub(super) async fn next(&mut self) -> Option<Vec<PreparedCommand>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.read.recv().await?,
        };
        let mut commands = first.commands;
        while let Ok(more) = self.read.try_recv() {
            if commands.len() + more.commands.len() > self.next_max {
                self.held = Some(more);
                break;
            }
            commands.extend(more.commands);
        }
        self.next_max = (self.next_max * 2).min(self.round_max);
        Some(commands)
    }
}

/// Why no further round is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SettlingEnd {
    /// The handler was asked to stop.
    Shutdown,
    /// The task that reads or the one that records has ended; it knows why.
    TaskEnded,
}

/// Reads and decodes ahead.
pub(super) async fn read_ahead<R: StreamReader>(
    mut reader: R,
    registry: AggregateRegistry,
    internal: InternalCommands,
    round_max: usize,
    read: mpsc::UnboundedSender<ReadAhead>,
) -> Result<(), TurnEnd> {
    let memory = Arc::new(Semaphore::new(AHEAD_KIB as usize));
    // A round takes whole reads, so a read must fit into the smallest round.
    let read_max = FIRST_ROUND_MAX.min(round_max);
    loop {
        let messages = reader.next_batch(read_max).await?;
        let _memory = reserve(&memory, &messages).await;
        let commands: Vec<_> =
            messages.into_iter().map(|message| prepare(message, &registry, internal)).collect();
        if commands.is_empty() {
            continue;
        }
        if read.send(ReadAhead { commands, _memory }).is_err() {
            return Err(TurnEnd::Lost);
        }
    }
}

/// Waits until messages fit into the memory for what is read ahead.
async fn reserve(memory: &Arc<Semaphore>, messages: &[StoredMessage]) -> OwnedSemaphorePermit {
    let kib: usize = messages.iter().map(|message| 1 + message.payload.len() / 1024).sum();
    let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(AHEAD_KIB);
    Arc::clone(memory).acquire_many_owned(kib).await.expect("it is never closed")
}

impl<B: Broker> CommandHandler<B> {
    /// Settles round after round until the turn is to end.
    pub(super) async fn settle_rounds(
        &mut self,
        rounds: &mut Rounds,
        settled: &mpsc::Sender<SettledRound>,
        known: &Known,
        shutdown: &Shutdown,
    ) -> Result<SettlingEnd, HandlerError> {
        loop {
            let round = tokio::select! {
                biased;
                () = shutdown.requested() => return Ok(SettlingEnd::Shutdown),
                round = rounds.next() => round,
            };
            let Some(commands) = round else { return Ok(SettlingEnd::TaskEnded) };
            for commands in cut_round(commands) {
                let round = self.settle_round(commands).await?;
                known.committed(self.states.cache.newest());
                // The recorder is gone; `turn` learns why.
                if settled.send(round).await.is_err() {
                    return Ok(SettlingEnd::TaskEnded);
                }
            }
        }
    }

    /// Settles a round, and learns the ids and the states that it leaves.
    async fn settle_round(&mut self, commands: Vec<PreparedCommand>) -> Result<SettledRound, HandlerError> {
        let begun = Instant::now();
        self.observed.metrics.round_commands.observe(commands.len() as f64);
        let cache = &mut self.states.cache;
        let before = cache.through();
        let (outcomes, appended) = self.settlement.settle(cache, &self.index, &commands).await?;
        // Sequences only grow. A commit at one that another had means that the server came back with an older EVENTS; what this handler
        // knows is then of a future that is lost.
        if appended.count > 0 && appended.first <= before {
            return Err(HandlerError::FellBack { stored: appended.first, known: before });
        }
        let round = SettledRound::new(commands, outcomes, begun);
        // Before the next round is sorted: it may repeat an id of this one, which is not recorded yet.
        self.index.settle(round.outcomes());
        // EVENTS has no gaps, so sequences between that are not this round's are commits of others.
        if !self.states.cache.knows_also(appended) {
            self.read_foreign().await?;
        }
        self.observed.observe_cache(&self.states.cache);
        self.states.end_round().await;
        Ok(round)
    }

    /// Others have appended commits among those of the last round: the handler before, whose appends were still on their way, or this
    /// one, when no answer came.
    async fn read_foreign(&mut self) -> Result<(), HandlerError> {
        let follower = self.foreign.insert(StateFollower::new(&self.broker, &self.settings.name));
        follower.catch_up(&mut self.states, &self.ids).await?;
        self.close_foreign().await;
        Ok(())
    }

    /// Gives the consumer of [`Self::read_foreign`] back, if there is one. Its lag would grow, and a standby, which reads under the same
    /// name, might find it taken.
    pub(super) async fn close_foreign(&mut self) {
        if let Some(follower) = self.foreign.take() {
            follower.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use millstream_contract::stored_message::Headers;

    use super::*;

    async fn read(positions: std::ops::Range<u64>) -> ReadAhead {
        let commands = positions.map(|sequence| {
            let subject = "cmdq.3.bank.account.a.open".to_owned();
            let stored_at = Timestamp::UNIX_EPOCH;
            let message =
                StoredMessage { subject, sequence, stored_at, headers: Headers::new(), payload: "{}".into() };
            prepare(message, &AggregateRegistry::new(), InternalCommands::EffectsOnly)
        });
        let memory = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        ReadAhead { commands: commands.collect(), _memory: memory }
    }

    /// How many commands each round takes of reads of these sizes, all of which wait; they are taken in their order.
    async fn rounds_of(reads: &[u64], round_max: usize) -> Vec<usize> {
        let (out, read_in) = mpsc::unbounded_channel();
        let mut last = 0;
        for size in reads {
            out.send(read(last + 1..last + 1 + size).await).ok().unwrap();
            last += size;
        }
        drop(out);
        let mut rounds = Rounds::new(read_in, round_max);
        let (mut sizes, mut taken) = (Vec::new(), Vec::new());
        while let Some(round) = rounds.next().await {
            sizes.push(round.len());
            taken.extend(round.into_iter().map(|command| command.position));
        }
        assert_eq!(taken, (1..=last).collect::<Vec<_>>());
        sizes
    }

    #[tokio::test]
    async fn rounds_of_a_turn_grow_from_small_ones_to_the_most() {
        assert_eq!(rounds_of(&[500; 24], 4096).await, [1000, 2000, 4000, 4000, 1000]);
    }

    #[tokio::test]
    async fn round_takes_no_read_in_part_and_is_never_too_large() {
        assert_eq!(rounds_of(&[600, 600, 900, 600, 700], 1500).await, [600, 1500, 1300]);
    }

    #[tokio::test]
    async fn first_round_is_no_larger_than_configured() {
        assert_eq!(rounds_of(&[3, 3, 3, 1], 3).await, [3, 3, 3, 1]);
        assert_eq!(rounds_of(&[1; 7], 3).await, [3, 3, 1]);
    }
}
