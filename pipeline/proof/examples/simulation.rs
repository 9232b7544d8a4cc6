//! Runs seeds of the simulation: one with its trace, or many with a summary (docs/simulation.md).

use std::io::{Result, Write};

use clap::Parser;
use millstream_proof::testing::simulation::{
    BUGS, PlantedBug, Scenario, SimulationSettings, simulate, simulate_projector,
};

/// Simulates Millstream under faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(default_value_t = 0)]
    seed: u64,
    /// How many seeds; its trace is printed when there is one.
    #[arg(default_value_t = 1)]
    count: u64,
    /// What to simulate.
    #[arg(long, value_enum, default_value_t)]
    scenario: Scenario,
    /// Plant this bug, in the scenario where it shows.
    #[arg(long)]
    bug: Option<&'static PlantedBug>,
    /// For every bug, the first seed that finds it, and how many of `count` seeds do.
    #[arg(long, conflicts_with = "bug")]
    table: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    if arguments.table { table(&arguments, &mut out) } else { seeds(&arguments, &mut out) }
}

fn seeds(arguments: &Arguments, out: &mut impl Write) -> Result<()> {
    let Arguments { seed, count, scenario, bug, .. } = *arguments;
    let scenario = bug.map_or(scenario, |planted| planted.scenario);
    let settings = SimulationSettings {
        keep_trace: count == 1,
        bug: bug.map(|planted| planted.bug),
        ..SimulationSettings::default()
    };
    if count == 1 && scenario != Scenario::LostTail {
        let report = match scenario {
            Scenario::Projector => simulate_projector(seed, &settings),
            _ => simulate(seed, &settings),
        };
        for line in &report.trace {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{:?}\n{:?}\ntrace {:016x}", report.faults, report.counts, report.trace_hash)?;
    }
    let mut wrong = 0;
    for seed in seed..seed + count {
        let violations = scenario.run(seed, &settings);
        for violation in &violations {
            writeln!(out, "seed {seed}: {violation}")?;
        }
        wrong += u64::from(!violations.is_empty());
    }
    writeln!(out, "{wrong} of {count} runs wrong")
}

fn table(arguments: &Arguments, out: &mut impl Write) -> Result<()> {
    let Arguments { seed, count, .. } = *arguments;
    writeln!(out, "| bug | caught by | first seed | of {count} seeds | finding |\n|---|---|---|---|---|")?;
    for planted in BUGS {
        let PlantedBug { name, bug, scenario, caught_by, .. } = *planted;
        let settings = SimulationSettings { bug: Some(bug), ..SimulationSettings::default() };
        let runs = (seed..seed + count).map(|seed| (seed, scenario.run(seed, &settings)));
        let found: Vec<_> = runs.filter(|(_, violations)| planted.is_found_in(violations)).collect();
        let first = found.first().map_or("none".to_owned(), |(seed, _)| seed.to_string());
        let finding = found.first().and_then(|(_, violations)| planted.finding(violations));
        let finding = finding.unwrap_or_default();
        writeln!(out, "| {name} | {caught_by} | {first} | {} | {finding} |", found.len())?;
    }
    Ok(())
}
