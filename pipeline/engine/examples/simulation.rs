//! Runs seeds of the simulation: one with its trace, or many with a summary (docs/simulation.md).

use std::io::Write;

use clap::Parser;
use millstream_engine::testing::simulation::{SimulationSettings, simulate};

/// Simulates the write side.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    seed: u64,
    /// How many seeds; the trace is printed when there is one.
    #[arg(default_value_t = 1)]
    count: u64,
}

fn main() -> std::io::Result<()> {
    let Arguments { seed, count } = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let settings = SimulationSettings { keep_trace: count == 1 };
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
