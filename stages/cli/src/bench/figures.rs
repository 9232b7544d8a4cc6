//! What a benchmark found, for people and for programs.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use serde::Serialize;

/// A rate.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Rate {
    /// Commands a second, from the first publish to the last row.
    pub(crate) commands_per_second: f64,
}

impl Rate {
    pub(crate) fn new(commands: usize, elapsed: Duration) -> Self {
        Self { commands_per_second: (commands as f64 / elapsed.as_secs_f64()).round() }
    }
}

/// From publish to queryable, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// Of latencies in ascending order.
    pub(crate) fn new(ascending: &[Duration]) -> Self {
        let at = |share: f64| {
            let rank = (ascending.len() as f64 * share).ceil() as usize;
            let latency = ascending.get(rank.saturating_sub(1)).or(ascending.last());
            latency.map_or(0.0, |latency| (latency.as_secs_f64() * 100_000.0).round() / 100.0)
        };
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) commands: usize,
    pub(crate) aggregates: usize,
    /// When the server syncs.
    pub(crate) sync: String,
    /// How many servers keep the streams.
    pub(crate) replicas: NonZeroUsize,
    /// What ran beside the server.
    pub(crate) stages: Vec<&'static str>,
    pub(crate) bare_loop: Rate,
    pub(crate) pipeline: Rate,
    /// Pipeline to bare loop.
    pub(crate) ratio: f64,
    /// The steady rate at which latency was measured.
    pub(crate) latency_rate: u32,
    pub(crate) latency_ms: Latency,
    /// Peak resident memory by process, in bytes; empty where the system does not tell.
    pub(crate) memory_peak_bytes: BTreeMap<String, u64>,
}

impl Figures {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Latency { p50, p99, p999, max } = self.latency_ms;
        let memory = self.memory_peak_bytes.iter();
        let memory: Vec<_> = memory.map(|(name, bytes)| format!("{name} {} MiB", bytes >> 20)).collect();
        format!(
            "{} commands over {} aggregates, sync {}, {} server(s), {}\nbare loop  {:>9.0} commands/s\npipeline   {:>9.0} commands/s\n\
             ratio      {:>9.2}\nlatency from publish to queryable at {}/s: p50 {p50} ms, p99 {p99} ms, p99.9 {p999} ms, \
             max {max} ms\nmost memory: {}",
            self.commands,
            self.aggregates,
            self.sync,
            self.replicas,
            self.stages.join(" and "),
            self.bare_loop.commands_per_second,
            self.pipeline.commands_per_second,
            self.ratio,
            self.latency_rate,
            memory.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let all: Vec<_> = (1..=1000).map(Duration::from_millis).collect();
        let latency = Latency::new(&all);
        assert_eq!((latency.p50, latency.p99, latency.p999, latency.max), (500.0, 990.0, 999.0, 1000.0));
    }
}
