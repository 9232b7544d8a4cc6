//! Records settled rounds in the outcome journal and answers the senders.
//!
//! One record is in flight at a time, and what is settled meanwhile gathers in the next. So the slower the server syncs, the
//! more outcomes share one record.

use std::{collections::BTreeMap, sync::Arc};

use millstream_contract::{
    command::{derived_id, issuer},
    outcome::{CommandOutcome, Outcome, OutcomeReply},
    stored_message::Headers,
};
use millstream_jetstream::broker::Broker;
use tokio::{sync::mpsc, time::Instant};

use super::{HandlerError, Observed, TurnEnd, id_flush::IdFlush, loss_watch::Known};
use crate::{
    id_index::IdIndex,
    outcome_journal::{JournalError, OutcomeJournal},
    round::PreparedCommand,
};

/// A record is closed when it takes half of what the server takes in one message.
const RECORDS_A_MESSAGE: usize = 2;

/// Under which name log lines about rejections are filtered.
const REJECTIONS_TARGET: &str = "millstream::rejections";

/// A round with its outcomes.
#[derive(Debug)]
pub(super) struct SettledRound {
    outcomes: Vec<CommandOutcome>,
    /// When the handler began to decide it.
    begun: Instant,
    /// Reply subjects, each with the index of its command.
    replies: Vec<(usize, Arc<str>)>,
    /// Who sent the commands that were set aside, by position.
    set_aside_actors: BTreeMap<u64, Arc<str>>,
}

impl SettledRound {
    pub(super) fn new(commands: Vec<PreparedCommand>, outcomes: Vec<Outcome>, begun: Instant) -> Self {
        let mut replies = Vec::new();
        let mut set_aside_actors = BTreeMap::new();
        let outcomes = commands.into_iter().zip(outcomes).enumerate().map(|(index, (command, outcome))| {
            if let (Outcome::DeadLettered { .. }, Some(actor)) = (&outcome, command.actor()) {
                set_aside_actors.insert(command.position, actor);
            }
            if let Some(reply) = command.reply {
                replies.push((index, reply));
            }
            let PreparedCommand { position, id, content, address, .. } = command;
            CommandOutcome { position, id, address, outcome, content }
        });
        let outcomes = outcomes.collect();
        Self { outcomes, begun, replies, set_aside_actors }
    }

    pub(super) fn outcomes(&self) -> &[CommandOutcome] {
        &self.outcomes
    }

    /// The last sequence of EVENTS that an outcome names, or 0.
    pub(super) fn events_through(&self) -> u64 {
        self.outcomes.iter().filter_map(|outcome| accepted_sequence(&outcome.outcome)).max().unwrap_or(0)
    }

    fn join(&mut self, other: Self) {
        let offset = self.outcomes.len();
        self.outcomes.extend(other.outcomes);
        self.replies.extend(other.replies.into_iter().map(|(index, reply)| (index + offset, reply)));
        self.set_aside_actors.extend(other.set_aside_actors);
    }

    /// Cuts off what fits into one record of `size` bytes; at least one outcome.
    fn cut(&mut self, size: usize) -> Self {
        let mut bytes = 0;
        let count = self
            .outcomes
            .iter()
            .position(|outcome| {
                bytes += estimated_bytes(outcome);
                bytes > size
            })
            .map_or(self.outcomes.len(), |count| count.max(1));
        self.cut_at(count)
    }

    /// Cuts off the first `count` outcomes.
    fn cut_at(&mut self, count: usize) -> Self {
        let rest = self.outcomes.split_off(count);
        let (now, later) =
            std::mem::take(&mut self.replies).into_iter().partition(|(index, _)| *index < count);
        let later: Vec<(usize, Arc<str>)> = later;
        self.replies = later.into_iter().map(|(index, reply)| (index - count, reply)).collect();
        let outcomes = std::mem::replace(&mut self.outcomes, rest);
        let beyond = outcomes.last().map_or(0, |outcome| outcome.position).saturating_add(1);
        let later_actors = self.set_aside_actors.split_off(&beyond);
        let set_aside_actors = std::mem::replace(&mut self.set_aside_actors, later_actors);
        Self { outcomes, begun: self.begun, replies: now, set_aside_actors }
    }
}

fn estimated_bytes(outcome: &CommandOutcome) -> usize {
    let text = match outcome.outcome.first() {
        Outcome::Rejected { code, message } | Outcome::DeadLettered { code, message } => {
            code.len() + message.len()
        }
        _ => 0,
    };
    80 + outcome.address.len() + outcome.id.as_deref().map_or(0, str::len) + text
}

/// The recording loop.
pub(super) struct Recorder<B> {
    broker: B,
    journal: OutcomeJournal<B>,
    index: Arc<IdIndex>,
    known: Known,
    observed: Observed,
    flush: IdFlush,
}

impl<B: Broker> Recorder<B> {
    pub(super) fn new(
        broker: B,
        journal: OutcomeJournal<B>,
        index: Arc<IdIndex>,
        known: Known,
        observed: Observed,
    ) -> Self {
        Self { broker, journal, index, known, observed, flush: IdFlush::default() }
    }

    /// Records until no more rounds come.
    pub(super) async fn run(mut self, mut rounds: mpsc::Receiver<SettledRound>) -> Result<(), TurnEnd> {
        while let Some(round) = rounds.recv().await {
            self.record_all(round, &mut rounds).await?;
        }
        Ok(())
    }

    /// Records a round together with all rounds that already wait.
    async fn record_all(
        &mut self,
        mut gathered: SettledRound,
        rounds: &mut mpsc::Receiver<SettledRound>,
    ) -> Result<(), HandlerError> {
        while let Ok(more) = rounds.try_recv() {
            gathered.join(more);
        }
        while !gathered.outcomes.is_empty() {
            let size = self.broker.message_bytes_max() / RECORDS_A_MESSAGE;
            self.record_halved(gathered.cut(size)).await?;
        }
        Ok(())
    }

    /// Records what fits by estimation; half of it where the server says that it does not.
    async fn record_halved(&mut self, round: SettledRound) -> Result<(), HandlerError> {
        let mut parts = vec![round];
        while let Some(mut part) = parts.pop() {
            let count = part.outcomes.len();
            match self.record(&mut part).await {
                Err(HandlerError::Journal(JournalError::Refused { detail, .. })) if count > 1 => {
                    tracing::warn!(outcomes = count, detail, "the record is refused; half of it is tried");
                    let first = part.cut_at(count / 2);
                    parts.extend([part, first]);
                }
                recorded => recorded?,
            }
        }
        Ok(())
    }

    async fn record(&mut self, round: &mut SettledRound) -> Result<(), HandlerError> {
        let Some(through) = round.outcomes.last().map(|outcome| outcome.position) else { return Ok(()) };
        let events_through = round.events_through();
        let (record, sequence) = self.journal.record(through, events_through, &mut round.outcomes).await?;
        self.index.note_own(&record, sequence);
        self.known.recorded(through, sequence);
        self.observed.progress.commands.reached(through);
        self.observed.reader.reached(through, record.outcomes.len() as u64);
        self.observed.metrics.round_seconds.observe(round.begun.elapsed().as_secs_f64());
        for outcome in &record.outcomes {
            self.count(outcome);
            log(outcome, round.set_aside_actors.get(&outcome.position).map_or("", |actor| actor));
        }
        for (index, reply) in std::mem::take(&mut round.replies) {
            if let Some(outcome) = record.outcomes.get(index) {
                self.answer(&reply, outcome).await;
            }
        }
        Ok(self.flush.keep_up(&self.index, false).await?)
    }

    fn count(&self, outcome: &CommandOutcome) {
        let metrics = &self.observed.metrics;
        match &outcome.outcome {
            Outcome::Accepted { events, .. } => {
                metrics.accepted.inc();
                metrics.events.inc_by(u64::from(*events));
            }
            Outcome::Rejected { code, .. } => {
                metrics.rejected.inc();
                if let Some(process) = outcome.id.as_deref().and_then(issuer) {
                    self.observed.process_rejections.count(process, code);
                }
            }
            Outcome::Duplicate { .. } => {
                metrics.duplicate.inc();
            }
            Outcome::DeadLettered { .. } => {
                metrics.dead_lettered.inc();
                self.observed.dead_letters.inc();
            }
        }
    }

    /// Sends a reply, once. A sender that misses it finds the outcome in OUTCOMES and in the view `command`.
    async fn answer(&self, reply: &str, outcome: &CommandOutcome) {
        let generation = self.journal.generations().events.as_ref();
        let body = OutcomeReply {
            command_id: outcome.id.clone().unwrap_or_else(|| derived_id(outcome.position).into()),
            command_position: outcome.position,
            query_position: outcome.outcome.query_position(generation),
            outcome: outcome.outcome.clone(),
        };
        let body = serde_json::to_vec(&body).expect("a reply holds only numbers and text");
        let sent = self.broker.send(reply, Headers::new(), body.into()).await;
        if let Err(error) = sent {
            tracing::debug!(reply, %error, "the answer could not be sent");
        }
    }
}

/// A line for each command once its outcome is recorded: at debug for whoever follows single commands, at info under a
/// target of its own for rejections, which `telemetry.filter` leaves out unless it is asked for, and always for a command that
/// was set aside and for one of a process that was rejected.
fn log(outcome: &CommandOutcome, actor: &str) {
    let CommandOutcome { position, id, outcome: what, .. } = outcome;
    let id = id.as_deref().unwrap_or_default();
    match what {
        Outcome::Accepted { version, events, .. } => {
            tracing::debug!(
                position,
                command_id = id,
                subject = outcome.subject(),
                version,
                events,
                "command accepted"
            );
        }
        // Nobody waits for the answer to the command of a process.
        Outcome::Rejected { code, message } if issuer(id).is_some() => tracing::warn!(
            position,
            command_id = id,
            subject = outcome.subject(),
            %code,
            %message,
            "command of a process rejected"
        ),
        Outcome::Rejected { code, message } => tracing::info!(
            target: REJECTIONS_TARGET,
            position,
            command_id = id,
            subject = outcome.subject(),
            %code,
            %message,
            "command rejected"
        ),
        Outcome::Duplicate { .. } => {
            tracing::debug!(position, command_id = id, subject = outcome.subject(), "command is a duplicate");
        }
        Outcome::DeadLettered { code, message } => tracing::warn!(
            position,
            command_id = id,
            actor,
            subject = outcome.subject(),
            %code,
            cause = %message,
            "command set aside as a dead letter"
        ),
    }
}

fn accepted_sequence(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Accepted { sequence, .. } => Some(*sequence),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
