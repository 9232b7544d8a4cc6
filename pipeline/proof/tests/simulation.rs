//! The write side under every fault, thousands of times; and whether that finds bugs when there are some. What it is and
//! how to rerun one seed: docs/simulation.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
};

use millstream_proof::testing::simulation::{
    BUGS, RunReport, SimulationSettings, simulate, simulate_lost_tail, simulate_projector,
};

/// What repeats a seed.
const RERUN: &str = "cargo run -p millstream-proof --features simulation --example simulation --";
/// Seeds of the long test.
const SEEDS: u64 = 2_000;
/// Seeds of the projector: a run takes several times as long.
const SEEDS_OF_PROJECTOR: u64 = 300;
/// Seeds within which each planted bug must be found.
const SEEDS_PER_BUG: u64 = 1_500;

/// Runs `work` for all seeds below `count`, on all cores.
fn for_seeds<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let results = Mutex::new(Vec::new());
    let threads = available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    let result = work(seed);
                    results.lock().expect("a seed that panics ends the test").push(result);
                }
            });
        }
    });
    results.into_inner().expect("a seed that panics ends the test")
}

fn total<'a>(counts: impl Iterator<Item = &'a BTreeMap<&'static str, u64>>) -> BTreeMap<&'static str, u64> {
    let mut total = BTreeMap::new();
    for (name, count) in counts.flatten() {
        *total.entry(*name).or_default() += count;
    }
    total
}

#[test]
fn every_promise_is_kept_under_every_fault() {
    let settings = SimulationSettings::default();
    let reports = for_seeds(SEEDS, |seed| simulate(seed, &settings));
    let wrong: Vec<&RunReport> = reports.iter().filter(|report| !report.violations.is_empty()).collect();
    for report in &wrong {
        println!("seed {}: {:#?}\nrerun: {RERUN} {}", report.seed, report.violations, report.seed);
    }
    assert!(wrong.is_empty(), "{} of {SEEDS} seeds break a promise", wrong.len());

    // A simulation in which nothing happens proves nothing.
    let faults = total(reports.iter().map(|report| &report.faults));
    let counts = total(reports.iter().map(|report| &report.counts));
    println!("{faults:#?}\n{counts:#?}");
    for name in [
        "append answer lost",
        "append delayed",
        "append late",
        "append lost",
        "command doubled",
        "leader lost",
        "lease given twice",
        "lease unanswered",
        "load stale",
        "read unanswered",
        "reader interrupted",
        "send lost",
        "state stale",
        "stream full",
    ] {
        assert!(faults.get(name).copied().unwrap_or(0) > 100, "{name} hardly happens: {faults:?}");
    }
    for name in ["accepted", "rejected", "duplicates", "dead-lettered", "unclear appends", "replies"] {
        assert!(counts.get(name).copied().unwrap_or(0) > 500, "{name} hardly happens: {counts:?}");
    }
    // Rare, since whoever takes over knows all states: it takes an append of the handler before that arrives even later.
    assert!(counts["conflicts"] > 100, "conflicts hardly happen: {counts:?}");
    assert!(counts["fences"] > 3 * SEEDS, "handlers hardly lose their turn: {counts:?}");
}

#[test]
fn projector_keeps_rows_and_checkpoint_together_under_every_fault() {
    let settings = SimulationSettings::default();
    let reports = for_seeds(SEEDS_OF_PROJECTOR, |seed| simulate_projector(seed, &settings));
    let wrong: Vec<&RunReport> = reports.iter().filter(|report| !report.violations.is_empty()).collect();
    for RunReport { seed, violations, .. } in &wrong {
        println!("seed {seed}: {violations:#?}\nrerun: {RERUN} {seed} --scenario projector");
    }
    assert!(wrong.is_empty(), "{} of {SEEDS_OF_PROJECTOR} seeds break a promise", wrong.len());
    let counts = total(reports.iter().map(|report| &report.counts));
    println!("{counts:#?}");
    for name in ["kills", "power cuts", "disk failures", "lost tails", "new streams", "new versions"] {
        assert!(counts.get(name).copied().unwrap_or(0) > 20, "{name} hardly happens: {counts:?}");
    }
}

#[test]
fn same_seed_is_the_same_run() {
    same_seed_is_the_same(simulate);
    same_seed_is_the_same(simulate_projector);
}

fn same_seed_is_the_same(simulate: fn(u64, &SimulationSettings) -> RunReport) {
    let settings = SimulationSettings::default();
    let run = |seed| {
        let report = simulate(seed, &settings);
        (report.seed, report.trace_hash, report.counts, report.faults)
    };
    let mut first = for_seeds(30, run);
    let mut second = for_seeds(30, run);
    first.sort();
    second.sort();
    assert_eq!(first, second);
    let hashes: BTreeSet<u64> = first.iter().map(|(_, hash, ..)| *hash).collect();
    assert_eq!(hashes.len(), first.len(), "other seeds are other runs");
}

#[test]
fn every_planted_bug_is_found_by_its_checker() {
    let found = for_seeds(BUGS.len() as u64, |index| {
        let planted = &BUGS[usize::try_from(index).unwrap()];
        let settings = SimulationSettings { bug: Some(planted.bug), ..SimulationSettings::default() };
        let runs = (0..SEEDS_PER_BUG).map(|seed| (seed, planted.scenario.run(seed, &settings)));
        let first = runs.into_iter().find(|(_, violations)| planted.is_found_in(violations));
        (planted, first)
    });
    for (planted, first) in &found {
        let first = first.as_ref().map(|(seed, violations)| (seed, planted.finding(violations)));
        println!("{}: {first:?}", planted.name);
    }
    let missed: Vec<_> =
        found.iter().filter(|(_, first)| first.is_none()).map(|(planted, _)| planted.name).collect();
    assert!(missed.is_empty(), "not found within {SEEDS_PER_BUG} seeds: {missed:?}");
}

#[test]
fn documented_table_of_bugs_is_the_list_in_the_code() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/simulation.md");
    let page = std::fs::read_to_string(&page).unwrap();
    let is_row = |line: &&str| line.starts_with("| `");
    let documented: Vec<&str> = page.lines().filter(is_row).collect();
    let listed: Vec<String> = BUGS.iter().map(ToString::to_string).collect();
    assert_eq!(documented, listed, "docs/simulation.md should hold:\n{}", listed.join("\n"));
}

#[test]
fn lost_tail_is_said_or_made_good() {
    let settings = SimulationSettings::default();
    let wrong = for_seeds(200, |seed| (seed, simulate_lost_tail(seed, &settings)));
    let wrong: Vec<_> = wrong.into_iter().filter(|(_, violations)| !violations.is_empty()).collect();
    for (seed, violations) in &wrong {
        println!("seed {seed}: {violations:#?}\nrerun: {RERUN} {seed} --scenario lost-tail");
    }
    assert!(wrong.is_empty(), "{} of 200 seeds break a promise", wrong.len());
}
