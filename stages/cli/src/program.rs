//! Whose command line this is: the application's name, version and model, and how its stages are run.

use std::{collections::BTreeMap, ffi::OsString, fmt, process};

use millstream_domain::application::{Application, ApplicationError, Model};

/// Runs the stage of a name with its arguments, of which the first is what the program is called, and the environment; none where
/// there is no such stage.
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
    /// What it is for.
    pub(crate) about: &'static str,
    /// Makes its model.
    pub(crate) model: fn() -> Result<Model, ApplicationError>,
}

impl Program {
    /// That of an application.
    pub(crate) fn of<A: Application>() -> Self {
        Self { name: A::NAME, version: A::VERSION, about: A::ABOUT, model: Model::of::<A> }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Program({} {})", self.name, self.version)
    }
}

/// The environment as texts. Variables that are not Unicode are none of ours.
pub(crate) fn unicode(environment: Vec<(OsString, OsString)>) -> BTreeMap<String, String> {
    let texts = environment.into_iter();
    texts.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}
