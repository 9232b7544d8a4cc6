//! Proves from raw dumps of COMMANDS, EVENTS and OUTCOMES that Millstream's guarantees hold: each command has exactly one outcome (C1) and at
//! most one effect (C2), versions have no gaps (C3), each aggregate's commands took effect in their order with the results that a fold gives
//! (C4), and commits are whole and chained (C5).
//!
//! It is simple on purpose and independent of the handler: it shares the codecs of the contract with it, and nothing else. It does no I/O and
//! changes nothing. [`verify`] needs only the streams, [`replay`] also needs the rules of the aggregates. Both hold everything in memory, and
//! are used by the simulation and by tests. `millstream verify outcomes` uses [`StretchVerifier`], which takes the streams message by message.

mod commits;
mod effects;
mod foreign_messages;
mod journal;
mod replay;
mod stretch;

use std::{fmt, sync::Arc};

use millstream_contract::{
    command::{CommandEnvelope, ID_RESERVED, check_id_origin, explicit_id},
    outcome::Outcome,
    stored_message::StoredMessage,
    stream_names::{COMMANDS, EVENTS},
};

use self::{commits::Commits, journal::Journal};
pub use self::{
    replay::replay,
    stretch::{StretchVerification, StretchVerifier},
};

/// What the streams hold. Each list is in the order of its sequences. COMMANDS and OUTCOMES may lack their beginning, because both are purged;
/// what cannot be seen for this reason is not judged.
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// All of COMMANDS.
    pub commands: Vec<StoredMessage>,
    /// All of EVENTS.
    pub events: Vec<StoredMessage>,
    /// All of OUTCOMES.
    pub outcomes: Vec<StoredMessage>,
}

/// The guarantee that a violation breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Every command has exactly one recorded outcome.
    OneOutcome,
    /// A command and a command id have at most one effect.
    OneEffect,
    /// The versions of an aggregate are 1..n.
    Versions,
    /// An aggregate's commands are decided in the order of COMMANDS, and the outcomes are those of a sequential fold.
    Order,
    /// Commits and records are whole, and each names the previous one.
    Whole,
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::OneOutcome => "C1 one outcome",
            Self::OneEffect => "C2 one effect",
            Self::Versions => "C3 versions",
            Self::Order => "C4 order",
            Self::Whole => "C5 whole",
        })
    }
}

/// A broken guarantee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The guarantee.
    pub check: Check,
    /// The JetStream stream in which the violation shows.
    pub stream: &'static str,
    /// The sequence of the message there.
    pub sequence: u64,
    /// A sentence about what is wrong.
    pub detail: String,
}

impl Violation {
    fn new(check: Check, stream: &'static str, sequence: u64, detail: impl Into<String>) -> Self {
        Self { check, stream, sequence, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} {}: {}", self.check, self.stream, self.sequence, self.detail)
    }
}

/// What was checked and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Commands in the dump.
    pub commands: u64,
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
    /// Commits in the dump.
    pub commits: u64,
    /// Events in them.
    pub events: u64,
    /// Broken guarantees, in the order in which they were found.
    pub violations: Vec<Violation>,
}

/// Checks everything that the streams alone can show. With `all_decided`, any command without an outcome is a violation; otherwise only one
/// that the journal has passed.
pub fn verify(dump: &Dump, all_decided: bool) -> Verification {
    let mut violations = Vec::new();
    for (stream, messages) in [
        (COMMANDS, &dump.commands),
        (EVENTS, &dump.events),
        (millstream_contract::stream_names::OUTCOMES, &dump.outcomes),
    ] {
        check_sequences(stream, messages, &mut violations);
    }
    let journal = Journal::read(&dump.outcomes, &mut violations);
    let commits = Commits::read(&dump.events, &mut violations);
    let undecided = journal::check_coverage(&journal, &dump.commands, all_decided, &mut violations);
    effects::check(&journal, &commits, &dump.commands, &mut violations);

    let mut verification = Verification {
        commands: dump.commands.len() as u64,
        undecided,
        commits: commits.stored.len() as u64,
        events: commits.stored.iter().map(|stored| stored.commit.events.len() as u64).sum(),
        violations,
        ..Verification::default()
    };
    for line in journal.lines.values() {
        *match line.outcome {
            Outcome::Accepted { .. } => &mut verification.accepted,
            Outcome::Rejected { .. } => &mut verification.rejected,
            Outcome::Duplicate { .. } => &mut verification.duplicates,
            Outcome::DeadLettered { .. } => &mut verification.dead_lettered,
        } += 1;
    }
    verification
}

fn check_sequences(stream: &'static str, messages: &[StoredMessage], violations: &mut Vec<Violation>) {
    for (before, message) in messages.iter().zip(messages.iter().skip(1)) {
        if message.sequence <= before.sequence {
            let detail = format!("the dump is not in order: {} comes before it", before.sequence);
            violations.push(Violation::new(Check::Whole, stream, message.sequence, detail));
        }
    }
}

/// The id that the sender of a command gave; `None` if there was none, or one that the sender could not use. `outcome` is the command's
/// outcome, if it is known.
///
/// Ids of processes are refused only since commands of processes have a subject of their own. Older histories have such ids on the common
/// subject, so the outcome shows whether the rule was applied.
fn given_id(message: &StoredMessage, outcome: Option<&Outcome>) -> Option<Arc<str>> {
    if outcome.is_some_and(is_refused_for_its_id) && check_id_origin(message).is_err() {
        return None;
    }
    explicit_id(message).ok().flatten()
}

fn is_refused_for_its_id(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::DeadLettered { code, .. } if &**code == ID_RESERVED)
}

/// The address in a message of COMMANDS, if it is a command.
fn envelope(message: &StoredMessage) -> Option<CommandEnvelope> {
    CommandEnvelope::from_stored(message).ok()
}

#[cfg(test)]
mod tests;
