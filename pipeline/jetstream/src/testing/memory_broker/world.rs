//! What all connections to one twin share: streams, consumers, leases, the dice and the trace.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use millstream_contract::{
    stored_message::StoredMessage,
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES, REPORTS, TIMERS},
    testing::dice::Dice,
};

use super::{
    connection::Connection,
    recording::Recording,
    stream::{MemoryStream, MemoryStreamConfig},
};
use crate::{
    broker::{AppendError, Appended, BrokerError, NewMessage, StreamState},
    testing::{fault_plan::FaultPlan, operation::Operation},
};

/// How many lines of the trace are kept for people.
const TRACE_LINES_MAX: usize = 2_000;
/// The virtual time at which every simulation starts.
pub const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// Messages that a process has sent to a stream.
#[derive(Debug, Clone)]
pub(super) enum Sent {
    Single(NewMessage),
    Batch(Vec<NewMessage>),
}

impl Sent {
    pub(super) fn messages(&self) -> &[NewMessage] {
        match self {
            Self::Single(message) => std::slice::from_ref(message),
            Self::Batch(batch) => batch,
        }
    }

    pub(super) fn subject(&self) -> String {
        self.messages().first().map(|message| message.subject.clone()).unwrap_or_default()
    }
}

/// What will happen to an append.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    /// When it arrives; `None` if it is lost.
    pub(super) arrives: Option<Duration>,
    /// When it arrives for a second time.
    pub(super) again: Option<Duration>,
    /// How long its answer travels; `None` if it is lost.
    pub(super) answer: Option<Duration>,
    /// When its sender stops waiting.
    pub(super) patience: Duration,
}

/// How often each fault happened. A simulation without any fault would prove nothing.
pub type FaultCounts = BTreeMap<&'static str, u64>;

/// A consumer on the server.
pub(super) struct Consumer {
    /// The reader that made it.
    pub(super) reader: u64,
    /// Can be upgraded as long as that reader exists.
    pub(super) alive: Weak<()>,
    /// The reader's process.
    pub(super) connection: Arc<Connection>,
}

impl Consumer {
    /// Whether its reader still asks for messages.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.strong_count() > 0 && !self.connection.is_killed()
    }
}

/// A lease that somebody has taken.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) owner: String,
    pub(super) until: Timestamp,
    pub(super) connection: Arc<Connection>,
}

impl Lease {
    /// Whether it has not lapsed and its holder was not killed.
    pub(super) fn is_held(&self, now: Timestamp) -> bool {
        self.until > now && !self.connection.is_killed()
    }
}

pub(super) struct World {
    pub(super) plan: FaultPlan,
    pub(super) dice: Dice,
    pub(super) streams: BTreeMap<String, MemoryStream>,
    /// Who made each consumer, by stream and name. Consumers are in the server's memory, so a restart removes them.
    pub(super) consumers: BTreeMap<(String, String), Consumer>,
    pub(super) readers: u64,
    pub(super) leases: BTreeMap<String, Lease>,
    pub(super) sent: Vec<StoredMessage>,
    pub(super) faults: FaultCounts,
    pub(super) recording: Option<Recording>,
    started: tokio::time::Instant,
    trace_hash: u64,
    trace: VecDeque<String>,
    keep_trace: bool,
}

impl World {
    pub(super) fn new(seed: u64, plan: FaultPlan, keep_trace: bool) -> Self {
        let mut world = Self {
            plan,
            dice: Dice::new(seed),
            streams: BTreeMap::new(),
            consumers: BTreeMap::new(),
            readers: 0,
            leases: BTreeMap::new(),
            sent: Vec::new(),
            faults: FaultCounts::new(),
            recording: None,
            started: tokio::time::Instant::now(),
            trace_hash: 0xcbf2_9ce4_8422_2325,
            trace: VecDeque::new(),
            keep_trace,
        };
        world.make_stream(MemoryStreamConfig {
            queues_commands: true,
            ..MemoryStreamConfig::new(COMMANDS, &["cmd.*.*.*.*", "effect.*.*.*.*"])
        });
        world.make_stream(MemoryStreamConfig::new(EVENTS, &["evt.*.*.*"]));
        world.make_stream(MemoryStreamConfig::new(OUTCOMES, &["out.*"]));
        world.make_stream(MemoryStreamConfig::new(DEAD_LETTERS, &["dlq.*.*"]));
        world.make_stream(MemoryStreamConfig::new(REPORTS, &["report.>"]));
        world.make_stream(MemoryStreamConfig::new(TIMERS, &["timer.>", "due.>"]));
        world
    }

    pub(super) fn make_stream(&mut self, config: MemoryStreamConfig) {
        let generation = format!("G{:025}", self.dice.below(1 << 60));
        self.streams.insert(config.name.clone(), MemoryStream::new(config, generation));
    }

    pub(super) fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        EPOCH + elapsed
    }

    pub(super) fn after(&self, time: Duration) -> Timestamp {
        self.now() + SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
    }

    pub(super) fn latency(&mut self) -> Duration {
        self.dice.time(self.plan.latency_max)
    }

    /// Whether a fault with this `probability` happens; it is counted under `name`.
    pub(super) fn strikes(&mut self, name: &'static str, probability: f64) -> bool {
        let strikes = self.dice.chance(probability);
        if strikes {
            *self.faults.entry(name).or_default() += 1;
            self.trace(format_args!("fault: {name}"));
        }
        strikes
    }

    /// Lets the stream lose its leader or fill up, according to the plan.
    pub(super) fn disturb(&mut self, stream: &str) {
        let plan = self.plan.clone();
        if self.strikes("leader lost", plan.leader_lost) {
            let time = self.dice.time(plan.leader_loss_max);
            let until = self.after(time);
            if let Some(stream) = self.streams.get_mut(stream) {
                stream.leaderless_until = Some(until);
            }
        }
        if stream != COMMANDS && self.strikes("stream full", plan.stream_full) {
            let time = self.dice.time(plan.full_max);
            let until = self.after(time);
            if let Some(stream) = self.streams.get_mut(stream) {
                stream.full_until = Some(until);
            }
        }
    }

    /// Decides what will happen to an append.
    pub(super) fn launch(&mut self, stream: &str) -> Flight {
        self.disturb(stream);
        let plan = self.plan.clone();
        let mut flight = Flight {
            arrives: Some(self.latency()),
            again: None,
            answer: Some(self.latency()),
            patience: plan.answer_timeout,
        };
        if self.strikes("append delayed", plan.append_delayed) {
            flight.arrives = Some(self.dice.time(plan.delay_max));
        }
        if self.strikes("append lost", plan.append_lost) {
            flight.arrives = None;
            flight.patience = self.dice.time(plan.answer_timeout);
        }
        if self.strikes("append answer lost", plan.append_answer_lost) {
            flight.answer = None;
        }
        if self.strikes("append late", plan.append_late) {
            flight.patience = self.dice.time(plan.answer_timeout);
            flight.arrives = flight.arrives.map(|time| time + self.dice.time(plan.late_max));
        }
        if stream == COMMANDS && self.strikes("command doubled", plan.command_doubled) {
            flight.again = Some(self.dice.time(plan.double_max));
        }
        flight
    }

    /// The server's work when a message arrives.
    pub(super) fn arrive(&mut self, stream: &str, sent: &Sent) -> Result<Appended, AppendError> {
        let now = self.now();
        let message_id_first = self.plan.message_id_first;
        let subject = sent.subject();
        // A message that no stream accepts gets the same answer as one without a leader: no responders.
        let unclear = || AppendError::Unclear { subject: subject.clone(), detail: "no responders".into() };
        let result = match self.streams.get_mut(stream) {
            Some(found) if found.has_leader(now) => match sent {
                Sent::Single(message) => found.append(message, now, message_id_first),
                Sent::Batch(batch) => found.append_atomically(batch, now),
            },
            _ => Err(unclear()),
        };
        let answered = self.streams.get(stream).is_some_and(|found| found.has_leader(now));
        if let Some(recording) = self.recording.as_mut().filter(|_| answered) {
            recording.note_append(stream, sent, &result);
        }
        let answer = match &result {
            Ok(appended) => format!("{appended:?}"),
            Err(error) => error.to_string(),
        };
        for NewMessage { subject, expected_last, payload, .. } in sent.messages() {
            let length = payload.len();
            self.trace(format_args!("{stream} {subject} expecting {expected_last:?}, {length} B: {answer}"));
        }
        result
    }

    /// The stream as its leader sees it.
    pub(super) fn leader(
        &mut self,
        stream: &str,
        operation: &'static str,
    ) -> Result<&MemoryStream, BrokerError> {
        self.disturb(stream);
        let probability = self.plan.read_unanswered;
        if self.strikes("read unanswered", probability) {
            return Err(BrokerError::Unavailable { operation, detail: "no answer in time".into() });
        }
        let now = self.now();
        let found = self
            .streams
            .get(stream)
            .ok_or_else(|| BrokerError::StreamMissing { stream: stream.to_owned() })?;
        if !found.has_leader(now) {
            return Err(BrokerError::Unavailable { operation, detail: "no leader".into() });
        }
        Ok(found)
    }

    /// The last sequence that the next answering replica knows.
    pub(super) fn replica_end(&mut self, stream: &str) -> u64 {
        let last = self.streams.get(stream).map_or(0, |found| found.state().last_sequence);
        let probability = self.plan.load_stale;
        if !self.strikes("load stale", probability) {
            return last;
        }
        // Usually it is slightly behind, sometimes far.
        let longest = if self.dice.chance(0.7) { last.min(4) } else { last };
        last - self.dice.between(0, longest)
    }

    /// Removes part of the end from a state, as a leader reports it that has not caught up yet. Returns whether nothing was removed.
    pub(super) fn state_end(&mut self, state: &mut StreamState) -> bool {
        let probability = self.plan.state_stale;
        if !self.strikes("state stale", probability) {
            return true;
        }
        state.last_sequence -= self.dice.between(0, state.last_sequence.min(4));
        false
    }

    /// Records a question that was answered as a real server would.
    pub(super) fn record(&mut self, asked: impl FnOnce() -> (Operation, String)) {
        if let Some(recording) = &mut self.recording {
            let (operation, answer) = asked();
            recording.note(operation, answer);
        }
    }

    /// Adds a line to the trace.
    pub(super) fn trace(&mut self, line: fmt::Arguments<'_>) {
        let line = format!("{:>9} ms  {line}", self.started.elapsed().as_millis());
        for byte in line.bytes() {
            self.trace_hash = (self.trace_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.keep_trace {
            if self.trace.len() == TRACE_LINES_MAX {
                self.trace.pop_front();
            }
            self.trace.push_back(line);
        }
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace_hash
    }

    pub(super) fn trace_lines(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }
}
