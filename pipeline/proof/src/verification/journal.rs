//! Checks the chain of outcome records, and whether it covers COMMANDS.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use millstream_contract::{
    command::{check_id_origin, explicit_id},
    error_text::one_line,
    outcome::{CommandOutcome, ContentMark, Outcome, OutcomeRecord, RecordKind},
    stored_message::StoredMessage,
    stream_names::{COMMANDS, OUTCOMES},
    subject::{Origin, published_subject},
};
use millstream_domain::decider::INTERNAL_COMMAND;

use super::{Check, Violation, given_id, is_refused_for_its_id};

/// The content of the journal.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The first outcome for each position of COMMANDS.
    pub(super) lines: BTreeMap<u64, CommandOutcome>,
    /// How far the chain has come; `None` before its first record.
    chain: Option<Chain>,
}

#[derive(Debug)]
struct Chain {
    /// Positions up to here may have had their outcome in records that were purged.
    after: u64,
    /// Positions up to here have their outcome.
    through: u64,
    events_through: u64,
}

impl Journal {
    pub(super) fn read(outcomes: &[StoredMessage], violations: &mut Vec<Violation>) -> Self {
        let mut journal = Self::default();
        let mut record_ids = BTreeMap::new();
        for message in outcomes {
            let record = match OutcomeRecord::from_stored(message) {
                Ok(record) => record,
                Err(error) => {
                    let detail = one_line(&error);
                    violations.push(Violation::new(Check::Whole, OUTCOMES, message.sequence, detail));
                    continue;
                }
            };
            // A fence may occur twice: if another handler's fence came in between, the same one is appended again.
            if record.kind == RecordKind::Outcomes
                && let Some(first) = record_ids.insert(record.record_id.clone(), message.sequence)
            {
                let detail = format!("the record {} stands at {first} already", record.record_id);
                violations.push(Violation::new(Check::OneOutcome, OUTCOMES, message.sequence, detail));
            }
            journal.chain(message.sequence, &record, violations);
            journal.take_lines(message, record, violations);
        }
        journal
    }

    /// The record must begin where the previous one ended.
    pub(super) fn chain(&mut self, sequence: u64, record: &OutcomeRecord, violations: &mut Vec<Violation>) {
        let mut report = |check, detail: String| {
            violations.push(Violation::new(check, OUTCOMES, sequence, detail));
        };
        let first = Chain { after: record.after, through: record.after, events_through: 0 };
        let chain = self.chain.get_or_insert(first);
        if record.after != chain.through {
            let (after, through) = (record.after, chain.through);
            report(
                Check::OneOutcome,
                format!("it follows position {after}, the record before went to {through}"),
            );
        }
        let moved = record.through != record.after || !record.outcomes.is_empty();
        if record.kind == RecordKind::Fence && moved {
            report(Check::OneOutcome, "a fence covers commands".into());
        }
        if record.through < record.after {
            let (after, through) = (record.after, record.through);
            report(Check::OneOutcome, format!("it goes from {after} back to {through}"));
        }
        if record.events_through < chain.events_through {
            let (before, now) = (chain.events_through, record.events_through);
            report(Check::Whole, format!("events_through fell from {before} to {now}"));
        }
        chain.through = chain.through.max(record.through);
        chain.events_through = chain.events_through.max(record.events_through);
    }

    fn take_lines(
        &mut self,
        message: &StoredMessage,
        record: OutcomeRecord,
        violations: &mut Vec<Violation>,
    ) {
        let mut report = |detail: String| {
            violations.push(Violation::new(Check::OneOutcome, OUTCOMES, message.sequence, detail));
        };
        let mut last = record.after;
        for line in record.outcomes {
            let position = line.position;
            if position <= last || position > record.through {
                let (after, through) = (record.after, record.through);
                report(format!(
                    "the line of position {position} comes after {last} in a record of {after}+1..={through}"
                ));
            }
            last = last.max(position);
            match self.lines.entry(position) {
                Entry::Vacant(entry) => {
                    entry.insert(line);
                }
                Entry::Occupied(_) => report(format!("position {position} has an outcome already")),
            }
        }
    }

    /// Whether no record was read before.
    pub(super) fn is_empty(&self) -> bool {
        self.chain.is_none()
    }

    /// Positions up to here may have had their outcome in records that were purged.
    pub(super) fn judged_after(&self) -> u64 {
        self.chain.as_ref().map_or(0, |chain| chain.after)
    }

    fn covered_through(&self) -> u64 {
        self.chain.as_ref().map_or(0, |chain| chain.through)
    }
}

/// Whether each command has its outcome and each outcome its command. Returns how many commands are not decided yet.
pub(super) fn check_coverage(
    journal: &Journal,
    commands: &[StoredMessage],
    all_decided: bool,
    violations: &mut Vec<Violation>,
) -> u64 {
    let mut undecided = 0;
    let judged = |message: &&StoredMessage| message.sequence > journal.judged_after();
    for message in commands.iter().filter(judged) {
        let position = message.sequence;
        match journal.lines.get(&position) {
            Some(line) => check_line(line, message, said(message), violations),
            None if all_decided || position <= journal.covered_through() => {
                let detail = format!("the command on {} has no outcome", published_subject(&message.subject));
                violations.push(Violation::new(Check::OneOutcome, COMMANDS, position, detail));
            }
            None => undecided += 1,
        }
    }
    let first = commands.first().map_or(u64::MAX, |message| message.sequence);
    let known = |position: u64| {
        commands.binary_search_by_key(&position, |message| message.sequence).is_ok() || position < first
    };
    for &position in journal.lines.keys().filter(|&&position| !known(position)) {
        let detail = "there is an outcome for it, but no such command";
        violations.push(Violation::new(Check::OneOutcome, COMMANDS, position, detail));
    }
    undecided
}

/// What a command says, as its outcome should have it.
pub(super) fn said(message: &StoredMessage) -> ContentMark {
    let published = published_subject(&message.subject);
    let prefix = Origin::of_stored_subject(&message.subject).prefix();
    let address = published.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
    ContentMark::new(address.unwrap_or(&message.subject), &message.payload)
}

/// `message` may lack its body; `said` is its mark.
pub(super) fn check_line(
    line: &CommandOutcome,
    message: &StoredMessage,
    said: ContentMark,
    violations: &mut Vec<Violation>,
) {
    let mut report = |detail: String| {
        violations.push(Violation::new(Check::OneOutcome, COMMANDS, message.sequence, detail));
    };
    let published = published_subject(&message.subject);
    let origin = Origin::of_stored_subject(&message.subject);
    if published.strip_prefix(origin.prefix()).and_then(|rest| rest.strip_prefix('.')) != Some(&*line.address)
    {
        report(format!("it was published on {published}, its outcome names {}", line.address));
    }
    let is_internal = matches!(&line.outcome, Outcome::Rejected { code, .. } if &**code == INTERNAL_COMMAND);
    if is_internal && origin == Origin::Effect {
        report("it is refused as nobody's but a process's, and comes from one".to_owned());
    }
    let may_have_its_id = check_id_origin(message).is_ok() && explicit_id(message).is_ok();
    if is_refused_for_its_id(&line.outcome) && may_have_its_id {
        report("it is refused for its id, and may have it".to_owned());
    }
    let given = given_id(message, Some(&line.outcome));
    if line.id != given {
        let named = |id: &Option<Arc<str>>| id.as_deref().map_or("none".to_owned(), |id| format!("{id:?}"));
        report(format!("its id is {}, its outcome names {}", named(&given), named(&line.id)));
    }
    if line.content.is_some_and(|content| content != said) {
        report("its outcome is of another content".to_owned());
    }
}
