//! One context of an application, which lists its parts one by one.

use super::SettingKeys;
use crate::{
    decider::{AggregateRegistry, CommandSet as _, Decider, EventSet as _},
    process::Process,
    projection::{OutcomeProjection, Projection},
    report::{Column, Ledger, Report},
};

/// Makes a part from its settings.
pub(super) type Make<T> = Box<dyn FnOnce(&mut dyn SettingKeys) -> T>;

/// What is checked of an aggregate type.
pub(super) struct AggregatePart {
    pub(super) context: &'static str,
    pub(super) name: &'static str,
    pub(super) commands: &'static [&'static str],
    pub(super) internal: &'static [&'static str],
    pub(super) events: &'static [(&'static str, u16)],
    pub(super) add: fn(AggregateRegistry) -> AggregateRegistry,
}

/// A part and the name under which it was listed, if it was listed with a name.
pub(super) struct Part<T> {
    pub(super) listed: Option<&'static str>,
    pub(super) make: Make<T>,
}

/// A report and how people see it.
pub struct BuiltReport {
    /// Its ledger.
    pub ledger: Box<dyn Projection>,
    /// Its columns, in the order in which people see them.
    pub columns: &'static [Column],
}

/// A context: aggregates, views, reports and processes under one name.
///
/// ```
/// # use millstream_domain::{application::{Context, SettingKeys}, process::{Effect, Process, ProcessError}};
/// # use millstream_domain::{contract::commit::EventEnvelope, projection::Rows};
/// # struct Dunning;
/// # impl Dunning { fn from_keys(_: &mut dyn SettingKeys) -> Self { Self } }
/// # impl Process for Dunning {
/// #     fn name(&self) -> &'static str { "dunning" }
/// #     fn tables(&self) -> &'static [&'static str] { &[] }
/// #     fn handles(&self, _: &str, _: &str) -> bool { false }
/// #     fn react(&self, _: &EventEnvelope<'_>, _: &mut (dyn Rows + '_)) -> Result<Vec<Effect>, ProcessError> { Ok(vec![]) }
/// # }
/// let context = Context::new("gym").process("dunning", Dunning::from_keys);
/// ```
pub struct Context {
    pub(super) name: &'static str,
    pub(super) aggregates: Vec<AggregatePart>,
    pub(super) views: Vec<Part<Box<dyn Projection>>>,
    pub(super) outcome_views: Vec<Part<Box<dyn OutcomeProjection>>>,
    pub(super) reports: Vec<Part<BuiltReport>>,
    pub(super) processes: Vec<Part<Box<dyn Process>>>,
}

impl Context {
    /// A context that has nothing yet. `name` is lower-kebab-case, as in subjects.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            aggregates: Vec::new(),
            views: Vec::new(),
            outcome_views: Vec::new(),
            reports: Vec::new(),
            processes: Vec::new(),
        }
    }

    /// Adds an aggregate type.
    #[must_use]
    pub fn aggregate<D: Decider>(mut self) -> Self {
        self.aggregates.push(AggregatePart {
            context: D::CONTEXT,
            name: D::AGGREGATE,
            commands: D::Command::NAMES,
            internal: D::internal_commands(),
            events: D::Event::TYPES,
            add: AggregateRegistry::with::<D>,
        });
        self
    }

    /// Adds a projection that fills views.
    #[must_use]
    pub fn view(self, view: impl Projection) -> Self {
        self.with_view(None, |_| view)
    }

    /// Adds a projection that fills views and reads settings; `name` is its name.
    #[must_use]
    pub fn view_from<V: Projection>(
        self,
        name: &'static str,
        from_keys: impl FnOnce(&mut dyn SettingKeys) -> V + 'static,
    ) -> Self {
        self.with_view(Some(name), from_keys)
    }

    fn with_view<V: Projection>(
        mut self,
        listed: Option<&'static str>,
        make: impl FnOnce(&mut dyn SettingKeys) -> V + 'static,
    ) -> Self {
        self.views.push(Part { listed, make: Box::new(|keys| Box::new(make(keys))) });
        self
    }

    /// Adds a projection of the outcomes of commands. It receives the outcomes of all contexts, and every context shows its view. Every
    /// application has the view `command` without adding it: what became of each command, by the command's id.
    #[must_use]
    pub fn outcome_view(mut self, view: impl OutcomeProjection) -> Self {
        self.outcome_views.push(Part { listed: None, make: Box::new(|_| Box::new(view)) });
        self
    }

    /// Adds a report.
    #[must_use]
    pub fn report(self, report: impl Report) -> Self {
        self.with_report(None, |_| report)
    }

    /// Adds a report that reads settings; `name` is its name.
    #[must_use]
    pub fn report_from<R: Report>(
        self,
        name: &'static str,
        from_keys: impl FnOnce(&mut dyn SettingKeys) -> R + 'static,
    ) -> Self {
        self.with_report(Some(name), from_keys)
    }

    fn with_report<R: Report>(
        mut self,
        listed: Option<&'static str>,
        make: impl FnOnce(&mut dyn SettingKeys) -> R + 'static,
    ) -> Self {
        let make: Make<BuiltReport> = Box::new(|keys| {
            let report = make(keys);
            BuiltReport { columns: report.columns(), ledger: Box::new(Ledger(report)) }
        });
        self.reports.push(Part { listed, make });
        self
    }

    /// Adds a process, which reads its settings; `name` is its name.
    #[must_use]
    pub fn process<P: Process>(
        mut self,
        name: &'static str,
        from_keys: impl FnOnce(&mut dyn SettingKeys) -> P + 'static,
    ) -> Self {
        self.processes.push(Part { listed: Some(name), make: Box::new(|keys| Box::new(from_keys(keys))) });
        self
    }
}
