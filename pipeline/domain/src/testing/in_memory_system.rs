//! A whole system in memory, without a broker. Commands are decided one after the other. Their events go to process managers, whose
//! commands are decided in turn, and timers fire when the test moves the time on. It is for tests of models, and for seeing a context work
//! before anything runs.
//!
//! It keeps these properties of the real system: COMMANDS is one ordered queue; a command id takes effect once; each process reads EVENTS
//! in order and at its own pace; the engine makes the ids of processes' commands. By default, all consequences of a command happen before
//! the next command; with [`InMemorySystem::hesitant`], processes lag behind at random instead. It leaves out rounds, crashes, and outcomes
//! as a stream. Projections are folded from [`InMemorySystem::history`] (`testing::project`).

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use millstream_contract::{
    command::{BodyFormat, CommandEnvelope, derived_id},
    commit::{CommittedCommand, RecordedEvent, StoredCommit},
    subject::{CommandAddress, Origin, StreamId},
    testing::dice::Dice,
};

use super::{declared::assert_declared, memory_rows::MemoryRows, project::History};
use crate::{
    decider::{
        AggregateRegistry, AggregateType, DecisionContext, DecisionError, PlainStates, Rejection,
        check_origin,
    },
    process::{IssuedCommand, IssuedEffect, Process, react},
};

/// A command on its way.
#[derive(Debug, Clone)]
struct Waiting {
    id: Option<String>,
    origin: Origin,
    address: CommandAddress,
    body: Vec<u8>,
    actor: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    traceparent: Option<String>,
}

/// A command that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// What was asked, `<context>.<aggregate>.<id>.<command>`.
    pub address: String,
    /// Who asked.
    pub actor: Option<String>,
    /// Why it was refused.
    pub rejection: Rejection,
}

/// A process and how far it has read.
struct Seat {
    process: Box<dyn Process>,
    rows: MemoryRows,
    /// Commits read.
    read: usize,
    issued: Vec<IssuedEffect>,
}

/// A timer that is set.
struct Pending {
    at: Timestamp,
    /// Of several timers for the same moment, the one that was set first fires first.
    order: u64,
    command: IssuedCommand,
}

/// The system.
pub struct InMemorySystem {
    registry: AggregateRegistry,
    states: PlainStates,
    history: History,
    seats: Vec<Seat>,
    queue: VecDeque<Waiting>,
    outcomes: HashMap<String, Result<usize, Rejection>>,
    refused: Vec<Refused>,
    repeated: u64,
    timers: BTreeMap<String, Pending>,
    timers_set: u64,
    timers_fired: u64,
    position: u64,
    now: Timestamp,
    hesitation: Option<Dice>,
}

impl InMemorySystem {
    /// A system without a past, at noon UTC on 2012-01-31.
    pub fn new(registry: AggregateRegistry, processes: Vec<Box<dyn Process>>) -> Self {
        let seat = |process| Seat { process, rows: MemoryRows::new(), read: 0, issued: Vec::new() };
        Self {
            registry,
            states: PlainStates::default(),
            history: History::new("any"),
            seats: processes.into_iter().map(seat).collect(),
            queue: VecDeque::new(),
            outcomes: HashMap::new(),
            refused: Vec::new(),
            repeated: 0,
            timers: BTreeMap::new(),
            timers_set: 0,
            timers_fired: 0,
            position: 0,
            now: "2012-01-31T12:00:00Z".parse().expect("it is a time"),
            hesitation: None,
        }
    }

    /// Lets processes lag behind at random: after each command of a person, only some of the possible steps happen. [`Self::settle`] makes
    /// the rest happen.
    #[must_use]
    pub fn hesitant(mut self, dice: Dice) -> Self {
        self.hesitation = Some(dice);
        self
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Moves the time on, and fires the timers that fall due on the way, each at its own time. Time never goes back.
    pub fn advance_to(&mut self, time: Timestamp) {
        loop {
            self.settle();
            let Some(name) = self.next_timer(time) else { break };
            let Some(pending) = self.timers.remove(&name) else { break };
            self.now = self.now.max(pending.at);
            self.fire(pending);
        }
        self.now = self.now.max(time);
    }

    /// Decides a command as a person types it, and lets its consequences happen: `address` is `<context>.<aggregate>.<id>.<command>`. A
    /// command that only processes may give is refused. Returns the number of the command's own events.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When the address or the body is malformed, the model panics, or it refuses with a code that it does not declare.
    pub fn send(&mut self, address: &str, body: &str) -> Result<usize, Rejection> {
        self.send_by(None, address, body)
    }

    /// [`Self::send`] on behalf of someone.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn send_by(&mut self, actor: Option<&str>, address: &str, body: &str) -> Result<usize, Rejection> {
        let address = CommandAddress::from_subject(&format!("cmd.{address}"))
            .expect("the test gives an allowed address");
        // Commands that wait were sent before this one.
        while self.decide_next() {}
        let outcome = self.decide(Waiting {
            id: None,
            origin: Origin::Sender,
            address,
            body: body.as_bytes().to_vec(),
            actor: actor.map(str::to_owned),
            correlation_id: None,
            causation_id: None,
            traceparent: None,
        });
        self.let_happen();
        outcome
    }

    /// Lets all outstanding consequences happen without moving the time.
    pub fn settle(&mut self) {
        loop {
            let mut busy = false;
            for seat in 0..self.seats.len() {
                busy |= self.process_next(seat);
            }
            busy |= self.decide_next();
            if !busy {
                match self.next_timer(self.now).and_then(|name| self.timers.remove(&name)) {
                    Some(pending) => self.fire(pending),
                    None => break,
                }
            }
        }
    }

    /// All commits.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Every command that was refused, in order.
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// How many commands were repeated under an id that had been decided.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// The timers that are set: name and time.
    pub fn timers(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.timers.iter().map(|(name, pending)| (name.as_str(), pending.at))
    }

    /// The rows of a process.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn process_rows(&self, process: &str) -> &MemoryRows {
        let seat = self.seats.iter().find(|seat| seat.process.name() == process);
        &seat.unwrap_or_else(|| panic!("there is no process {process}")).rows
    }

    /// Carries out again everything that the processes have asked for so far, as after a crash before the checkpoint. Nothing changes if a
    /// process's commands are repeatable.
    pub fn repeat_all_effects(&mut self) {
        let commands: Vec<_> =
            self.seats.iter().flat_map(|seat| &seat.issued).filter_map(sent).cloned().collect();
        self.queue.extend(commands.into_iter().map(waiting));
        self.settle();
    }

    /// Lets every process read everything again from the start, with no rows, and demands the same rows and the same effects under the same
    /// ids, because both may depend only on the events. It also demands that a process declares every table it writes.
    ///
    /// # Panics
    /// When they differ.
    pub fn assert_processes_repeatable(&self) {
        for seat in &self.seats {
            let name = seat.process.name();
            let (mut rows, mut issued) = (MemoryRows::new(), Vec::new());
            let read = self.history.commits().get(..seat.read).unwrap_or_default();
            for commit in read {
                issued.extend(answers(seat.process.as_ref(), commit, &mut rows));
            }
            assert_eq!(rows.dump(), seat.rows.dump(), "rows of {name}");
            assert_eq!(issued, seat.issued, "effects of {name}");
            for table in rows.tables() {
                assert!(seat.process.tables().contains(&table), "{name} does not declare {table}");
                assert!(table.starts_with(name), "table {table} of {name} could be another process's");
            }
        }
    }

    /// What happens right after a command of a person.
    fn let_happen(&mut self) {
        let Some(mut dice) = self.hesitation.take() else { return self.settle() };
        for _ in 0..dice.below(12) {
            let choices = self.seats.len() + 1;
            let choice = usize::try_from(dice.below(choices as u64)).unwrap_or(0);
            if choice == self.seats.len() {
                self.decide_next();
            } else {
                self.process_next(choice);
            }
        }
        self.hesitation = Some(dice);
    }

    fn next_timer(&self, until: Timestamp) -> Option<String> {
        let due = self.timers.iter().filter(|(_, pending)| pending.at <= until);
        due.min_by_key(|(_, pending)| (pending.at, pending.order)).map(|(name, _)| name.clone())
    }

    fn fire(&mut self, pending: Pending) {
        self.timers_fired += 1;
        let id = format!("timer:{}", self.timers_fired);
        self.queue.push_back(waiting(IssuedCommand { id, ..pending.command }));
    }

    /// Lets a process read its next commit; returns false if it has read all.
    fn process_next(&mut self, seat: usize) -> bool {
        let Some(seat) = self.seats.get_mut(seat) else { return false };
        let Some(commit) = self.history.commits().get(seat.read) else { return false };
        let effects = answers(seat.process.as_ref(), commit, &mut seat.rows);
        seat.read += 1;
        seat.issued.extend(effects.iter().cloned());
        for effect in effects {
            match effect {
                IssuedEffect::Send(command) => self.queue.push_back(waiting(command)),
                IssuedEffect::SetTimer { name, at, command } => {
                    self.timers_set += 1;
                    self.timers.insert(name, Pending { at, order: self.timers_set, command });
                }
                IssuedEffect::CancelTimer { name } => drop(self.timers.remove(&name)),
            }
        }
        true
    }

    /// Decides the next waiting command; returns false if there is none.
    fn decide_next(&mut self) -> bool {
        let Some(command) = self.queue.pop_front() else { return false };
        // The refusal is kept in `refused`; nobody waits for the answer here.
        drop(self.decide(command));
        true
    }

    fn decide(&mut self, command: Waiting) -> Result<usize, Rejection> {
        self.position += 1;
        let id = command.id.clone().unwrap_or_else(|| derived_id(self.position));
        if let Some(first) = self.outcomes.get(&id) {
            self.repeated += 1;
            return first.clone();
        }
        let outcome = self.decide_new(&id, &command);
        if let Err(rejection) = &outcome {
            let aggregate = self.aggregate(&command.address.stream_id);
            let name = Some(&*command.address.command);
            assert_declared(&aggregate.rejections(), aggregate.aggregate(), name, rejection);
            self.refused.push(Refused {
                address: command.address.to_string(),
                actor: command.actor,
                rejection: rejection.clone(),
            });
        }
        self.outcomes.insert(id, outcome.clone());
        outcome
    }

    fn decide_new(&mut self, id: &str, command: &Waiting) -> Result<usize, Rejection> {
        let stream_id = &command.address.stream_id;
        let aggregate = self.aggregate(stream_id);
        let envelope = CommandEnvelope {
            id: Some(id.into()),
            position: self.position,
            stored_at: self.now,
            address: command.address.clone(),
            origin: command.origin,
            format: BodyFormat::Json,
            body: Bytes::copy_from_slice(&command.body),
            actor: command.actor.as_deref().map(Into::into),
            correlation_id: command.correlation_id.as_deref().map(Into::into),
            causation_id: command.causation_id.as_deref().map(Into::into),
            traceparent: command.traceparent.as_deref().map(Into::into),
            expected_version: None,
            reply: None,
        };
        let decoded = aggregate
            .decode_command(&envelope)
            .unwrap_or_else(|error| panic!("{}: {error}", command.address));
        aggregate.check_id(stream_id.id())?;
        check_origin(aggregate.internal_commands(), &command.address, command.origin)?;
        let context = DecisionContext {
            aggregate_id: stream_id.id(),
            now: self.now,
            actor: command.actor.as_deref(),
            command_position: self.position,
            time_zone: aggregate.time_zone(),
        };
        let decided = aggregate.partners(stream_id.id(), &decoded).and_then(|partners| {
            let together = self.states.decide(&aggregate, stream_id, &partners, &decoded, &context)?;
            Ok((partners, together))
        });
        let (partners, together) = match decided {
            Ok(decided) => decided,
            Err(DecisionError::Rejected(rejection)) => return Err(rejection),
            Err(error @ DecisionError::Panicked { .. }) => panic!("{error}"),
        };
        let own_count = together.own.len();
        let of_partners = partners.iter().zip(together.partners);
        let of_partners =
            of_partners.map(|(partner, events)| (partner, Some(stream_id.as_str().into()), events));
        for (changed, partner_of, events) in of_partners.chain([(stream_id, None, together.own)]) {
            if events.is_empty() {
                continue;
            }
            let cause = CommittedCommand {
                id: id.into(),
                position: self.position,
                actor: envelope.actor.clone(),
                correlation_id: envelope.correlation_id.clone(),
                causation_id: envelope.causation_id.clone(),
                traceparent: envelope.traceparent.clone(),
                partner_of,
            };
            let recorded = events.into_iter().map(|event| RecordedEvent {
                event_type: event.event_type.into(),
                schema: event.schema,
                data: event.data,
                command: 0,
            });
            self.history.set_now(self.now).push_caused(changed, cause, recorded.collect());
        }
        Ok(own_count)
    }

    fn aggregate(&self, stream_id: &StreamId) -> Arc<dyn AggregateType> {
        let aggregate = self.registry.get(stream_id.context(), stream_id.aggregate());
        Arc::clone(aggregate.unwrap_or_else(|| panic!("{stream_id} is of no known aggregate")))
    }
}

/// The answers of a process to a commit. Halting is not allowed.
fn answers(process: &dyn Process, commit: &StoredCommit, rows: &mut MemoryRows) -> Vec<IssuedEffect> {
    if !process.handles(commit.stream_id.context(), commit.stream_id.aggregate()) {
        return Vec::new();
    }
    let answer = |envelope| {
        react(process, &envelope, rows)
            .unwrap_or_else(|error| panic!("{} halts at {envelope:?}: {error}", process.name()))
    };
    commit.envelopes().flat_map(answer).collect()
}

fn sent(effect: &IssuedEffect) -> Option<&IssuedCommand> {
    match effect {
        IssuedEffect::Send(command) => Some(command),
        IssuedEffect::SetTimer { .. } | IssuedEffect::CancelTimer { .. } => None,
    }
}

fn waiting(command: IssuedCommand) -> Waiting {
    Waiting {
        id: Some(command.id),
        origin: Origin::Effect,
        address: command.command.address,
        body: command.command.body,
        actor: Some(command.actor),
        correlation_id: Some(command.correlation_id),
        causation_id: Some(command.causation_id),
        traceparent: command.traceparent,
    }
}
