//! Every metric with its name, unit, labels, buckets and help: what docs/metrics.md lists.

use millstream_contract::stream_names::{COMMANDS, OUTCOMES};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::{
    ConnectionMetrics, Count, Fraction, HandlerMetrics, Level, LiveMetrics, ProcessMetrics,
    ProjectionMetrics, PurgeMetrics, ReaderMetrics, ReportMetrics, StoreMetrics, StreamMetrics,
};

type Labels = Vec<(&'static str, String)>;
type Counts = Family<Labels, Count>;
type Levels = Family<Labels, Level>;
type Fractions = Family<Labels, Fraction>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// From 100 microseconds to about 26 seconds.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 19))
}

/// From 1 to 16,384.
fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 15))
}

macro_rules! families {
    ($($field:ident: $kind:ty = $name:literal $(in $unit:expr)?, $make:expr, $help:literal;)+) => {
        #[derive(Debug)]
        pub(super) struct Families { $($field: $kind,)+ }

        impl Families {
            pub(super) fn register(registry: &mut Registry) -> Self {
                let families = Self { $($field: $make,)+ };
                $(families!(@register registry, $name, $help, families.$field.clone() $(, $unit)?);)+
                families
            }
        }
    };
    (@register $registry:ident, $name:literal, $help:literal, $metric:expr) => {
        $registry.register($name, $help, $metric)
    };
    (@register $registry:ident, $name:literal, $help:literal, $metric:expr, $unit:expr) => {
        $registry.register_with_unit($name, $help, $unit, $metric)
    };
}

families! {
    build: Levels = "build_info", Family::default(), "1, with the stage, its instance, the version of the application and that of Millstream as labels";
    ready: Level = "ready", Gauge::default(), "1 while the process is ready, as /readyz says, else 0";
    connected: Level = "nats_connected", Gauge::default(), "1 while connected to NATS";
    reconnects: Count = "nats_reconnects", Counter::default(), "Connections to NATS after a lost one";
    slow_consumers: Count = "nats_slow_consumers", Counter::default(), "Times the client dropped messages because it read too slowly";
    refused_replies: Count = "refused_replies", Counter::default(), "Answers not sent, because the subject that was named for them is no place for answers";
    log_lines_dropped: Count = "log_lines_dropped", Counter::default(), "Lines of log dropped, because standard error could not be written";
    reader_position: Levels = "reader_position", Family::default(), "Stream sequence of the last message handled";
    reader_lag_events: Levels = "reader_lag_events", Family::default(), "Messages that wait to be handled";
    reader_lag: Fractions = "reader_lag" in Unit::Seconds, Family::default(), "Age of the last handled message while others wait, else 0; of the command handler, how long the oldest command without an outcome has waited";
    reader_messages: Counts = "reader_messages", Family::default(), "Messages handled";
    reader_restarts: Counts = "reader_restarts", Family::default(), "Times the reader's consumer was made again";
    active: Levels = "handler_active", Family::default(), "1 while this process decides commands, 0 while it stands by";
    warm: Levels = "handler_warm", Family::default(), "1 while this process knows the states of aggregates up to the last commits, so that it could decide at once";
    takeovers: Counts = "handler_takeovers", Family::default(), "Times this process became the active one";
    round_commands: Histograms = "round_commands", Family::new_with_constructor(counts as fn() -> Histogram), "Commands in a round";
    round_seconds: Histograms = "round" in Unit::Seconds, Family::new_with_constructor(seconds as fn() -> Histogram), "From the first decision to the outcome record stored, of each record; rounds that wait share one";
    outcomes: Counts = "outcomes", Family::default(), "Commands by what became of them";
    commits: Counts = "commits", Family::default(), "Commits appended to EVENTS";
    events: Counts = "events", Family::default(), "Events in the appended commits";
    conflicts: Counts = "append_conflicts", Family::default(), "Appends refused because the aggregate had moved on";
    unclear_appends: Counts = "append_unclear", Family::default(), "Appends without a clear answer";
    cached_aggregates: Levels = "cached_aggregates", Family::default(), "Aggregates whose state is in memory";
    cached_bytes: Levels = "cached_aggregates" in Unit::Bytes, Family::default(), "Estimated size of the aggregate states in memory";
    cache_lookups: Counts = "cache_lookups", Family::default(), "Aggregate states looked up in memory, by result";
    dead_letters: Counts = "dead_letters", Family::default(), "Messages set aside";
    store_bytes: Levels = "store" in Unit::Bytes, Family::default(), "Size of a redb file";
    store_commit: Histograms = "store_commit" in Unit::Seconds, Family::new_with_constructor(seconds as fn() -> Histogram), "Time of a redb commit, by whether it is synced to disk";
    store_rows: Counts = "store_rows", Family::default(), "Rows written or removed";
    damaged_files: Counts = "damaged_files", Family::default(), "Times a file was found damaged: when it was opened and set aside, or when whoever uses its rows met damage";
    query_answers: Counts = "queries", Family::default(), "Queries answered, by code";
    query_seconds: Histograms = "query" in Unit::Seconds, Family::new_with_constructor(seconds as fn() -> Histogram), "From request to answer, waiting included";
    query_wait: Histograms = "query_wait" in Unit::Seconds, Family::new_with_constructor(seconds as fn() -> Histogram), "Waiting for the position that a query asked for";
    projection_halted: Levels = "projection_halted", Family::default(), "1 while the projection has halted at an event that it cannot apply, else 0";
    projection_lag_events: Levels = "projection_lag_events", Family::default(), "Messages of its stream that the projection has not applied yet";
    report_revisions: Counts = "report_revisions", Family::default(), "Report revisions published, by status";
    process_active: Levels = "process_active", Family::default(), "1 while this process manager carries out effects, 0 while it stands by";
    process_commands: Counts = "process_commands", Family::default(), "Commands that processes sent";
    process_timers: Counts = "process_timers", Family::default(), "Timers that processes set or cancelled";
    process_effects_held: Levels = "process_effects_held", Family::default(), "Effects that were tried and wait to be tried again";
    process_dead_letters: Counts = "process_dead_letters", Family::default(), "Effects set aside because the server will never take them";
    stream_messages: Levels = "stream_messages", Family::default(), "Messages that a stream holds";
    stream_bytes: Levels = "stream" in Unit::Bytes, Family::default(), "Bytes that a stream holds";
    stream_used: Fractions = "stream_used_ratio", Family::default(), "The part of its limit of bytes or messages that a stream holds, whichever is more; 0 without limits";
    purged: Counts = "purged", Family::default(), "Messages that the command handler purged, by reason";
    process_rejections: Counts = "process_rejections", Family::default(), "Commands of processes that were rejected; those that fell due count as process timer";
    gateway_requests: Counts = "gateway_requests", Family::default(), "HTTP requests answered, by route and status";
    gateway_seconds: Histograms = "gateway_request" in Unit::Seconds, Family::new_with_constructor(seconds as fn() -> Histogram), "From an HTTP request to its answer, by route, waiting included";
    gateway_connections: Levels = "gateway_connections", Family::default(), "Connections of HTTP clients";
    gateway_live_streams: Levels = "gateway_live_streams", Family::default(), "Streams of live rows that HTTP clients have open";
    gateway_live_rows: Levels = "gateway_live_rows", Family::default(), "Rows and lists that these streams show, each counted once";
    gateway_live_questions: Counts = "gateway_live_questions", Family::default(), "Questions to views for such rows and lists";
    gateway_live_events: Counts = "gateway_live_events", Family::default(), "Events sent on such streams";
    changes_told: Counts = "changes_told", Family::default(), "Messages that told of changed rows";
    timers_due: Counts = "timers_due", Family::default(), "Commands that fell due and were sent";
}

impl Families {
    pub(super) fn build(&self, stage: &str, instance: &str, version: &str, millstream: &str) -> Level {
        self.build.get_or_create_owned(&vec![
            ("stage", stage.to_owned()),
            ("instance", instance.to_owned()),
            ("version", version.to_owned()),
            ("millstream", millstream.to_owned()),
        ])
    }

    pub(super) fn ready(&self) -> &Level {
        &self.ready
    }

    pub(super) fn connection(&self) -> ConnectionMetrics {
        ConnectionMetrics {
            connected: self.connected.clone(),
            reconnects: self.reconnects.clone(),
            slow_consumers: self.slow_consumers.clone(),
        }
    }

    pub(super) fn refused_replies(&self) -> Count {
        self.refused_replies.clone()
    }

    pub(super) fn log_lines_dropped(&self) -> Count {
        self.log_lines_dropped.clone()
    }

    pub(super) fn reader(&self, stream: &str, name: &str) -> ReaderMetrics {
        let labels = vec![("stream", stream.to_owned()), ("reader", name.to_owned())];
        ReaderMetrics {
            position: self.reader_position.get_or_create_owned(&labels),
            lag_events: self.reader_lag_events.get_or_create_owned(&labels),
            lag_seconds: self.reader_lag.get_or_create_owned(&labels),
            messages: self.reader_messages.get_or_create_owned(&labels),
        }
    }

    pub(super) fn reader_restarts(&self, stream: &str, name: &str) -> Count {
        let labels = vec![("stream", stream.to_owned()), ("reader", name.to_owned())];
        self.reader_restarts.get_or_create_owned(&labels)
    }

    pub(super) fn handler(&self) -> HandlerMetrics {
        let labels = Vec::new();
        let with = |key: &'static str, value: &str| vec![(key, value.to_owned())];
        let outcome = |kind: &str| self.outcomes.get_or_create_owned(&with("outcome", kind));
        HandlerMetrics {
            active: self.active.get_or_create_owned(&labels),
            warm: self.warm.get_or_create_owned(&labels),
            takeovers: self.takeovers.get_or_create_owned(&labels),
            round_commands: self.round_commands.get_or_create_owned(&labels),
            round_seconds: self.round_seconds.get_or_create_owned(&labels),
            events: self.events.get_or_create_owned(&labels),
            commits: self.commits.get_or_create_owned(&labels),
            conflicts: self.conflicts.get_or_create_owned(&labels),
            unclear_appends: self.unclear_appends.get_or_create_owned(&labels),
            accepted: outcome("accepted"),
            rejected: outcome("rejected"),
            duplicate: outcome("duplicate"),
            dead_lettered: outcome("dead_lettered"),
            purged_for_age: self.purged("age"),
            purged_for_space: self.purged("space"),
            cached_aggregates: self.cached_aggregates.get_or_create_owned(&labels),
            cached_bytes: self.cached_bytes.get_or_create_owned(&labels),
            cache_hits: self.cache_lookups.get_or_create_owned(&with("result", "hit")),
            cache_misses: self.cache_lookups.get_or_create_owned(&with("result", "miss")),
        }
    }

    pub(super) fn store(&self, name: &str) -> StoreMetrics {
        let labels = vec![("store", name.to_owned())];
        let commit = |durable: bool| {
            let labels = vec![("store", name.to_owned()), ("durable", durable.to_string())];
            self.store_commit.get_or_create_owned(&labels)
        };
        StoreMetrics {
            bytes: self.store_bytes.get_or_create_owned(&labels),
            durable_commit_seconds: commit(true),
            commit_seconds: commit(false),
            rows: self.store_rows.get_or_create_owned(&labels),
        }
    }

    pub(super) fn damaged_files(&self, name: &str) -> Count {
        self.damaged_files.get_or_create_owned(&vec![("store", name.to_owned())])
    }

    pub(super) fn gateway_requests(&self, route: &str, status: u16) -> Count {
        let labels = vec![("route", route.to_owned()), ("status", status.to_string())];
        self.gateway_requests.get_or_create_owned(&labels)
    }

    pub(super) fn gateway_seconds(&self, route: &str) -> Histogram {
        self.gateway_seconds.get_or_create_owned(&vec![("route", route.to_owned())])
    }

    pub(super) fn gateway_connections(&self) -> Level {
        self.gateway_connections.get_or_create_owned(&Vec::new())
    }

    /// Time to answer, and of it waiting.
    pub(super) fn query(&self, endpoint: &str) -> (Histogram, Histogram) {
        let labels = vec![("endpoint", endpoint.to_owned())];
        (self.query_seconds.get_or_create_owned(&labels), self.query_wait.get_or_create_owned(&labels))
    }

    pub(super) fn query_answers(&self, endpoint: &str, code: u16) -> Count {
        let labels = vec![("endpoint", endpoint.to_owned()), ("code", code.to_string())];
        self.query_answers.get_or_create_owned(&labels)
    }

    pub(super) fn projection(&self, projection: &str) -> ProjectionMetrics {
        let labels = vec![("projection", projection.to_owned())];
        ProjectionMetrics {
            halted: self.projection_halted.get_or_create_owned(&labels),
            lag_events: self.projection_lag_events.get_or_create_owned(&labels),
        }
    }

    pub(super) fn dead_letters(&self, stream: &str) -> Count {
        self.dead_letters.get_or_create_owned(&vec![("stream", stream.to_owned())])
    }

    pub(super) fn process(&self, process: &str) -> ProcessMetrics {
        let of = |action: Option<&str>| {
            let labels = action.map(|action| ("action", action.to_owned()));
            [("process", process.to_owned())].into_iter().chain(labels).collect::<Labels>()
        };
        ProcessMetrics {
            commands: self.process_commands.get_or_create_owned(&of(None)),
            timers_set: self.process_timers.get_or_create_owned(&of(Some("set"))),
            timers_cancelled: self.process_timers.get_or_create_owned(&of(Some("cancelled"))),
            dead_letters: self.process_dead_letters.get_or_create_owned(&of(None)),
            effects_held: self.process_effects_held.get_or_create_owned(&of(None)),
        }
    }

    pub(super) fn process_rejections(&self, process: &str, code: &str) -> Count {
        let labels = vec![("process", process.to_owned()), ("code", code.to_owned())];
        self.process_rejections.get_or_create_owned(&labels)
    }

    pub(super) fn stream(&self, stream: &str) -> StreamMetrics {
        let labels = vec![("stream", stream.to_owned())];
        StreamMetrics {
            messages: self.stream_messages.get_or_create_owned(&labels),
            bytes: self.stream_bytes.get_or_create_owned(&labels),
            used: self.stream_used.get_or_create_owned(&labels),
        }
    }

    fn purged(&self, reason: &str) -> PurgeMetrics {
        let of = |stream: &str| {
            let labels = vec![("stream", stream.to_owned()), ("reason", reason.to_owned())];
            self.purged.get_or_create_owned(&labels)
        };
        PurgeMetrics { commands: of(COMMANDS), records: of(OUTCOMES) }
    }

    pub(super) fn process_active(&self) -> Level {
        self.process_active.get_or_create_owned(&Labels::new())
    }

    pub(super) fn live(&self) -> LiveMetrics {
        let none = Labels::new();
        LiveMetrics {
            streams: self.gateway_live_streams.get_or_create_owned(&none),
            rows: self.gateway_live_rows.get_or_create_owned(&none),
            questions: self.gateway_live_questions.get_or_create_owned(&none),
            events: self.gateway_live_events.get_or_create_owned(&none),
        }
    }

    pub(super) fn changes_told(&self) -> Count {
        self.changes_told.get_or_create_owned(&Labels::new())
    }

    pub(super) fn timers_due(&self) -> Count {
        self.timers_due.get_or_create_owned(&Labels::new())
    }

    pub(super) fn report(&self, report: &str) -> ReportMetrics {
        let revisions = |status: &str| {
            let labels = vec![("report", report.to_owned()), ("status", status.to_owned())];
            self.report_revisions.get_or_create_owned(&labels)
        };
        ReportMetrics { open: revisions("open"), sealed: revisions("sealed") }
    }
}
