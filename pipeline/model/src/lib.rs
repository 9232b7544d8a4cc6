//! Millstream's reference domains: a retailer, orders, and comments on pictures.
//!
//! One folder a context. Beside it, the function `context` in `<context>.rs` lists what the context has, and [`Reference`] lists
//! the contexts: the one place where they are registered with the stages. `millstream new context` adds to that list. Rules
//! that several contexts have are beside them, such as [`lines`].

pub mod comments;
pub mod lines;
pub mod orders;
pub mod retail;

use millstream::{
    application::{Application, Benchmark, Context, DefaultSettings, Model},
    decider::AggregateRegistry,
    process::Process,
    projection::{OutcomeProjection, Projection},
    report::Column,
};

/// The application of the reference domains.
#[derive(Debug)]
pub struct Reference;

impl Application for Reference {
    const NAME: &'static str = "millstream";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const ABOUT: &'static str = "Event sourcing and CQRS on NATS JetStream";

    fn contexts() -> Vec<Context> {
        vec![orders::context(), retail::context(), comments::context()]
    }

    fn benchmark() -> Option<Benchmark> {
        Some(retail::BENCHMARK)
    }
}

fn model() -> Model {
    Model::of::<Reference>().expect("a test of this package builds the model")
}

/// Every aggregate.
pub fn aggregates() -> AggregateRegistry {
    model().aggregates()
}

/// Every projection that fills views, as it is without configuration.
pub fn projections() -> Vec<Box<dyn Projection>> {
    model().views(&mut DefaultSettings::default()).projections
}

/// Every report, as it is without configuration.
pub fn reports() -> Vec<Box<dyn Projection>> {
    let reports = model().reports(&mut DefaultSettings::default());
    reports.into_iter().map(|report| report.ledger).collect()
}

/// Every process, as it is without configuration.
pub fn processes() -> Vec<Box<dyn Process>> {
    model().processes(&mut DefaultSettings::default())
}

/// The columns of a report, as people see them; none for a report that there is not.
pub fn report_columns(report: &str) -> Option<&'static [Column]> {
    model().report_columns(report)
}

/// What is projected from the outcomes of commands.
pub fn outcome_projections() -> Vec<Box<dyn OutcomeProjection>> {
    model().views(&mut DefaultSettings::default()).outcome_projections
}

/// The blocks of the guide to the testing kit, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/testing.md")]
pub struct TestingGuide;

/// The blocks of the guide to claims and closing days, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/claims-and-closing-days.md")]
pub struct ClaimsAndClosingDaysGuide;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_is_sound() {
        if let Err(error) = Model::of::<Reference>() {
            panic!("{error}");
        }
    }
}
