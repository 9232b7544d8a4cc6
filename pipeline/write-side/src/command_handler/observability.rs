//! Where a handler reports what it does: what it counts, whether it is ready, and whether it gets on.

use std::sync::Arc;

use millstream_contract::{
    command::TIMER_ISSUER,
    stream_names::{COMMANDS, COMMANDS_CONSUMER},
};
use millstream_runtime::{
    health::{Condition, ProgressWatch, Readiness},
    metrics::{Count, HandlerMetrics, Metrics, ReaderMetrics},
};

use crate::state_cache::StateCache;

/// Where a handler reports what it does.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What it counts.
    pub metrics: HandlerMetrics,
    /// Where it stands in COMMANDS.
    pub reader: ReaderMetrics,
    /// Counts messages of COMMANDS that were set aside.
    pub dead_letters: Count,
    /// Whether it is ready: standing by or active.
    pub ready: Condition,
    /// Whether it gets on.
    pub progress: HandlerProgress,
    /// Counts what processes are refused.
    pub process_rejections: ProcessRejectionCounts,
}

/// Counts rejected commands of the processes that there are. Ids that name others are anybody's, and would make a metric each.
#[derive(Debug, Clone)]
pub struct ProcessRejectionCounts {
    metrics: Metrics,
    processes: Arc<[&'static str]>,
}

impl ProcessRejectionCounts {
    pub(super) fn count(&self, process: &str, code: &str) {
        if process == TIMER_ISSUER || self.processes.contains(&process) {
            self.metrics.process_rejections(process, code).inc();
        }
    }
}

/// Whether a handler gets on with its work. Each rests while it is not the handler's.
#[derive(Debug, Clone)]
pub struct HandlerProgress {
    /// Of the active handler: how far COMMANDS has its outcomes recorded.
    pub commands: ProgressWatch,
    /// Of a standby: how far it has learnt ids from OUTCOMES.
    pub ids: ProgressWatch,
    /// Of a standby: how far it has followed the states of aggregates in EVENTS.
    pub states: ProgressWatch,
    /// Of a standby: whether the lease can be asked for.
    pub lease: ProgressWatch,
}

impl HandlerProgress {
    fn new(readiness: &Readiness) -> Self {
        Self {
            commands: readiness.progress("deciding COMMANDS"),
            ids: readiness.progress("following OUTCOMES"),
            states: readiness.progress("following EVENTS"),
            lease: readiness.progress("asking for the lease"),
        }
    }

    /// The turn begins: what a standby follows rests, and commands wait until the first position is known.
    pub(super) fn begin_turn(&self) {
        for watch in [&self.ids, &self.states, &self.lease] {
            watch.rest();
        }
        self.commands.held("this handler is taking over");
    }
}

impl Observed {
    /// Handles of the only command handler of a process.
    pub fn new(metrics: &Metrics, readiness: &Readiness) -> Self {
        Self {
            metrics: metrics.handler(),
            reader: metrics.reader(COMMANDS, COMMANDS_CONSUMER),
            dead_letters: metrics.dead_letters(COMMANDS),
            ready: readiness.condition("command-handler"),
            progress: HandlerProgress::new(readiness),
            process_rejections: ProcessRejectionCounts {
                metrics: metrics.clone(),
                processes: Arc::default(),
            },
        }
    }

    /// With the names of the application's processes, whose rejected commands are counted.
    #[must_use]
    pub fn of_processes(mut self, processes: Vec<&'static str>) -> Self {
        self.process_rejections.processes = processes.into();
        self
    }

    pub(super) fn observe_cache(&self, cache: &StateCache) {
        self.metrics.cached_aggregates.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        self.metrics.cached_bytes.set(i64::try_from(cache.bytes()).unwrap_or(i64::MAX));
    }
}
