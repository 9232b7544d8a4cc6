//! Records settled rounds in the outcome journal and answers the senders. One record is under way at a time; what is settled
//! meanwhile gathers in the next.

use std::sync::Arc;

use millstream_contract::{
    command::derived_id,
    outcome::{CommandOutcome, Outcome, OutcomeReply},
    position::Position,
    stored_message::Headers,
    stream_names::EVENTS,
};
use millstream_jetstream::broker::Broker;
use tokio::{sync::mpsc, time::Instant};

use super::{HandlerError, Observed, TurnEnd, file_work::do_file_work};
use crate::{
    id_index::{IdIndex, IdIndexError},
    outcome_journal::OutcomeJournal,
    round::PreparedCommand,
};

/// Bytes of outcomes after which a record is closed: half of nats-server's default `max_payload` of 1 MiB.
const RECORD_BYTES_TARGET: usize = 512 * 1024;

/// A round with its outcomes.
#[derive(Debug)]
pub(super) struct SettledRound {
    outcomes: Vec<CommandOutcome>,
    /// When its first command was taken up.
    begun: Instant,
    /// Reply subjects with the index of their command.
    replies: Vec<(usize, Arc<str>)>,
}

impl SettledRound {
    pub(super) fn new(commands: Vec<PreparedCommand>, outcomes: Vec<Outcome>, begun: Instant) -> Self {
        let mut replies = Vec::new();
        let outcomes = commands.into_iter().zip(outcomes).enumerate().map(|(index, (command, outcome))| {
            if let Some(reply) = command.reply {
                replies.push((index, reply));
            }
            CommandOutcome { position: command.position, id: command.id, address: command.address, outcome }
        });
        Self { outcomes: outcomes.collect(), begun, replies }
    }

    pub(super) fn outcomes(&self) -> &[CommandOutcome] {
        &self.outcomes
    }

    /// The last sequence of EVENTS that an outcome names; 0 for none.
    pub(super) fn events_through(&self) -> u64 {
        self.outcomes.iter().filter_map(|outcome| accepted_position(&outcome.outcome)).max().unwrap_or(0)
    }

    fn join(&mut self, other: Self) {
        let offset = self.outcomes.len();
        self.outcomes.extend(other.outcomes);
        self.replies.extend(other.replies.into_iter().map(|(index, reply)| (index + offset, reply)));
    }

    /// Cuts off what fits into one record.
    fn cut(&mut self) -> Self {
        let mut bytes = 0;
        let count = self
            .outcomes
            .iter()
            .position(|outcome| {
                bytes += estimated_bytes(outcome);
                bytes > RECORD_BYTES_TARGET
            })
            .map_or(self.outcomes.len(), |count| count.max(1));
        let rest = self.outcomes.split_off(count);
        let (now, later) =
            std::mem::take(&mut self.replies).into_iter().partition(|(index, _)| *index < count);
        let later: Vec<(usize, Arc<str>)> = later;
        self.replies = later.into_iter().map(|(index, reply)| (index - count, reply)).collect();
        Self { outcomes: std::mem::replace(&mut self.outcomes, rest), begun: self.begun, replies: now }
    }
}

fn estimated_bytes(outcome: &CommandOutcome) -> usize {
    let text = match outcome.outcome.first() {
        Outcome::Rejected { code, message } | Outcome::DeadLettered { code, message } => {
            code.len() + message.len()
        }
        _ => 0,
    };
    64 + outcome.address.len() + outcome.id.as_deref().map_or(0, str::len) + text
}

/// Writes to the journal.
pub(super) struct Recorder<B> {
    broker: B,
    journal: OutcomeJournal<B>,
    index: Arc<IdIndex>,
    observed: Observed,
}

impl<B: Broker> Recorder<B> {
    pub(super) fn new(
        broker: B,
        journal: OutcomeJournal<B>,
        index: Arc<IdIndex>,
        observed: Observed,
    ) -> Self {
        Self { broker, journal, index, observed }
    }

    /// Records until no more rounds come.
    pub(super) async fn run(mut self, mut rounds: mpsc::Receiver<SettledRound>) -> Result<(), TurnEnd> {
        while let Some(round) = rounds.recv().await {
            self.record_all(round, &mut rounds).await?;
        }
        Ok(())
    }

    /// Records a round with all that gathers meanwhile.
    async fn record_all(
        &mut self,
        mut gathered: SettledRound,
        rounds: &mut mpsc::Receiver<SettledRound>,
    ) -> Result<(), HandlerError> {
        while let Ok(more) = rounds.try_recv() {
            gathered.join(more);
        }
        while !gathered.outcomes.is_empty() {
            self.record(gathered.cut()).await?;
        }
        Ok(())
    }

    async fn record(&mut self, round: SettledRound) -> Result<(), HandlerError> {
        let Some(through) = round.outcomes.last().map(|outcome| outcome.position) else { return Ok(()) };
        let events_through = round.events_through();
        let (record, sequence) = self.journal.record(through, events_through, round.outcomes).await?;
        self.index.note_own(&record, sequence);
        self.observed.metrics.round_seconds.observe(round.begun.elapsed().as_secs_f64());
        self.count(&record.outcomes);
        for (index, reply) in round.replies {
            if let Some(outcome) = record.outcomes.get(index) {
                self.answer(&reply, outcome).await;
            }
        }
        if self.index.flush_due() {
            flush(&self.index).await?;
        }
        Ok(())
    }

    fn count(&self, outcomes: &[CommandOutcome]) {
        let metrics = &self.observed.metrics;
        for outcome in outcomes {
            match &outcome.outcome {
                Outcome::Accepted { events, .. } => {
                    metrics.accepted.inc();
                    metrics.events.inc_by(u64::from(*events));
                }
                Outcome::Rejected { .. } => {
                    metrics.rejected.inc();
                }
                Outcome::Duplicate { .. } => {
                    metrics.duplicate.inc();
                }
                Outcome::DeadLettered { code, message } => {
                    metrics.dead_lettered.inc();
                    self.observed.dead_letters.inc();
                    tracing::warn!(
                        position = outcome.position,
                        subject = outcome.subject(),
                        %code,
                        %message,
                        "command set aside"
                    );
                }
            }
        }
    }

    /// Best effort: whoever misses the answer finds the outcome in OUTCOMES.
    async fn answer(&self, reply: &str, outcome: &CommandOutcome) {
        let generation = self.journal.generations().events.as_ref();
        let body = OutcomeReply {
            command_id: outcome.id.clone().unwrap_or_else(|| derived_id(outcome.position).into()),
            command_position: outcome.position,
            query_position: accepted_position(outcome.outcome.first())
                .map(|sequence| Position::new(EVENTS, generation, sequence).to_string()),
            outcome: outcome.outcome.clone(),
        };
        let body = serde_json::to_vec(&body).expect("a reply holds only numbers and text");
        let sent = self.broker.send(reply, Headers::new(), body.into()).await;
        if let Err(error) = sent {
            tracing::debug!(reply, %error, "the answer could not be sent");
        }
    }
}

/// Writes the id index, away from the async threads.
pub(super) async fn flush(index: &Arc<IdIndex>) -> Result<(), IdIndexError> {
    let index = index.clone();
    // Without an answer the runtime is shutting down, and the index is read again from the outcomes.
    do_file_work(move || index.flush()).await.unwrap_or(Ok(()))
}

fn accepted_position(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Accepted { position, .. } => Some(*position),
        _ => None,
    }
}
