//! The chain of outcome records, share by share, and whether it covers COMMANDS.

use std::collections::{BTreeMap, btree_map::Entry};

use millstream_contract::{
    outcome::{CommandOutcome, OutcomeRecord, RecordKind},
    share::Share,
    stored_message::StoredMessage,
    stream_names::{COMMANDS, OUTCOMES},
    subject::{PARTITIONS, published_subject, stored_partition},
};
use millstream_write_side::share_layout::Layout;

use super::{Check, Violation, given_id};

/// What the journals say.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The first line about each position of COMMANDS.
    pub(super) lines: BTreeMap<u64, CommandOutcome>,
    /// By subject.
    chains: BTreeMap<String, Chain>,
    /// What the chains have covered, by partition.
    covered: BTreeMap<u32, Covered>,
    /// The way to share the partitions in force, once one was read.
    layout: Option<Layout>,
    /// Whether the partitions were ever shared by several.
    several: bool,
}

#[derive(Debug)]
struct Chain {
    epoch: u64,
    through: u64,
    events_through: u64,
}

/// A partition's positions behind `after` are judged; up to `through` they have their outcome.
#[derive(Debug, Clone, Copy)]
struct Covered {
    after: u64,
    through: u64,
}

/// The share that a subject of OUTCOMES names; all partitions when that says nothing.
pub(super) fn share_of(subject: &str) -> Share {
    Share::parse(subject.rsplit('.').next().unwrap_or_default()).unwrap_or(Share::ALL)
}

/// The partition of a message of COMMANDS.
pub(super) fn partition_of(message: &StoredMessage) -> u32 {
    stored_partition(&message.subject).unwrap_or(0)
}

impl Journal {
    pub(super) fn read(outcomes: &[StoredMessage], violations: &mut Vec<Violation>) -> Self {
        let mut journal = Self::default();
        let mut record_ids = BTreeMap::new();
        for message in outcomes {
            let record = match OutcomeRecord::from_stored(message) {
                Ok(record) => record,
                Err(error) => {
                    let detail = format!("{error}: {}", error.source);
                    violations.push(Violation::new(Check::Whole, OUTCOMES, message.sequence, detail));
                    continue;
                }
            };
            // A fence may stand there twice: when another handler's came between, the same one is appended anew.
            if record.kind == RecordKind::Outcomes
                && let Some(first) = record_ids.insert(record.record_id.clone(), message.sequence)
            {
                let detail = format!("the record {} stands at {first} already", record.record_id);
                violations.push(Violation::new(Check::OneOutcome, OUTCOMES, message.sequence, detail));
            }
            journal.chain(message, &record, violations);
            journal.take_lines(message, record, violations);
        }
        journal
    }

    /// The record must begin where the one before it ended, or where its epoch began.
    pub(super) fn chain(
        &mut self,
        message: &StoredMessage,
        record: &OutcomeRecord,
        violations: &mut Vec<Violation>,
    ) {
        let mut report = |check, detail: String| {
            violations.push(Violation::new(check, OUTCOMES, message.sequence, detail));
        };
        if record.kind == RecordKind::Layout {
            return self.begin_epoch(message, record, &mut report);
        }
        let share = share_of(&message.subject);
        self.several |= share.of > 1;
        let current = self.layout.as_ref().filter(|layout| layout.epoch == record.epoch);
        if record.kind == RecordKind::Outcomes
            && let Some(layout) = self.layout.as_ref().filter(|layout| layout.epoch > record.epoch)
        {
            let (own, epoch) = (record.epoch, layout.epoch);
            report(Check::OneOutcome, format!("it is of epoch {own} and comes after epoch {epoch} began"));
        }
        let begins = current.map_or(record.after, |layout| layout.starts.lowest(share));
        let chain = self.chains.entry(message.subject.clone()).or_insert(Chain {
            epoch: record.epoch,
            through: if record.kind == RecordKind::Outcomes { record.after } else { begins },
            events_through: 0,
        });
        if record.epoch > chain.epoch {
            (chain.epoch, chain.through) = (record.epoch, begins);
        }
        if record.after != chain.through {
            let (after, through) = (record.after, chain.through);
            report(
                Check::OneOutcome,
                format!("it follows position {after}, the record before went to {through}"),
            );
        }
        let moved = record.through != record.after || !record.outcomes.is_empty();
        if record.kind != RecordKind::Outcomes && moved {
            report(Check::OneOutcome, "a fence or an end covers commands".into());
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
        for partition in (0..PARTITIONS).filter(|partition| share.has(*partition)) {
            let first = Covered { after: record.after, through: record.after };
            let covered = self.covered.entry(partition).or_insert(first);
            covered.through = covered.through.max(record.through);
        }
    }

    /// An epoch begins in each partition where the one before ended.
    fn begin_epoch(
        &mut self,
        message: &StoredMessage,
        record: &OutcomeRecord,
        report: &mut impl FnMut(Check, String),
    ) {
        let Some(layout) = Layout::from_record(record, message.sequence) else {
            return report(Check::Whole, "it says not how the partitions are shared".into());
        };
        let known = self.layout.as_ref().map(|known| known.epoch);
        if known.is_some_and(|known| known >= layout.epoch) {
            // The same one, appended anew before the first one was purged.
            if self.layout.as_ref().is_some_and(|known| known.starts != layout.starts) {
                report(Check::OneOutcome, format!("epoch {} begins for a second time", layout.epoch));
            }
            return;
        }
        for partition in 0..PARTITIONS {
            let start = layout.starts.of(partition);
            let first = Covered { after: start, through: start };
            let covered = self.covered.entry(partition).or_insert(first);
            if covered.through != start {
                let through = covered.through;
                report(
                    Check::OneOutcome,
                    format!("partition {partition} begins at {start}, it was covered through {through}"),
                );
            }
            covered.through = covered.through.max(start);
        }
        self.several |= layout.shares > 1;
        self.layout = Some(layout);
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

    /// Whether a record of the chain was read before.
    pub(super) fn knows(&self, subject: &str) -> bool {
        self.chains.contains_key(subject)
    }

    /// Whether it is known what a partition's positions came to before the next record.
    pub(super) fn knows_partition(&self, partition: u32) -> bool {
        self.covered.contains_key(&partition)
    }

    /// Whether several handlers have shared the partitions. An id that comes to two of them at the same time may take
    /// effect in both (ADR 22).
    pub(super) fn is_shared(&self) -> bool {
        self.several
    }

    /// Positions of a partition up to here may have had their outcome in records that were purged.
    pub(super) fn judged_after(&self, partition: u32) -> u64 {
        self.covered.get(&partition).map_or(0, |covered| covered.after)
    }

    fn covered_through(&self, partition: u32) -> u64 {
        self.covered.get(&partition).map_or(0, |covered| covered.through)
    }
}

/// Whether each command has its line and each line its command. Returns how many commands are not decided yet.
pub(super) fn check_coverage(
    journal: &Journal,
    commands: &[StoredMessage],
    all_decided: bool,
    violations: &mut Vec<Violation>,
) -> u64 {
    let mut undecided = 0;
    let judged = |message: &&StoredMessage| message.sequence > journal.judged_after(partition_of(message));
    for message in commands.iter().filter(judged) {
        let position = message.sequence;
        match journal.lines.get(&position) {
            Some(line) => check_line(line, message, violations),
            None if all_decided || position <= journal.covered_through(partition_of(message)) => {
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

pub(super) fn check_line(line: &CommandOutcome, message: &StoredMessage, violations: &mut Vec<Violation>) {
    let mut report = |detail: String| {
        violations.push(Violation::new(Check::OneOutcome, COMMANDS, message.sequence, detail));
    };
    let published = published_subject(&message.subject);
    if line.subject() != published {
        report(format!("it was published on {published}, its outcome names {}", line.subject()));
    }
    let given = given_id(message);
    if line.id != given {
        report(format!("its id is {given:?}, its outcome names {:?}", line.id));
    }
}
