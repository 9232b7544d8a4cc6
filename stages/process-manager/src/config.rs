//! The `[process_manager]` section.

use std::{collections::BTreeMap, fmt, marker::PhantomData, time::Duration};

use millstream_domain::{
    application::{Application, Model},
    process::Process,
};
use millstream_processes::process_runner::{Begin, LEASE_DEFAULT};
use millstream_read_side::read_side::FileSettings;
use millstream_runtime::config::{Section, SectionKeys};

/// The settings that only the process manager of an application has.
pub struct StageConfig<A> {
    /// The file of rows.
    pub file: FileSettings,
    /// How long a process manager that has fallen silent keeps its lease.
    pub lease_time_to_live: Duration,
    /// The time zone of the business, if a process of the application has a key for it.
    pub time_zone: Option<String>,
    /// Where processes begin that have never run.
    pub begins: BTreeMap<String, Begin>,
    /// The application's processes, with their own settings; none if the application is invalid, which is noted.
    pub processes: Vec<Box<dyn Process>>,
    application: PhantomData<fn() -> A>,
}

impl<A: Application> Section for StageConfig<A> {
    const NAME: &'static str = "process_manager";
    const ABOUT: &'static str = "How processes are run, and what they wait for.";

    fn read(keys: &mut SectionKeys<'_>) -> Self {
        let file = FileSettings::read(keys, "data/process-manager");
        let lease_time_to_live = keys.positive_duration(
            "lease_time_to_live",
            LEASE_DEFAULT,
            "how long a process manager that fell silent keeps its turn; whole seconds",
        );
        if lease_time_to_live < Duration::from_secs(1) {
            keys.problem("lease_time_to_live", "must be at least 1s: the server counts whole seconds");
        }
        let (begins, processes) = match Model::of::<A>() {
            Ok(model) => (begins(keys, &model.process_names()), model.processes(keys)),
            Err(error) => {
                keys.general_problem(error);
                (BTreeMap::new(), Vec::new())
            }
        };
        let time_zone = keys.text_read("time_zone").map(str::to_owned);
        Self { file, lease_time_to_live, time_zone, begins, processes, application: PhantomData }
    }
}

impl<A> fmt::Debug for StageConfig<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("StageConfig");
        shown.field("file", &self.file).field("begins", &self.begins).finish_non_exhaustive()
    }
}

fn begins(keys: &mut SectionKeys<'_>, known: &[&str]) -> BTreeMap<String, Begin> {
    let entries = keys.list(
        "begin",
        &[],
        "where a process that never ran carries out effects from, such as \"fulfilment=now\": start, now, or behind a sequence of EVENTS; start when not named",
    );
    let mut begins = BTreeMap::new();
    for entry in entries {
        let (name, text) = entry.split_once('=').unwrap_or((&*entry, ""));
        if !known.contains(&name.trim()) {
            keys.problem("begin", format!("names process {}; there are {}", name.trim(), known.join(", ")));
            continue;
        }
        match text.trim().parse::<Begin>() {
            Ok(begin) => drop(begins.insert(name.trim().to_owned(), begin)),
            Err(error) => keys.problem("begin", format!("has {entry:?}: {error}")),
        }
    }
    begins
}
