//! Millstream's reference domains. Pure: no async, no clock, no randomness, no NATS and no redb; time and ids arrive as
//! arguments.
//!
//! One folder a context. A context lists what it has in functions (`aggregates`, `projections`, `reports`, `processes`), and
//! the functions of the same names here are the one place where a context is registered with the stages.

pub mod business_date;
pub mod command_view;
pub mod comments;
mod content_digest;
pub mod money;
pub mod orders;
pub mod reference;
pub mod retail;

use millstream_engine::{
    decider::AggregateRegistry,
    process::Process,
    projection::{OutcomeProjection, Projection},
    report::Column,
};

/// Every aggregate, for the command handler.
pub fn aggregates() -> AggregateRegistry {
    comments::aggregates(orders::aggregates(retail::aggregates(AggregateRegistry::new())))
}

/// Every projection that fills views, for the projector.
pub fn projections() -> Vec<Box<dyn Projection>> {
    retail::projections().into_iter().chain(orders::projections()).chain(comments::projections()).collect()
}

/// Every report, for the reporter.
pub fn reports() -> Vec<Box<dyn Projection>> {
    retail::reports().into_iter().collect()
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
    let retail = retail::processes(settings.closing_hours);
    retail.into_iter().chain(orders::processes(settings.deadlines)).collect()
}

/// The columns of a report of any context, as people see them; none for a report that there is not.
pub fn report_columns(report: &str) -> Option<&'static [Column]> {
    retail::REPORT_COLUMNS.iter().find(|(name, _)| *name == report).map(|(_, columns)| *columns)
}

/// What is projected from the outcomes of commands, in every context alike, for the projector.
pub fn outcome_projections() -> Vec<Box<dyn OutcomeProjection>> {
    vec![Box::new(command_view::CommandView)]
}
