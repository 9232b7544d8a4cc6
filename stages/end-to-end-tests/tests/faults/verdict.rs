//! What every fault ends with: seeds, and all checkers over what is left.

use std::{str::FromStr, time::Duration};

use end_to_end_tests::{command_load::ledger::Ledger, dumps, system::millstream};
use millstream_contract::outcome::{OutcomeRecord, RecordKind};
use millstream_jetstream::nats_broker::NatsBroker;
use millstream_proof::verification::{Dump, Verification};

/// Where chance comes from: `MILLSTREAM_FAULTS_SEED`, or a new one each time. Printed, so that a failure can be tried again;
/// real processes do not repeat themselves exactly.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = setting("MILLSTREAM_FAULTS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("{test}: MILLSTREAM_FAULTS_SEED={seed}");
    seed
}

/// How long something is disturbed: `MILLSTREAM_FAULTS_SECONDS`, or `default`.
pub(crate) fn duration(default: Duration) -> Duration {
    setting("MILLSTREAM_FAULTS_SECONDS").map_or(default, Duration::from_secs)
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    #[expect(clippy::disallowed_methods, reason = "what is tried is asked for by whoever runs the tests")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}")))
}

/// Nothing acknowledged is lost, every command has one outcome and at most one effect, versions have no gaps, outcomes and
/// events are those of a plain fold (C1 to C5), and the senders were told the same; the engine's naive checkers say so, the
/// ledger, and `millstream verify outcomes`. Everything must be decided.
pub(crate) async fn expect_kept(broker: &NatsBroker, url: &str, ledger: &Ledger) -> (Dump, Verification) {
    let dump = dumps::dump(broker).await;
    let verification = dumps::verified_dump(&dump);
    let differences = ledger.differences(&dump);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(ledger.positions() > 0, "nothing was acknowledged");
    for (kind, count) in [
        ("accepted", verification.accepted),
        ("rejected", verification.rejected),
        ("duplicate", verification.duplicates),
        ("dead-lettered", verification.dead_lettered),
    ] {
        assert!(count > 0, "no command was {kind}: {verification:?}");
    }
    let mut command = millstream();
    command.env("NATS_URL", url).args(["verify", "outcomes"]);
    let ended =
        end_to_end_tests::program::run(command, b"").await.expect_success("millstream verify outcomes");
    assert!(ended.stdout.contains("every promise kept (0 violations)"), "{}", ended.stdout);
    eprintln!("{} {}", verification.commands, ended.stdout.trim());
    (dump, verification)
}

/// Takeovers: each appends a fence.
pub(crate) fn fences(dump: &Dump) -> usize {
    let records = dump.outcomes.iter().map(|message| OutcomeRecord::from_stored(message).unwrap());
    records.filter(|record| record.kind == RecordKind::Fence).count()
}
