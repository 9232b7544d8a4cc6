//! Millstream's reference domains. Pure: no async, no clock, no randomness, no NATS and no redb; time and ids arrive as
//! arguments.
//!
//! One folder a context. Beside it, `<context>.rs` lists in its `PARTS` what the context has, and [`CONTEXTS`] lists the
//! contexts: the one place where they are registered with the stages. `millstream new context` adds to both lists here.

pub mod command_view;
pub mod comments;
pub mod orders;
pub mod retail;

use millstream_engine::{
    decider::AggregateRegistry,
    process::Process,
    projection::{OutcomeProjection, Projection},
    report::Column,
};

/// What a context brings to the stages.
pub struct Context {
    /// Adds its aggregates.
    pub aggregates: fn(AggregateRegistry) -> AggregateRegistry,
    /// Its projections that fill views.
    pub projections: fn() -> Vec<Box<dyn Projection>>,
    /// Its reports.
    pub reports: fn() -> Vec<Box<dyn Projection>>,
    /// The columns of each of its reports, as people see them.
    pub report_columns: &'static [(&'static str, &'static [Column])],
    /// Its processes, as a deployment wants them.
    pub processes: fn(&ProcessSettings) -> Vec<Box<dyn Process>>,
}

impl Context {
    /// A context that has nothing: the start of every list of parts.
    pub const EMPTY: Self = Self {
        aggregates: |registry| registry,
        projections: Vec::new,
        reports: Vec::new,
        report_columns: &[],
        processes: |_| Vec::new(),
    };
}

/// Every context.
pub const CONTEXTS: &[Context] = &[retail::PARTS, orders::PARTS, comments::PARTS];

/// Every aggregate, for the command handler.
pub fn aggregates() -> AggregateRegistry {
    CONTEXTS.iter().fold(AggregateRegistry::new(), |registry, context| (context.aggregates)(registry))
}

/// Every projection that fills views, for the projector.
pub fn projections() -> Vec<Box<dyn Projection>> {
    CONTEXTS.iter().flat_map(|context| (context.projections)()).collect()
}

/// Every report, for the reporter.
pub fn reports() -> Vec<Box<dyn Projection>> {
    CONTEXTS.iter().flat_map(|context| (context.reports)()).collect()
}

/// What a deployment says about processes.
#[derive(Debug, Clone, Default)]
pub struct ProcessSettings {
    /// How long customers and the warehouse have.
    pub deadlines: orders::fulfilment::Deadlines,
    /// When days end.
    pub closing_hours: retail::closing::ClosingHours,
}

/// Every process, for the process manager.
pub fn processes(settings: ProcessSettings) -> Vec<Box<dyn Process>> {
    CONTEXTS.iter().flat_map(|context| (context.processes)(&settings)).collect()
}

/// The columns of a report of any context, as people see them; none for a report that there is not.
pub fn report_columns(report: &str) -> Option<&'static [Column]> {
    let mut columns = CONTEXTS.iter().flat_map(|context| context.report_columns);
    columns.find(|(name, _)| *name == report).map(|(_, columns)| *columns)
}

/// What is projected from the outcomes of commands, in every context alike, for the projector.
pub fn outcome_projections() -> Vec<Box<dyn OutcomeProjection>> {
    vec![Box::new(command_view::CommandView)]
}

/// The blocks of the guide to the testing kit, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/testing.md")]
pub struct TestingGuide;
