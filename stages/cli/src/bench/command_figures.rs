//! What the closed loops found, for people and for programs.

use std::{collections::BTreeMap, fmt::Write as _, num::NonZeroUsize};

use serde::Serialize;

use super::{figures::Latency, process_costs::CommandCost};

/// One loop.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LoopFigures {
    /// Commands that were answered while measuring.
    pub(crate) commands: usize,
    pub(crate) commands_per_second: f64,
    /// From sending to the answer, of commands that were sent while measuring.
    pub(crate) answer_ms: Latency,
    /// From sending to the answer of a query that sees it; of the real loop alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queryable_ms: Option<Latency>,
    /// How many commands `queryable_ms` tells of; of the real loop alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queries: Option<usize>,
    /// By process; empty where the system does not tell.
    pub(crate) costs: BTreeMap<String, CommandCost>,
    /// Bytes that each stream and each folder of a process holds more than before, for each command that was sent.
    pub(crate) kept_bytes: BTreeMap<String, f64>,
    /// Commands of a round of the command handler; of the real loop alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commands_a_round: Option<f64>,
}

/// The loops that were run one behind the other.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    pub(crate) bare_singly: LoopFigures,
    pub(crate) bare_in_batches: LoopFigures,
    pub(crate) real: LoopFigures,
    /// The rate of the real loop to that of the faster bare loop.
    pub(crate) ratio: f64,
}

impl Round {
    pub(crate) fn new(bare_singly: LoopFigures, bare_in_batches: LoopFigures, real: LoopFigures) -> Self {
        let bare = bare_singly.commands_per_second.max(bare_in_batches.commands_per_second);
        let ratio = (real.commands_per_second / bare * 100.0).round() / 100.0;
        Self { bare_singly, bare_in_batches, real, ratio }
    }

    /// The faster bare loop, which is the yardstick.
    fn bare(&self) -> (&'static str, &LoopFigures) {
        if self.bare_singly.commands_per_second >= self.bare_in_batches.commands_per_second {
            (SINGLY, &self.bare_singly)
        } else {
            (IN_BATCHES, &self.bare_in_batches)
        }
    }
}

const SINGLY: &str = "bare, singly";
const IN_BATCHES: &str = "bare, in batches";

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CommandFigures {
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    /// `submit` or `publish`.
    pub(crate) way: &'static str,
    /// When the server syncs.
    pub(crate) sync: String,
    /// How many servers keep the streams.
    pub(crate) replicas: NonZeroUsize,
    pub(crate) aggregates: usize,
    /// What ran beside the server.
    pub(crate) stages: Vec<&'static str>,
    pub(crate) rounds: Vec<Round>,
    /// The median of the rounds' ratios.
    pub(crate) ratio: f64,
}

impl CommandFigures {
    /// The round whose ratio is the median; of an even number the lower one.
    fn middle(rounds: &[Round]) -> Option<&Round> {
        let mut by_ratio: Vec<&Round> = rounds.iter().collect();
        by_ratio.sort_by(|one, other| one.ratio.total_cmp(&other.ratio));
        by_ratio.get(rounds.len().saturating_sub(1) / 2).copied()
    }

    /// The median of the ratios.
    pub(crate) fn ratio_of(rounds: &[Round]) -> f64 {
        Self::middle(rounds).map_or(0.0, |round| round.ratio)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{} in flight by {} over {} connection(s), {} aggregates, sync {}, {} server(s), {}\n\n\
             commands/s  {SINGLY:>16}  {IN_BATCHES:>16}  {:>9}  {:>5}\n",
            self.in_flight,
            self.way,
            self.connections,
            self.aggregates,
            self.sync,
            self.replicas,
            self.stages.join(" and "),
            "real",
            "ratio",
        );
        for (number, round) in (1..).zip(&self.rounds) {
            let [singly, in_batches, real] = [&round.bare_singly, &round.bare_in_batches, &round.real]
                .map(|figures| figures.commands_per_second);
            let ratio = round.ratio;
            add(
                &mut text,
                format_args!(
                    "round {number:<4}  {singly:>16.0}  {in_batches:>16.0}  {real:>9.0}  {ratio:>5.2}"
                ),
            );
        }
        add(&mut text, format_args!("median      {:>16}  {:>16}  {:>9}  {:>5.2}", "", "", "", self.ratio));
        if let Some(round) = Self::middle(&self.rounds) {
            if self.rounds.len() > 1 {
                add(&mut text, format_args!("\nOf the round with that ratio:"));
            }
            add_latencies(&mut text, round);
            add_costs(&mut text, round);
            add_kept(&mut text, round);
        }
        text.trim_end().to_owned()
    }
}

fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes any text");
}

fn add_latencies(text: &mut String, round: &Round) {
    let columns = ["p50", "p99", "p99.9", "most"].map(|column| format!("{column:>9}")).concat();
    add(text, format_args!("\n{:<24}{columns}", "milliseconds"));
    let mut row = |name: &str, Latency { p50, p99, p999, max }, of: &str| {
        add(text, format_args!("{name:<24}{p50:>9.2}{p99:>9.2}{p999:>9.2}{max:>9.2}{of}"));
    };
    row(SINGLY, round.bare_singly.answer_ms, "");
    row(IN_BATCHES, round.bare_in_batches.answer_ms, "");
    row("real, answered", round.real.answer_ms, "");
    match round.real.queryable_ms {
        Some(latency) => {
            let of = format!("  (of {})", round.real.queries.unwrap_or_default());
            row("real, queryable", latency, &of);
        }
        None => add(text, format_args!("{:<24}no query was sent while measuring", "real, queryable")),
    }
}

fn add_costs(text: &mut String, round: &Round) {
    let (name, bare) = round.bare();
    if round.real.costs.is_empty() {
        return;
    }
    let columns = ["CPU µs", "bytes written"].map(|column| format!("{column:>15}")).concat();
    add(text, format_args!("\n{:<24}{columns}   {name}:{columns}", "for each command, real"));
    let none = CommandCost::default();
    let sum = |costs: &BTreeMap<String, CommandCost>| {
        costs.values().fold(none, |sum, cost| CommandCost {
            cpu_us: sum.cpu_us + cost.cpu_us,
            written_bytes: sum.written_bytes + cost.written_bytes,
        })
    };
    let indent = name.len() + 1;
    let mut row = |name: &str, real: CommandCost, bare: Option<CommandCost>| {
        let cost = |cost: CommandCost| format!("{:>15.1}{:>15.0}", cost.cpu_us, cost.written_bytes);
        let bare = bare.map(|bare| format!("   {:indent$}{}", "", cost(bare))).unwrap_or_default();
        add(text, format_args!("{name:<24}{}{bare}", cost(real)));
    };
    for (name, real) in &round.real.costs {
        row(name, *real, bare.costs.get(name).copied());
    }
    row("sum", sum(&round.real.costs), Some(sum(&bare.costs)));
}

fn add_kept(text: &mut String, round: &Round) {
    for (name, figures) in [("real", &round.real), round.bare()] {
        let of = |(name, bytes): (&String, &f64)| format!("{name} {bytes:.0}");
        // A folder's name ends with a slash; what is in that of a server are the streams once more.
        let parts = |folders: bool| {
            let kept = figures.kept_bytes.iter().filter(|(name, _)| name.ends_with('/') == folders);
            kept.map(of).collect::<Vec<_>>().join(", ")
        };
        add(text, format_args!("\nbytes kept for each command, {name}: {}", parts(false)));
        if figures.kept_bytes.keys().any(|name| name.ends_with('/')) {
            add(text, format_args!("on disk: {}", parts(true)));
        }
    }
    if let Some(commands) = round.real.commands_a_round {
        add(text, format_args!("\ncommands in a round of the command handler: {commands:.1}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures(rate: f64) -> LoopFigures {
        LoopFigures {
            commands: 10,
            commands_per_second: rate,
            answer_ms: Latency::new(&[]),
            queryable_ms: None,
            queries: None,
            costs: BTreeMap::new(),
            kept_bytes: BTreeMap::new(),
            commands_a_round: None,
        }
    }

    fn round(singly: f64, in_batches: f64, real: f64) -> Round {
        Round::new(figures(singly), figures(in_batches), figures(real))
    }

    #[test]
    fn the_faster_bare_loop_is_the_yardstick_and_the_median_counts() {
        let rounds = [round(100.0, 50.0, 80.0), round(50.0, 200.0, 80.0), round(80.0, 80.0, 40.0)];
        assert_eq!(rounds.each_ref().map(|round| round.ratio), [0.8, 0.4, 0.5]);
        assert_eq!(rounds.each_ref().map(|round| round.bare().0), [SINGLY, IN_BATCHES, SINGLY]);
        assert_eq!(CommandFigures::ratio_of(&rounds), 0.5);
        assert_eq!(CommandFigures::ratio_of(&rounds[..2]), 0.4);
    }

    #[test]
    fn people_see_each_round_and_the_parts_of_the_sums() {
        let cost = |cpu_us| CommandCost { cpu_us, written_bytes: 100.0 };
        let real = LoopFigures {
            queryable_ms: Some(Latency::new(&[Duration::from_millis(2)])),
            queries: Some(1),
            costs: BTreeMap::from([
                ("nats-server".to_owned(), cost(64.0)),
                ("projector".to_owned(), cost(38.0)),
            ]),
            kept_bytes: BTreeMap::from([("EVENTS".to_owned(), 321.0), ("projector/".to_owned(), 77.0)]),
            commands_a_round: Some(19.3),
            ..figures(80.0)
        };
        let rounds = vec![Round::new(figures(100.0), figures(50.0), real)];
        let figures = CommandFigures {
            in_flight: 64,
            connections: 1,
            way: "submit",
            sync: "default".to_owned(),
            replicas: NonZeroUsize::MIN,
            aggregates: 4096,
            stages: vec!["command-handler", "projector"],
            ratio: CommandFigures::ratio_of(&rounds),
            rounds,
        };
        let text = figures.text();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for line in [
            "round 1 100 50 80 0.80",
            "median 0.80",
            "real, queryable 2.00 2.00 2.00 2.00 (of 1)",
            "sum 102.0 200 0.0 0",
            "bytes kept for each command, real: EVENTS 321",
            "on disk: projector/ 77",
            "commands in a round of the command handler: 19.3",
        ] {
            let line: Vec<&str> = line.split_whitespace().collect();
            assert!(words.contains(&line), "{line:?} in\n{text}");
        }
    }
}
