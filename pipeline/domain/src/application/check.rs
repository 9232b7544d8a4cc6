//! Checks whether the names of an application fit together. All problems are collected first, so one run reports every one of them.

use std::collections::BTreeSet;

use millstream_contract::{set_aside, subject::check_name};

use super::{Application, ApplicationProblem, Benchmark, Context, DefaultSettings, context::Part};
use crate::{
    process_rejections::OUTCOME_VIEWS,
    projection::{Projection, view_name},
};

/// The names by which views and reports are queried.
const VIEW: &str = "view";
/// Everything that is wrong.
pub(super) fn check<A: Application>() -> Vec<ApplicationProblem> {
    let mut checker = Checker::default();
    checker.name("application", A::NAME);
    if !is_version(A::VERSION) {
        checker.problems.push(ApplicationProblem::Version { version: A::VERSION });
    }
    for context in A::contexts() {
        checker.context(context);
    }
    for (section, settings) in [
        ("projector", std::mem::take(&mut checker.views)),
        ("reporter", std::mem::take(&mut checker.reports)),
        ("process_manager", std::mem::take(&mut checker.processes)),
    ] {
        checker.settings(section, &settings);
    }
    if let Some(benchmark) = A::benchmark() {
        checker.benchmark(&benchmark);
    }
    checker.problems
}

#[derive(Default)]
struct Checker {
    problems: Vec<ApplicationProblem>,
    /// The names seen so far, by kind and name.
    seen: BTreeSet<(&'static str, String)>,
    /// The settings of each stage's parts.
    views: DefaultSettings,
    reports: DefaultSettings,
    processes: DefaultSettings,
}

impl Checker {
    fn name(&mut self, kind: &'static str, name: &str) {
        if check_name(kind, name).is_err() {
            self.problems.push(ApplicationProblem::Name { kind, name: name.to_owned() });
        }
    }

    /// Whether this is the only thing of this kind with this name.
    fn once(&mut self, kind: &'static str, name: String) -> bool {
        let first = self.seen.insert((kind, name.clone()));
        if !first {
            self.problems.push(ApplicationProblem::Twice { kind, name });
        }
        first
    }

    fn context(&mut self, context: Context) {
        let Context { name, aggregates, views, outcome_views, reports, processes } = context;
        self.name("context", name);
        if name == set_aside::CONTEXT {
            self.problems.push(ApplicationProblem::Reserved { name: name.to_owned() });
        }
        self.once("context", name.to_owned());
        for view in OUTCOME_VIEWS {
            self.once(VIEW, format!("{name}.{view}"));
        }
        for aggregate in aggregates {
            self.name("aggregate", aggregate.name);
            self.belongs("aggregate", aggregate.name, name, aggregate.context);
            self.once("aggregate", format!("{name}.{}", aggregate.name));
            for command in aggregate.commands {
                self.name("command", command);
                self.once("command", format!("{name}.{}.{command}", aggregate.name));
            }
            for internal in aggregate.internal.iter().filter(|each| !aggregate.commands.contains(each)) {
                let aggregate = format!("{name}.{}", aggregate.name);
                self.problems.push(ApplicationProblem::InternalCommand { aggregate, name: internal });
            }
            for (event, _) in aggregate.events {
                self.name("event", event);
                self.once("event", format!("{name}.{}.{event}", aggregate.name));
            }
        }
        for Part { listed, make } in views {
            let view = make(&mut self.views);
            self.projection(VIEW, name, listed, &*view);
        }
        for Part { listed, make } in reports {
            let report = make(&mut self.reports);
            self.projection("report", name, listed, &*report.ledger);
        }
        for Part { make, .. } in outcome_views {
            let view = make(&mut self.views);
            self.name("view of outcomes", view.name());
            self.once("view of outcomes", view.name().to_owned());
            self.once(VIEW, format!("{name}.{}", view.name()));
        }
        for Part { listed, make } in processes {
            let process = make(&mut self.processes);
            self.name("process", process.name());
            self.once("process", process.name().to_owned());
            self.is_called("process", listed, process.name());
        }
    }

    fn projection(
        &mut self,
        kind: &'static str,
        context: &'static str,
        listed: Option<&'static str>,
        projection: &dyn Projection,
    ) {
        let name = projection.name();
        self.name(kind, name);
        self.is_called(kind, listed, name);
        self.belongs(kind, name, context, projection.context());
        // Reports are queried like views, so they share one space of names. If a report's name occurs twice, the names of its other tables
        // do, too.
        if self.once(VIEW, format!("{context}.{name}")) {
            for view in projection.views().iter().map(|table| view_name(table)).filter(|view| view != name) {
                self.name(VIEW, &view);
                self.once(VIEW, format!("{context}.{view}"));
            }
        }
    }

    fn belongs(&mut self, kind: &'static str, name: &str, listed: &'static str, own: &'static str) {
        if listed != own {
            let name = name.to_owned();
            self.problems.push(ApplicationProblem::OtherContext { kind, name, listed, own });
        }
    }

    fn is_called(&mut self, kind: &'static str, listed: Option<&'static str>, own: &'static str) {
        if let Some(listed) = listed.filter(|listed| *listed != own) {
            self.problems.push(ApplicationProblem::OtherName { kind, listed, own });
        }
    }

    fn settings(&mut self, section: &'static str, settings: &DefaultSettings) {
        for name in settings.names() {
            if !is_key(name) {
                self.problems.push(ApplicationProblem::Setting { section, name });
            }
            self.once("setting", format!("{section}.{name}"));
        }
        for (name, rule) in settings.problems() {
            let rule = rule.clone();
            self.problems.push(ApplicationProblem::Default { section, name, rule });
        }
    }

    fn benchmark(&mut self, benchmark: &Benchmark) {
        let Benchmark { context, aggregate, command, view, .. } = benchmark;
        for (kind, name) in
            [("command", format!("{context}.{aggregate}.{command}")), (VIEW, format!("{context}.{view}"))]
        {
            if !self.seen.contains(&(kind, name.clone())) {
                self.problems.push(ApplicationProblem::Benchmark { kind, name });
            }
        }
    }
}

/// Lower_snake_case.
fn is_key(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(allowed)
}

/// Three numbers, and optionally a suffix after a hyphen or a plus sign.
fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    numbers.split('.').count() == 3 && numbers.split('.').all(is_number)
}
