//! A checked application, which hands out its parts.

pub use super::context::BuiltReport;
use super::{Application, ApplicationError, Benchmark, Context, DefaultSettings, SettingKeys, check::check};
use crate::{
    command_view::CommandView,
    decider::AggregateRegistry,
    process::Process,
    process_rejections::ProcessRejections,
    projection::{OutcomeProjection, Projection},
    report::Column,
};

/// What the projector keeps.
pub struct Views {
    /// Projections of events.
    pub projections: Vec<Box<dyn Projection>>,
    /// Projections of outcomes.
    pub outcome_projections: Vec<Box<dyn OutcomeProjection>>,
}

/// The parts of an application whose names all fit together.
///
/// Views, reports and processes are made from settings when the model is built. To make them again, build the model again, which is cheap.
pub struct Model {
    contexts: Vec<Context>,
    benchmark: Option<Benchmark>,
}

impl Model {
    /// The model of an application.
    ///
    /// # Errors
    /// [`ApplicationError`] lists every name that is not allowed, occurs twice or contradicts another one.
    pub fn of<A: Application>() -> Result<Self, ApplicationError> {
        let problems = check::<A>();
        if problems.is_empty() {
            Ok(Self { contexts: A::contexts(), benchmark: A::benchmark() })
        } else {
            Err(ApplicationError { application: A::NAME, problems })
        }
    }

    /// The names of its contexts.
    pub fn context_names(&self) -> Vec<&'static str> {
        self.contexts.iter().map(|context| context.name).collect()
    }

    /// Every aggregate type, for the command handler.
    pub fn aggregates(&self) -> AggregateRegistry {
        let parts = self.contexts.iter().flat_map(|context| &context.aggregates);
        parts.fold(AggregateRegistry::new(), |registry, part| (part.add)(registry))
    }

    /// Everything that fills views, for the projector.
    pub fn views(self, keys: &mut dyn SettingKeys) -> Views {
        let mut views = Views {
            projections: Vec::new(),
            outcome_projections: vec![Box::new(CommandView), Box::new(ProcessRejections)],
        };
        for context in self.contexts {
            views.projections.extend(context.views.into_iter().map(|part| (part.make)(keys)));
            views.outcome_projections.extend(context.outcome_views.into_iter().map(|part| (part.make)(keys)));
        }
        views
    }

    /// Every report, for the reporter.
    pub fn reports(self, keys: &mut dyn SettingKeys) -> Vec<BuiltReport> {
        let parts = self.contexts.into_iter().flat_map(|context| context.reports);
        parts.map(|part| (part.make)(keys)).collect()
    }

    /// The columns of a report, as people see them; `None` if there is no such report.
    pub fn report_columns(self, report: &str) -> Option<&'static [Column]> {
        let reports = self.reports(&mut DefaultSettings::default());
        reports.iter().find(|each| each.ledger.name() == report).map(|each| each.columns)
    }

    /// The names of its processes.
    pub fn process_names(&self) -> Vec<&'static str> {
        let parts = self.contexts.iter().flat_map(|context| &context.processes);
        parts.filter_map(|part| part.listed).collect()
    }

    /// Every process, for the process manager.
    pub fn processes(self, keys: &mut dyn SettingKeys) -> Vec<Box<dyn Process>> {
        let parts = self.contexts.into_iter().flat_map(|context| context.processes);
        parts.map(|part| (part.make)(keys)).collect()
    }

    /// The load of `bench commands` and `bench pipeline`.
    pub fn benchmark(&self) -> Option<Benchmark> {
        self.benchmark
    }
}
