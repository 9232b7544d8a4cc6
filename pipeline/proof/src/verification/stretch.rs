//! Verifies a stretch of COMMANDS while the three streams are read side by side. Memory holds only what lies between a command and its outcome,
//! not the whole stretch.
//!
//! The caller reads OUTCOMES and, before each record, COMMANDS up to the record's `through` and EVENTS up to its `events_through`. At the end
//! it reads the rest of EVENTS, because a second effect may stand anywhere after the first. There is no I/O here. Two checks have limited
//! memory and miss violations that are further apart: repeats of an id, and the chain of an aggregate's commits. [`super::verify`] misses
//! nothing, but needs everything in memory.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use millstream_contract::{
    commit::{StoredCommit, timestamp_to_nanoseconds},
    outcome::{CommandOutcome, ContentMark, Outcome, OutcomeRecord},
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
    subject::StreamId,
};

use super::{
    Check, Violation,
    commits::{Head, check_commit},
    envelope,
    foreign_messages::Strangers,
    journal::{self, Journal},
};

/// Violations that are kept with their sentence; further ones are only counted.
const VIOLATIONS_MAX: usize = 1000;
/// The number of remembered aggregates (with their last commit) and ids (with their first outcome), each about 50 MiB.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(1 << 18).expect("not zero");

/// What was checked and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StretchVerification {
    /// Commands of the stretch.
    pub commands: u64,
    /// Commands whose records precede the first one that was read, so that OUTCOMES has no outcome for them any more.
    pub unjudged: u64,
    /// Commands that are not decided yet.
    pub undecided: u64,
    /// Accepted commands.
    pub accepted: u64,
    /// Rejected commands.
    pub rejected: u64,
    /// Duplicates of earlier commands.
    pub duplicates: u64,
    /// Commands that were set aside.
    pub dead_lettered: u64,
    /// Events that commands of the stretch caused.
    pub events: u64,
    /// The first broken guarantees.
    pub violations: Vec<Violation>,
    /// The number of broken guarantees.
    pub violation_count: u64,
}

/// What a commit says about one command.
#[derive(Debug, Clone)]
struct Effect {
    stream_id: StreamId,
    id: Arc<str>,
    sequence: u64,
    events: u32,
    version: u64,
    /// The commit's time, if it is the time of this command.
    recorded_at: Option<i64>,
}

/// A command that has changed a partner. Its effect on its own aggregate must follow at once.
#[derive(Debug)]
struct Torn {
    position: u64,
    own: Arc<str>,
    /// The last commit that is known to belong to it.
    sequence: u64,
}

/// Checks a stretch, message by message.
#[derive(Debug)]
pub struct StretchVerifier {
    from: u64,
    to: u64,
    whole_events: bool,
    commands_read: u64,
    /// Commands that have no outcome yet, without their bodies, and the marks of what they say.
    open: BTreeMap<u64, (StoredMessage, ContentMark)>,
    /// Effects of commands whose outcome has not been read yet.
    effects: BTreeMap<u64, Effect>,
    journal: Journal,
    heads: LruCache<StreamId, Head>,
    /// With the position of their first use.
    ids: LruCache<Arc<str>, (u64, Option<ContentMark>)>,
    forgot_heads: bool,
    torn: Option<Torn>,
    strangers: Strangers,
    found: StretchVerification,
}

impl StretchVerifier {
    /// A verifier for the commands at `from ..= to`. `whole_events` says that EVENTS is read from its first message on.
    pub fn new(from: u64, to: u64, whole_events: bool) -> Self {
        Self {
            from,
            to,
            whole_events,
            commands_read: 0,
            open: BTreeMap::new(),
            effects: BTreeMap::new(),
            journal: Journal::default(),
            heads: LruCache::new(REMEMBERED_MAX),
            ids: LruCache::new(REMEMBERED_MAX),
            forgot_heads: false,
            torn: None,
            strangers: Strangers::default(),
            found: StretchVerification::default(),
        }
    }

    /// Takes the next message of COMMANDS.
    pub fn command(&mut self, message: &StoredMessage) {
        let position = message.sequence;
        self.commands_read = self.commands_read.max(position);
        if self.in_stretch(position) {
            self.found.commands += 1;
            let payload = bytes::Bytes::new();
            let bare = StoredMessage { payload, ..message.clone() };
            self.open.insert(position, (bare, journal::said(message)));
        }
    }

    /// Takes the next message of EVENTS.
    pub fn commit(&mut self, message: &StoredMessage) {
        let mut violations = Vec::new();
        match StoredCommit::from_stored(message) {
            Ok(stored) => {
                self.strangers.look(message);
                self.chain(&stored, &mut violations);
                self.join(&stored, &mut violations);
                self.take_effects(&stored, &mut violations);
            }
            Err(error) => {
                if let Ok(stream_id) = StreamId::from_event_subject(&message.subject)
                    && let Some(mut head) = self.take_head(&stream_id)
                {
                    head.pass_over(message);
                    self.put_head(stream_id, head);
                }
                self.strangers.meet(message, &error);
            }
        }
        self.report(violations);
    }

    /// Reads a message of OUTCOMES, which is then to be judged; `None` if it is not a record.
    pub fn record(&mut self, message: &StoredMessage) -> Option<OutcomeRecord> {
        match OutcomeRecord::from_stored(message) {
            Ok(record) => Some(record),
            Err(error) => {
                let detail = millstream_contract::error_text::one_line(&error);
                self.report(vec![Violation::new(Check::Whole, OUTCOMES, message.sequence, detail)]);
                None
            }
        }
    }

    /// Judges the record in `message`. COMMANDS must have been read up to its `through` and EVENTS up to its `events_through`, as far as they
    /// exist.
    pub fn judge(&mut self, message: &StoredMessage, record: OutcomeRecord) {
        let mut violations = Vec::new();
        if self.journal.is_empty() {
            self.begin(record.after);
        }
        self.journal.chain(message.sequence, &record, &mut violations);
        let mut last = record.after;
        for line in &record.outcomes {
            if line.position <= last || line.position > record.through {
                let (position, after, through) = (line.position, record.after, record.through);
                let detail = format!(
                    "the line of position {position} comes after {last} in a record of {after}+1..={through}"
                );
                violations.push(Violation::new(Check::OneOutcome, OUTCOMES, message.sequence, detail));
            }
            last = last.max(line.position);
            if self.in_stretch(line.position) {
                self.judge_line(line, &mut violations);
            }
        }
        self.close(record.through, &mut violations);
        self.report(violations);
    }

    /// The result, after all three streams have been read to their ends.
    pub fn finish(mut self) -> StretchVerification {
        let strangers = std::mem::take(&mut self.strangers).violations();
        let left = strangers.chain(self.torn.take().iter().map(Torn::violation)).collect();
        self.report(left);
        self.found.undecided = self.open.len() as u64;
        self.found
    }

    fn in_stretch(&self, position: u64) -> bool {
        (self.from..=self.to).contains(&position)
    }

    fn report(&mut self, violations: Vec<Violation>) {
        self.found.violation_count += violations.len() as u64;
        let room = VIOLATIONS_MAX.saturating_sub(self.found.violations.len());
        self.found.violations.extend(violations.into_iter().take(room));
    }

    /// What was covered before the first record is not judged.
    fn begin(&mut self, after: u64) {
        let judged = self.open.split_off(&(after.saturating_add(1)));
        self.found.unjudged += self.open.len() as u64;
        self.open = judged;
        self.effects = self.effects.split_off(&(after.saturating_add(1)));
    }

    /// Checks the chain of the aggregate's commits, if the previous commit is remembered.
    fn chain(&mut self, stored: &StoredCommit, violations: &mut Vec<Violation>) {
        let known = self.take_head(&stored.stream_id);
        let is_known = known.is_some();
        let mut head = known.unwrap_or_default();
        let mut found = Vec::new();
        check_commit(stored, &mut head, &mut found);
        if is_known {
            violations.append(&mut found);
        }
        self.put_head(stored.stream_id.clone(), head);
    }

    /// How far an aggregate's history has come; `None` if its last commit may have been forgotten or not been read.
    fn take_head(&mut self, stream_id: &StreamId) -> Option<Head> {
        let all_known = self.whole_events && !self.forgot_heads;
        self.heads.pop(stream_id).or_else(|| all_known.then(Head::default))
    }

    fn put_head(&mut self, stream_id: StreamId, head: Head) {
        self.forgot_heads |= self.heads.push(stream_id, head).is_some();
    }

    /// The effects of a command on several aggregates stand side by side, the commit of its own aggregate last.
    fn join(&mut self, stored: &StoredCommit, violations: &mut Vec<Violation>) {
        let commands = &stored.commit.commands;
        if let Some(torn) = self.torn.take() {
            let goes_on = stored.broker_sequence == torn.sequence + 1
                && commands.iter().any(|command| {
                    let own = command.partner_of.as_deref().unwrap_or(stored.stream_id.as_str());
                    command.position == torn.position && *own == *torn.own
                });
            if !goes_on {
                violations.push(torn.violation());
            }
        }
        let partner =
            commands.iter().find_map(|command| Some((command.position, command.partner_of.clone()?)));
        self.torn = partner.map(|(position, own)| Torn { position, own, sequence: stored.broker_sequence });
    }

    fn take_effects(&mut self, stored: &StoredCommit, violations: &mut Vec<Violation>) {
        let sequence = stored.broker_sequence;
        let last = stored.commit.last_position();
        for command in &stored.commit.commands {
            let position = command.position;
            if !self.in_stretch(position) || command.partner_of.is_some() {
                continue;
            }
            let judged = position <= self.commands_read && !self.open.contains_key(&position);
            if judged || self.effects.contains_key(&position) {
                let detail = format!(
                    "the command of position {position} takes effect here, and not for the first time or not as its outcome says"
                );
                violations.push(Violation::new(Check::OneEffect, EVENTS, sequence, detail));
                continue;
            }
            let (events, version) = stored
                .envelopes()
                .filter(|envelope| envelope.command.position == position)
                .fold((0, 0), |(events, _), envelope| (events + 1, envelope.aggregate_version));
            let recorded_at = (position == last).then_some(stored.commit.recorded_at);
            let (stream_id, id) = (stored.stream_id.clone(), command.id.clone());
            self.effects.insert(position, Effect { stream_id, id, sequence, events, version, recorded_at });
        }
    }

    fn judge_line(&mut self, line: &CommandOutcome, violations: &mut Vec<Violation>) {
        let position = line.position;
        *match line.outcome {
            Outcome::Accepted { .. } => &mut self.found.accepted,
            Outcome::Rejected { .. } => &mut self.found.rejected,
            Outcome::Duplicate { .. } => &mut self.found.duplicates,
            Outcome::DeadLettered { .. } => &mut self.found.dead_lettered,
        } += 1;
        let effect = self.effects.remove(&position);
        self.found.events += effect.as_ref().map_or(0, |effect| u64::from(effect.events));
        let Some((message, said)) = self.open.remove(&position) else {
            let detail = "there is an outcome for it, but it has one already or is no command";
            violations.push(Violation::new(Check::OneOutcome, COMMANDS, position, detail));
            return;
        };
        journal::check_line(line, &message, said, violations);
        check_effect(line, &message, effect.as_ref(), violations);
        self.check_id(line, violations);
    }

    /// An id takes effect once, and its repeats name the first command.
    fn check_id(&mut self, line: &CommandOutcome, violations: &mut Vec<Violation>) {
        let Some(id) = &line.id else { return };
        let (first, first_said) = self.ids.get(id).copied().unzip();
        let mut report = |check, detail: String| {
            violations.push(Violation::new(check, COMMANDS, line.position, detail));
        };
        match (&line.outcome, first) {
            (Outcome::Duplicate { of, .. }, Some(first)) if *of != first => {
                report(Check::OneOutcome, format!("it repeats {first}, its outcome says {of}"));
            }
            (Outcome::Duplicate { of, other_content, .. }, Some(_)) => {
                let differ = ContentMark::differ(first_said.flatten(), line.content);
                if differ.is_some_and(|differ| differ != *other_content) {
                    let detail =
                        format!("its outcome says other_content {other_content} of the command at {of}");
                    report(Check::OneOutcome, detail);
                }
            }
            (Outcome::Accepted { .. } | Outcome::Rejected { .. }, Some(first)) => {
                report(Check::OneEffect, format!("its id was used at {first} and it was decided again"));
            }
            (Outcome::Accepted { .. } | Outcome::Rejected { .. }, None) => {
                self.ids.put(id.clone(), (line.position, line.content));
            }
            (Outcome::Duplicate { .. } | Outcome::DeadLettered { .. }, _) => {}
        }
    }

    /// Of what is covered, no command may remain without an outcome.
    fn close(&mut self, through: u64, violations: &mut Vec<Violation>) {
        let later = self.open.split_off(&(through.saturating_add(1)));
        for (position, (message, _)) in std::mem::replace(&mut self.open, later) {
            let published = millstream_contract::subject::published_subject(&message.subject);
            let detail = format!("the command on {published} has no outcome");
            violations.push(Violation::new(Check::OneOutcome, COMMANDS, position, detail));
        }
        let later = self.effects.split_off(&(through.saturating_add(1)));
        for (position, effect) in std::mem::replace(&mut self.effects, later) {
            let detail = format!("it names a command at {position} that has no outcome");
            violations.push(Violation::new(Check::OneEffect, EVENTS, effect.sequence, detail));
        }
    }
}

impl Torn {
    fn violation(&self) -> Violation {
        let Self { position, own, sequence } = self;
        let detail = format!(
            "the command of position {position} changes another aggregate here, and what it does to {own} does not follow at once"
        );
        Violation::new(Check::OneEffect, EVENTS, *sequence, detail)
    }
}

/// Whether EVENTS has exactly the effect that the outcome says.
fn check_effect(
    line: &CommandOutcome,
    message: &StoredMessage,
    effect: Option<&Effect>,
    violations: &mut Vec<Violation>,
) {
    let mut report = |check, detail: String| {
        violations.push(Violation::new(check, COMMANDS, line.position, detail));
    };
    let Some(effect) = effect else {
        if let Outcome::Accepted { sequence, events: said @ 1.., .. } = line.outcome {
            let detail = format!("its outcome says {said} events at {EVENTS} {sequence}, there are none");
            report(Check::OneEffect, detail);
        }
        return;
    };
    let Outcome::Accepted { sequence, version, events } = line.outcome else {
        let (kind, sequence) = (line.outcome.kind(), effect.sequence);
        report(
            Check::OneEffect,
            format!("it is {kind} and took effect all the same, at {EVENTS} {sequence}"),
        );
        return;
    };
    if effect.events != events {
        report(Check::OneEffect, format!("its outcome says {events} events, there are {}", effect.events));
    } else if effect.version != version {
        report(Check::Order, format!("its outcome says version {version}, the commit {}", effect.version));
    }
    if effect.sequence != sequence {
        report(
            Check::Order,
            format!("its outcome says {EVENTS} {sequence}, the commit is {}", effect.sequence),
        );
    }
    let same = envelope(message).is_some_and(|command| {
        command.id_or_position() == effect.id && command.address.stream_id == effect.stream_id
    });
    if !same {
        let (id, sequence) = (&effect.id, effect.sequence);
        report(
            Check::OneEffect,
            format!("{EVENTS} {sequence} names {id} at its position, which is another command"),
        );
    }
    let stored_at = timestamp_to_nanoseconds(message.stored_at);
    if effect.recorded_at.is_some_and(|time| time != stored_at) {
        report(Check::Order, format!("{EVENTS} {} is not recorded at its time", effect.sequence));
    }
}
