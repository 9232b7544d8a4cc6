//! What must hold when the attack is over: every promise, for the hostile client's commands as for all others.

use std::collections::BTreeSet;

use millstream_contract::stream_names::TIMERS;
use millstream_jetstream::broker::Broker as _;
use millstream_proof::verification::{replay, verify};

use super::{
    bystander::{Seen, units_of},
    failures::Failures,
};
use crate::{
    command_load::ledger::Ledger,
    dumps::{self, settled},
    system::System,
    waiting::until,
};

/// Words in a log that no input may cause.
const NEVER_LOGGED: [&str; 2] = ["panicked at", "RUST_BACKTRACE"];

/// Waits until nothing follows any more, then proves everything; says in words what was counted.
///
/// # Panics
/// When things do not come to rest.
pub(super) async fn judge(
    system: &System,
    stored: &BTreeSet<u64>,
    seen: Seen,
    failures: &Failures,
) -> String {
    let broker = system.broker().await;
    // Schedules that repeat would go on for ever.
    until("the schedules are gone", async || broker.purge_subject(TIMERS, "timer.>", None).await.ok()).await;
    settled(&broker).await;
    let dump = dumps::dump(&broker).await;
    let verification = verify(&dump, true);
    let mut violations = verification.violations.clone();
    violations.extend(replay(&dump, &millstream_model::aggregates()));
    add_some(failures, "promises broken", violations.iter().map(ToString::to_string).collect());
    let ledger = Ledger { acknowledged: seen.acknowledged };
    add_some(failures, "told otherwise than recorded", ledger.differences(&dump));
    let positions: BTreeSet<u64> = dump.commands.iter().map(|command| command.sequence).collect();
    let lost =
        stored.difference(&positions).map(|position| format!("{position} was acknowledged and is lost"));
    add_some(failures, "lost", lost.collect());
    for (stock, on_hand) in &seen.on_hand {
        let reached = async || units_of(broker.client(), stock).await.filter(|units| units >= on_hand);
        let units = until(format!("{on_hand} units of {stock}"), reached).await;
        if units != *on_hand {
            failures.add(format!("{stock} has {units} units, its commands make {on_hand}"));
        }
    }
    for arguments in [&["verify", "outcomes"][..], &["deadletters", "list"]] {
        let ended = system.millstream(arguments).await;
        if !ended.status.success() {
            failures.add(format!("millstream {}: {}\n{}", arguments.join(" "), ended.status, ended.stderr));
        }
    }
    for process in system.processes().values() {
        let log = std::fs::read(&process.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        for line in log.lines().filter(|line| NEVER_LOGGED.iter().any(|words| line.contains(words))).take(3) {
            failures.add(format!("{}: {line}", process.name));
        }
    }
    format!(
        "{} commands: {} accepted, {} rejected, {} duplicates, {} dead-lettered; {} acknowledged to the hostile client",
        verification.commands,
        verification.accepted,
        verification.rejected,
        verification.duplicates,
        verification.dead_lettered,
        stored.len(),
    )
}

/// One failure for all of a kind, with the first few.
fn add_some(failures: &Failures, what: &str, found: Vec<String>) {
    const SHOWN: usize = 10;
    if !found.is_empty() {
        let shown: Vec<String> =
            found.iter().take(SHOWN).map(|line| line.chars().take(1_000).collect()).collect();
        failures.add(format!("{} {what}:\n{}", found.len(), shown.join("\n")));
    }
}
