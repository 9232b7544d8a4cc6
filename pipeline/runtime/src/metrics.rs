//! The metrics of a process. Names are a contract, listed in docs/metrics.md: `millstream_<name>_<unit>`, in base units; counters end in
//! `_total`. Handles are made once, and are cheap to use and to clone.
//!
//! Deliberately absent: a global registry. Code that counts is given a handle.

mod families;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use families::Families;
use millstream_jetstream::broker::StreamUsage;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::health::Readiness;

/// All metrics of a process. Clones share one state.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    families: Arc<Families>,
}

/// A counter.
pub type Count = Counter<u64, AtomicU64>;
/// A whole number that goes up and down.
pub type Level = Gauge<i64, AtomicI64>;
/// A fraction that goes up and down.
pub type Fraction = Gauge<f64, AtomicU64>;

/// Metrics of one reader of a stream.
#[derive(Debug, Clone)]
pub struct ReaderMetrics {
    /// The sequence of the last message that was handled.
    pub position: Level,
    /// Messages that wait to be handled.
    pub lag_events: Level,
    /// Age of the last handled message while others wait; 0 when none does.
    pub lag_seconds: Fraction,
    /// Messages handled.
    pub messages: Count,
}

impl ReaderMetrics {
    /// Everything up to `position` was handled. The lag of this reader is measured elsewhere.
    pub fn reached(&self, position: u64, messages: u64) {
        self.position.set(level(position));
        self.messages.inc_by(messages);
    }

    /// `pending` messages wait, the oldest for `age`.
    pub fn lags(&self, pending: u64, age: Duration) {
        self.lag_events.set(level(pending));
        self.lag_seconds.set(age.as_secs_f64());
    }

    /// Everything up to `position` was handled, `pending` messages wait, and the message at `position` was `age` old.
    pub fn handled(&self, position: u64, messages: u64, pending: u64, age: Duration) {
        self.position.set(level(position));
        self.messages.inc_by(messages);
        self.lag_events.set(level(pending));
        self.lag_seconds.set(if pending == 0 { 0.0 } else { age.as_secs_f64() });
    }
}

/// Metrics of a projection.
#[derive(Debug, Clone)]
pub struct ProjectionMetrics {
    /// 1 while it has halted at an event that it cannot apply.
    pub halted: Level,
    /// Messages of its stream that it has not applied yet.
    pub lag_events: Level,
}

/// Metrics of a command handler.
#[derive(Debug, Clone)]
pub struct HandlerMetrics {
    /// 1 while this process decides, 0 while it stands by.
    pub active: Level,
    /// 1 while this process knows the states of aggregates up to the last commits.
    pub warm: Level,
    /// How often this process has become the active one.
    pub takeovers: Count,
    /// Commands in each round.
    pub round_commands: Histogram,
    /// The time from the first decision of a record to the moment at which the record is stored.
    pub round_seconds: Histogram,
    /// Events written.
    pub events: Count,
    /// Commits written.
    pub commits: Count,
    /// Appends that were refused because the aggregate had moved on.
    pub conflicts: Count,
    /// Appends without a clear answer.
    pub unclear_appends: Count,
    /// Commands accepted.
    pub accepted: Count,
    /// Commands rejected.
    pub rejected: Count,
    /// Commands that were answered with the first outcome of their id.
    pub duplicate: Count,
    /// Commands set aside as dead letters.
    pub dead_lettered: Count,
    /// What was purged because of its age.
    pub purged_for_age: PurgeMetrics,
    /// What was purged because a stream was crowded.
    pub purged_for_space: PurgeMetrics,
    /// Aggregates whose state is in memory.
    pub cached_aggregates: Level,
    /// Bytes of aggregate states in memory, estimated.
    pub cached_bytes: Level,
    /// Aggregates whose state was found in memory.
    pub cache_hits: Count,
    /// Aggregates whose state had to be loaded.
    pub cache_misses: Count,
}

/// Metrics of what a command handler purges for one reason.
#[derive(Debug, Clone)]
pub struct PurgeMetrics {
    /// Commands.
    pub commands: Count,
    /// Outcome records.
    pub records: Count,
}

/// Metrics of one redb file.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Size of the file.
    pub bytes: Level,
    /// The duration of each commit that is synced to disk.
    pub durable_commit_seconds: Histogram,
    /// The duration of each commit that is not synced.
    pub commit_seconds: Histogram,
    /// Rows written or removed.
    pub rows: Count,
}

/// Metrics of one query endpoint.
#[derive(Debug, Clone)]
pub struct QueryMetrics {
    families: Arc<Families>,
    endpoint: String,
    /// The time from request to answer, including waiting.
    pub seconds: Histogram,
    /// The time that requests with a position waited for that position.
    pub wait_seconds: Histogram,
}

impl QueryMetrics {
    /// Counts an answer by its code, which is like an HTTP status; 200 means success.
    pub fn answered(&self, code: u16) {
        self.families.query_answers(&self.endpoint, code).inc();
    }
}

/// Metrics of one stream.
#[derive(Debug, Clone)]
pub struct StreamMetrics {
    /// Messages that it holds.
    pub messages: Level,
    /// Bytes that it holds.
    pub bytes: Level,
    /// The used part of its limit.
    pub used: Fraction,
}

impl StreamMetrics {
    /// How much the stream holds now.
    pub fn observed(&self, usage: &StreamUsage) {
        self.messages.set(level(usage.messages));
        self.bytes.set(level(usage.bytes));
        self.used.set(usage.ratio());
    }
}

/// Metrics of the connection to NATS.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    /// 1 while connected.
    pub connected: Level,
    /// How often it was re-established.
    pub reconnects: Count,
    /// How often the client library dropped messages because this process read too slowly.
    pub slow_consumers: Count,
}

/// Metrics of one report.
#[derive(Debug, Clone)]
pub struct ReportMetrics {
    /// Revisions published while open.
    pub open: Count,
    /// Revisions published as sealed.
    pub sealed: Count,
}

/// Metrics of one process of a process manager.
#[derive(Debug, Clone)]
pub struct ProcessMetrics {
    /// Commands put on COMMANDS.
    pub commands: Count,
    /// Timers set.
    pub timers_set: Count,
    /// Timers cancelled.
    pub timers_cancelled: Count,
    /// Effects set aside because the server will never accept them.
    pub dead_letters: Count,
    /// Effects that failed and will be tried again.
    pub effects_held: Level,
}

/// Metrics of a gateway's streams of live rows.
#[derive(Debug, Clone)]
pub struct LiveMetrics {
    /// Streams that are open.
    pub streams: Level,
    /// Rows and lists that they show.
    pub rows: Level,
    /// Questions to views.
    pub questions: Count,
    /// Events sent.
    pub events: Count,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("millstream");
        let families = Families::register(&mut registry);
        Self { registry: Arc::new(registry), families: Arc::new(families) }
    }

    /// Names the process, once, at its start.
    pub fn identify(&self, stage: &str, instance: &str, version: &str, millstream: &str) {
        self.families.build(stage, instance, version, millstream).set(1);
    }

    /// Says whether the process is ready, before somebody looks.
    pub fn observe_readiness(&self, readiness: &Readiness) {
        self.families.ready().set(i64::from(readiness.reasons().is_empty()));
    }

    /// Of the reader `name` of a stream.
    #[must_use]
    pub fn reader(&self, stream: &str, name: &str) -> ReaderMetrics {
        self.families.reader(stream, name)
    }

    /// How often the consumer of the reader `name` was made again.
    #[must_use]
    pub fn reader_restarts(&self, stream: &str, name: &str) -> Count {
        self.families.reader_restarts(stream, name)
    }

    /// Of the command handler.
    #[must_use]
    pub fn handler(&self) -> HandlerMetrics {
        self.families.handler()
    }

    /// Of the redb file `name`.
    #[must_use]
    pub fn store(&self, name: &str) -> StoreMetrics {
        self.families.store(name)
    }

    /// How often the redb file `name` was found damaged: when it was opened and set aside, or while it was in use.
    #[must_use]
    pub fn damaged_files(&self, name: &str) -> Count {
        self.families.damaged_files(name)
    }

    /// Of a query endpoint, such as `retail.stock.get`.
    #[must_use]
    pub fn query(&self, endpoint: &str) -> QueryMetrics {
        let (seconds, wait_seconds) = self.families.query(endpoint);
        QueryMetrics {
            families: Arc::clone(&self.families),
            endpoint: endpoint.to_owned(),
            seconds,
            wait_seconds,
        }
    }

    /// Of a projection, such as `retail.stock`.
    #[must_use]
    pub fn projection(&self, projection: &str) -> ProjectionMetrics {
        self.families.projection(projection)
    }

    /// Messages of a stream that were set aside.
    #[must_use]
    pub fn dead_letters(&self, stream: &str) -> Count {
        self.families.dead_letters(stream)
    }

    /// Of a report.
    #[must_use]
    pub fn report(&self, report: &str) -> ReportMetrics {
        self.families.report(report)
    }

    /// Of a process.
    #[must_use]
    pub fn process(&self, process: &str) -> ProcessMetrics {
        self.families.process(process)
    }

    /// Of a stream.
    #[must_use]
    pub fn stream(&self, stream: &str) -> StreamMetrics {
        self.families.stream(stream)
    }

    /// Commands of a process that were rejected with `code`.
    #[must_use]
    pub fn process_rejections(&self, process: &str, code: &str) -> Count {
        self.families.process_rejections(process, code)
    }

    /// 1 while this process manager carries out effects, 0 while it stands by.
    #[must_use]
    pub fn process_active(&self) -> Level {
        self.families.process_active()
    }

    /// Commands that fell due and were put on COMMANDS.
    #[must_use]
    pub fn timers_due(&self) -> Count {
        self.families.timers_due()
    }

    /// Of the connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionMetrics {
        self.families.connection()
    }

    /// Lines of log that could not be written.
    #[must_use]
    pub fn log_lines_dropped(&self) -> Count {
        self.families.log_lines_dropped()
    }

    /// Answers not sent, because the subject that was named for them is no place for answers.
    #[must_use]
    pub fn refused_replies(&self) -> Count {
        self.families.refused_replies()
    }

    /// An HTTP request of a route was answered with a status, `seconds` after it came.
    pub fn gateway_answered(&self, route: &str, status: u16, seconds: Duration) {
        self.families.gateway_requests(route, status).inc();
        self.families.gateway_seconds(route).observe(seconds.as_secs_f64());
    }

    /// Of streams of live rows.
    #[must_use]
    pub fn live(&self) -> LiveMetrics {
        self.families.live()
    }

    /// Messages that told of changed rows.
    #[must_use]
    pub fn changes_told(&self) -> Count {
        self.families.changes_told()
    }

    /// How many connections of HTTP clients there are.
    #[must_use]
    pub fn gateway_connections(&self) -> Level {
        self.families.gateway_connections()
    }

    /// Everything in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn prometheus_text(&self) -> String {
        let mut open_metrics = String::new();
        prometheus_client::encoding::text::encode(&mut open_metrics, &self.registry)
            .expect("writing to a string cannot fail");
        text::from_open_metrics(&open_metrics)
    }

    /// Everything but histogram buckets as one flat JSON object, name and labels to number: for the statistics of the
    /// stage's NATS micro service.
    #[must_use]
    pub fn snapshot(&self) -> serde_json::Value {
        text::samples(&self.prometheus_text())
    }
}

/// A gauge's number for a count; counts beyond its range do not occur.
pub(crate) fn level(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
