//! Where a handler reports its work: metrics, readiness, and progress.

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

/// Where a handler reports its work.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Its metrics.
    pub metrics: HandlerMetrics,
    /// Metrics of its reader of COMMANDS.
    pub reader: ReaderMetrics,
    /// Counts messages of COMMANDS that were set aside as dead letters.
    pub dead_letters: Count,
    /// Whether it is ready, because it stands by or is active.
    pub ready: Condition,
    /// Whether it makes progress.
    pub progress: HandlerProgress,
    /// Counts rejected commands of processes.
    pub process_rejections: ProcessRejectionCounts,
}

/// Counts rejected commands of the application's processes. Anybody can send an id that names another process, and each name would become a
/// metric.
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

/// Whether a handler makes progress. Each watch rests while its work is not the handler's.
#[derive(Debug, Clone)]
pub struct HandlerProgress {
    /// Of the active handler: up to where the outcomes of COMMANDS are recorded.
    pub commands: ProgressWatch,
    /// Of a standby: how far it has learnt ids from OUTCOMES.
    pub ids: ProgressWatch,
    /// Of a standby: how far it has followed the states of aggregates in EVENTS.
    pub states: ProgressWatch,
    /// Of a standby: whether it can ask for the lease.
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

    /// A turn begins. The watches of a standby rest, and commands wait until the first position is known.
    pub(super) fn begin_turn(&self) {
        for watch in [&self.ids, &self.states, &self.lease] {
            watch.rest();
        }
        self.commands.held("this handler is taking over");
    }
}

impl Observed {
    /// The metrics, readiness and progress watches of the only command handler in a process.
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

    /// Sets the names of the application's processes, whose rejected commands are counted.
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
