//! The `[sql]` section.

use std::{fmt, marker::PhantomData};

use millstream_domain::{
    application::{Application, Model, Views},
    projection::{OutcomeProjection, Projection},
};
use millstream_runtime::config::{Section, SectionKeys};
use millstream_sql::replica_runner::SqlSettings;

/// The views and reports that the stage of an application keeps, and where it keeps them.
pub struct StageConfig<A> {
    /// Where the tables are, and how they are filled.
    pub settings: SqlSettings,
    /// The projections of views and reports, with their own settings; none if the application is invalid, which is noted.
    pub projections: Vec<Box<dyn Projection>>,
    /// The projections of outcomes.
    pub outcome_projections: Vec<Box<dyn OutcomeProjection>>,
    application: PhantomData<fn() -> A>,
}

impl<A: Application> Section for StageConfig<A> {
    const NAME: &'static str = "sql";
    const ABOUT: &'static str = "Where views and reports are kept as tables.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let (mut projections, mut outcome_projections) = (Vec::new(), Vec::new());
        match (Model::of::<A>(), Model::of::<A>()) {
            (Ok(views), Ok(reports)) => {
                let Views { projections: of_events, outcome_projections: of_outcomes } = views.views(keys);
                projections.extend(of_events);
                projections.extend(reports.reports(keys).into_iter().map(|report| report.ledger));
                outcome_projections.extend(of_outcomes);
            }
            (Err(error), _) | (_, Err(error)) => keys.general_problem(error),
        }
        let settings = SqlSettings::read(keys, &projections, &outcome_projections);
        Self { settings, projections, outcome_projections, application: PhantomData }
    }
}

impl<A> fmt::Debug for StageConfig<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StageConfig").field("settings", &self.settings).finish_non_exhaustive()
    }
}
