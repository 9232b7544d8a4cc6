//! The application of this command line: its name, version and model, and how its stages are run.

use std::{collections::BTreeMap, ffi::OsString, fmt, process};

use millstream_domain::application::{Application, ApplicationError, Model};

/// Runs the stage with this name, with its arguments (the first is the program's name) and the environment; `None` if there is no such stage.
pub type RunStage = fn(
    stage: &str,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
) -> Option<process::ExitCode>;

/// An application as the commands see it.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    /// The application's name, which is that of its program.
    pub(crate) name: &'static str,
    /// The application's version.
    pub(crate) version: &'static str,
    /// Its purpose.
    pub(crate) about: &'static str,
    /// Makes its model.
    pub(crate) model: fn() -> Result<Model, ApplicationError>,
}

impl Program {
    /// The program of an application.
    pub(crate) fn of<A: Application>() -> Self {
        Self { name: A::NAME, version: A::VERSION, about: A::ABOUT, model: Model::of::<A> }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Program({} {})", self.name, self.version)
    }
}

/// The environment as texts. Variables that are not Unicode cannot be Millstream's.
pub(crate) fn unicode(environment: Vec<(OsString, OsString)>) -> BTreeMap<String, String> {
    let texts = environment.into_iter();
    texts.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}
