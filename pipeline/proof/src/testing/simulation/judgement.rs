//! Checks the result of a run from the raw streams, the client's ledger and the replies.

use std::collections::BTreeMap;

use millstream_contract::{
    command::derived_id,
    outcome::{CommandOutcome, Outcome, OutcomeRecord, OutcomeReply, RecordKind},
    stored_message::StoredMessage,
    stream_names::{COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES},
    subject::published_subject,
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::testing::memory_broker::MemoryBroker;
use millstream_runtime::metrics::Metrics;

use super::workload::LedgerEntry;
use crate::{
    testing::account::Account,
    verification::{Dump, replay, verify},
};

/// What happened in a run. A simulation in which nobody ever lost a turn would prove nothing about losing turns.
pub type Counts = BTreeMap<&'static str, u64>;

/// Everything that is wrong, and the counts.
pub(super) fn judge(
    broker: &MemoryBroker,
    ledger: &[LedgerEntry],
    metrics: &Metrics,
) -> (Vec<String>, Counts) {
    let dump = Dump {
        commands: broker.dump(COMMANDS),
        events: broker.dump(EVENTS),
        outcomes: broker.dump(OUTCOMES),
    };
    let verification = verify(&dump, true);
    let registry = AggregateRegistry::new().with::<Account>();
    let mut found: Vec<String> = verification.violations.iter().map(ToString::to_string).collect();
    found.extend(replay(&dump, &registry).iter().map(ToString::to_string));
    let lines = lines(&dump.outcomes);
    check_ledger(ledger, &dump.commands, &mut found);
    check_replies(&broker.sent(), &lines, &mut found);
    check_dead_letters(&broker.dump(DEAD_LETTERS), &lines, &mut found);

    let handlers = metrics.handler();
    let fences = records(&dump.outcomes).filter(|record| record.kind == RecordKind::Fence).count() as u64;
    let counts = Counts::from([
        ("commands", verification.commands),
        ("accepted", verification.accepted),
        ("rejected", verification.rejected),
        ("duplicates", verification.duplicates),
        ("dead-lettered", verification.dead_lettered),
        ("commits", verification.commits),
        ("fences", fences),
        ("conflicts", handlers.conflicts.get()),
        ("unclear appends", handlers.unclear_appends.get()),
        ("replies", broker.sent().len() as u64),
    ]);
    (found, counts)
}

fn records(outcomes: &[StoredMessage]) -> impl Iterator<Item = OutcomeRecord> {
    outcomes.iter().filter_map(|message| OutcomeRecord::from_stored(message).ok())
}

fn lines(outcomes: &[StoredMessage]) -> BTreeMap<u64, CommandOutcome> {
    records(outcomes).flat_map(|record| record.outcomes).map(|line| (line.position, line)).collect()
}

/// Everything that was acknowledged to the client is stored at that position.
fn check_ledger(ledger: &[LedgerEntry], commands: &[StoredMessage], found: &mut Vec<String>) {
    for LedgerEntry { subject, payload, position } in ledger {
        let stored = commands.iter().find(|message| message.sequence == *position);
        let same = stored.is_some_and(|stored| {
            published_subject(&stored.subject) == *subject && stored.payload == *payload
        });
        if !same {
            found.push(format!("C1 one outcome: {subject} was acknowledged at {position} and is not there"));
        }
    }
}

/// A reply says the same as the journal.
fn check_replies(sent: &[StoredMessage], lines: &BTreeMap<u64, CommandOutcome>, found: &mut Vec<String>) {
    for message in sent {
        let reply = serde_json::from_slice(&message.payload).ok();
        let Some(reply) = reply.as_ref().and_then(OutcomeReply::from_json) else {
            found.push(format!("C1 one outcome: the reply on {} does not decode", message.subject));
            continue;
        };
        let line = lines.get(&reply.command_position);
        let same = line.is_some_and(|line| {
            let id = line.id.clone().unwrap_or_else(|| derived_id(line.position).into());
            line.outcome == reply.outcome && id == reply.command_id
        });
        if !same {
            found.push(format!("C1 one outcome: the reply {reply:?} differs from the journal's {line:?}"));
        }
    }
}

/// Everything that was set aside is in DEADLETTERS, and nothing else is.
fn check_dead_letters(
    letters: &[StoredMessage],
    lines: &BTreeMap<u64, CommandOutcome>,
    found: &mut Vec<String>,
) {
    let subject = |position: u64| format!("dlq.{COMMANDS}.{position}");
    for line in lines.values() {
        let kept = letters.iter().filter(|letter| letter.subject == subject(line.position)).count();
        match &line.outcome {
            Outcome::DeadLettered { message, .. } if kept != 1 && !message.contains("not kept in") => {
                found.push(format!("C12 accounts: position {} has {kept} dead letters", line.position));
            }
            Outcome::DeadLettered { .. } => {}
            outcome if kept != 0 => {
                let kind = outcome.kind();
                found.push(format!(
                    "C12 accounts: position {} is {kind} and has a dead letter",
                    line.position
                ));
            }
            _ => {}
        }
    }
}
