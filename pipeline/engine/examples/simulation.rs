//! Runs seeds of the simulation: one with its trace, or many with a summary (docs/simulation.md).

use std::io::Write;

use clap::Parser;
use millstream_engine::testing::simulation::{Bug, SimulationSettings, simulate};

/// Simulates the write side.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(default_value_t = 0)]
    seed: u64,
    /// How many seeds; the trace is printed when there is one.
    #[arg(default_value_t = 1)]
    count: u64,
    /// Plant this bug.
    #[arg(long)]
    bug: Option<Bug>,
    /// For every bug, the first seed that finds it, and how many of `count` seeds do.
    #[arg(long, conflicts_with = "bug")]
    table: bool,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    if arguments.table { table(&arguments, &mut out) } else { seeds(&arguments, &mut out) }
}

fn seeds(arguments: &Arguments, out: &mut impl Write) -> std::io::Result<()> {
    let Arguments { seed, count, bug, .. } = *arguments;
    let settings = SimulationSettings { keep_trace: count == 1, bug };
    let mut wrong = 0;
    for seed in seed..seed + count {
        let report = simulate(seed, &settings);
        for line in &report.trace {
            writeln!(out, "{line}")?;
        }
        if count == 1 {
            writeln!(out, "{:?}\n{:?}\ntrace {:016x}", report.faults, report.counts, report.trace_hash)?;
        }
        for violation in &report.violations {
            writeln!(out, "seed {seed}: {violation}")?;
        }
        wrong += u64::from(!report.violations.is_empty());
    }
    writeln!(out, "{wrong} of {count} runs wrong")
}

fn table(arguments: &Arguments, out: &mut impl Write) -> std::io::Result<()> {
    let Arguments { seed, count, .. } = *arguments;
    writeln!(out, "| bug | first seed | of {count} seeds | first finding |\n|---|---|---|---|")?;
    for (name, bug) in Bug::ALL {
        let settings = SimulationSettings { keep_trace: false, bug: Some(*bug) };
        let reports = (seed..seed + count).map(|seed| simulate(seed, &settings));
        let found: Vec<_> = reports.filter(|report| !report.violations.is_empty()).collect();
        let first = found.first().map_or("none".to_owned(), |report| report.seed.to_string());
        let finding = found.first().and_then(|report| report.violations.first()).cloned().unwrap_or_default();
        writeln!(out, "| {name} | {first} | {} | {finding} |", found.len())?;
    }
    Ok(())
}
