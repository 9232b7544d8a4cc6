//! Compares outcomes with effects: what was accepted stands in EVENTS as the outcome says, nothing else does, and an id takes effect once.

use std::{collections::BTreeMap, sync::Arc};

use millstream_contract::{
    commit::{StoredCommit, timestamp_to_nanoseconds},
    outcome::{CommandOutcome, ContentMark, Outcome},
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS},
    subject::{CommandAddress, StreamId},
};

use super::{Check, Violation, commits::Commits, envelope, given_id, journal::Journal};

/// The versions that an aggregate reached, by the position of the command that reached them.
type Versions = BTreeMap<StreamId, BTreeMap<u64, Reached>>;

#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    version: u64,
    broker_sequence: u64,
}

pub(super) fn check(
    journal: &Journal,
    commits: &Commits,
    commands: &[StoredMessage],
    violations: &mut Vec<Violation>,
) {
    let versions = versions(commits);
    for line in journal.lines.values() {
        match &line.outcome {
            Outcome::Accepted { sequence, version, events } => {
                let claim = Claim { line, broker_sequence: *sequence, version: *version, events: *events };
                claim.check(commits, &versions, violations);
            }
            Outcome::Rejected { .. } | Outcome::Duplicate { .. } | Outcome::DeadLettered { .. } => {
                let own = commits.of_position(line.position).map(|(stored, _)| stored);
                if let Some(stored) = own.or_else(|| commits.partners_of(line.position).next()) {
                    let detail = format!("it is {} and took effect all the same", line.outcome.kind());
                    let detail = format!("{detail}, at {EVENTS} {}", stored.broker_sequence);
                    violations.push(Violation::new(Check::OneEffect, COMMANDS, line.position, detail));
                }
            }
        }
    }
    check_ids(journal, commands, violations);
    check_causes(journal, commits, commands, violations);
}

fn versions(commits: &Commits) -> Versions {
    let mut versions = Versions::new();
    for stored in &commits.stored {
        let reached = versions.entry(stored.stream_id.clone()).or_default();
        for envelope in stored.envelopes() {
            let broker_sequence = stored.broker_sequence;
            let version = envelope.aggregate_version;
            reached.insert(envelope.command.position, Reached { version, broker_sequence });
        }
    }
    versions
}

/// The content of an accepted outcome.
struct Claim<'a> {
    line: &'a CommandOutcome,
    broker_sequence: u64,
    version: u64,
    events: u32,
}

impl Claim<'_> {
    fn check(&self, commits: &Commits, versions: &Versions, violations: &mut Vec<Violation>) {
        let position = self.line.position;
        let mut report = |check, detail: String| {
            violations.push(Violation::new(check, COMMANDS, position, detail));
        };
        let effect = commits.of_position(position);
        let found = effect.map_or(0, |(stored, _)| events_of(stored, position));
        if found != self.events {
            report(Check::OneEffect, format!("its outcome says {} events, there are {found}", self.events));
        }
        let Some(aggregate) = aggregate_of(self.line) else {
            report(Check::Order, format!("{} was accepted and is no address", self.line.address));
            return;
        };
        if let Some((stored, _)) = effect
            && stored.stream_id != aggregate
        {
            report(
                Check::OneEffect,
                format!("it took effect on {} instead of {aggregate}", stored.stream_id),
            );
        }
        let reached = versions
            .get(&aggregate)
            .and_then(|reached| reached.range(..=position).next_back())
            .map(|(_, reached)| *reached)
            .unwrap_or_default();
        if reached.version != self.version {
            let (said, found) = (self.version, reached.version);
            report(
                Check::Order,
                format!("its outcome says version {said}, the history has {found} at that point"),
            );
        }
        if reached.broker_sequence != self.broker_sequence {
            let (said, found) = (self.broker_sequence, reached.broker_sequence);
            report(Check::Order, format!("its outcome says {EVENTS} {said}, the commit is {found}"));
        }
    }
}

fn events_of(stored: &StoredCommit, position: u64) -> u32 {
    let count = stored.envelopes().filter(|envelope| envelope.command.position == position).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn aggregate_of(line: &CommandOutcome) -> Option<StreamId> {
    CommandAddress::from_subject(&line.subject()).ok().map(|address| address.stream_id)
}

/// The first command with an id and a final outcome is decided, and every later one is its duplicate.
fn check_ids(journal: &Journal, commands: &[StoredMessage], violations: &mut Vec<Violation>) {
    let mut first_of: BTreeMap<Arc<str>, &CommandOutcome> = BTreeMap::new();
    for message in commands {
        let Some(line) = journal.lines.get(&message.sequence) else { continue };
        let mut report = |check, detail: String| {
            violations.push(Violation::new(check, COMMANDS, message.sequence, detail));
        };
        let given = given_id(message, Some(&line.outcome));
        let first = given.as_ref().and_then(|id| first_of.get(id).copied());
        match (&line.outcome, first) {
            (Outcome::Duplicate { of, first: told, other_content }, Some(first)) => {
                if *of != first.position {
                    report(
                        Check::OneOutcome,
                        format!("it repeats {}, its outcome says {of}", first.position),
                    );
                }
                if **told != first.outcome {
                    report(
                        Check::OneOutcome,
                        format!("it is told that the first was {told}, which was {}", first.outcome),
                    );
                }
                if ContentMark::differ(first.content, line.content)
                    .is_some_and(|differ| differ != *other_content)
                {
                    let detail =
                        format!("its outcome says other_content {other_content} of the command at {of}");
                    report(Check::OneOutcome, detail);
                }
            }
            // The first use or its record may have been purged. Then nothing can be said.
            (Outcome::Duplicate { of, .. }, None) if known(commands, *of) && *of > journal.judged_after() => {
                report(Check::OneOutcome, format!("it is called a duplicate of {of}, which had another id"));
            }
            (Outcome::Duplicate { .. } | Outcome::DeadLettered { .. }, _) => {}
            (Outcome::Accepted { .. } | Outcome::Rejected { .. }, Some(first)) => {
                let detail = format!("its id was used at {} and it was decided again", first.position);
                report(Check::OneEffect, detail);
            }
            (Outcome::Accepted { .. } | Outcome::Rejected { .. }, None) => {
                if let Some(id) = given {
                    first_of.insert(id, line);
                }
            }
        }
    }
}

fn known(commands: &[StoredMessage], position: u64) -> bool {
    commands.binary_search_by_key(&position, |message| message.sequence).is_ok()
}

/// Every command that a commit names exists, is the named one, and was accepted.
fn check_causes(
    journal: &Journal,
    commits: &Commits,
    commands: &[StoredMessage],
    violations: &mut Vec<Violation>,
) {
    let first = commands.first().map_or(u64::MAX, |message| message.sequence);
    for stored in &commits.stored {
        let mut report = |check, detail: String| {
            violations.push(Violation::new(check, EVENTS, stored.broker_sequence, detail));
        };
        for caused_by in &stored.commit.commands {
            let position = caused_by.position;
            let found = commands.binary_search_by_key(&position, |message| message.sequence).ok();
            let Some(message) = found.and_then(|index| commands.get(index)) else {
                if position >= first {
                    report(Check::OneEffect, format!("it names a command at {position} that does not exist"));
                }
                continue;
            };
            let command = envelope(message);
            let same = command.as_ref().is_some_and(|command| {
                let own = caused_by.partner_of.as_deref().unwrap_or(stored.stream_id.as_str());
                command.id_or_position() == caused_by.id && command.address.stream_id.as_str() == own
            });
            if !same {
                report(
                    Check::OneEffect,
                    format!("it names {} at {position}, which is another command", caused_by.id),
                );
            }
            let judged = position > journal.judged_after();
            let line = journal.lines.get(&position).filter(|_| judged);
            if line.is_some_and(|line| !matches!(line.outcome, Outcome::Accepted { .. })) {
                let detail = format!("the command at {position} took effect and was not accepted");
                report(Check::OneEffect, detail);
            }
        }
        let decided_at = commands
            .binary_search_by_key(&stored.commit.last_position(), |message| message.sequence)
            .ok()
            .and_then(|index| commands.get(index))
            .map(|message| timestamp_to_nanoseconds(message.stored_at));
        if decided_at.is_some_and(|time| time != stored.commit.recorded_at) {
            report(Check::Order, "recorded_at is not the time of its last command".into());
        }
    }
}
