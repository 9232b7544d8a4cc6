//! What can be wrong with an application. Each problem names the part and says what to do.

use millstream_contract::exit_code::{ExitCode, Failure};

/// One thing that is wrong with an application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplicationProblem {
    /// A name that cannot stand in subjects.
    #[error(
        "the {kind} {name:?} has a name that is not allowed: use lower-case letters, digits and single hyphens, starting with a letter"
    )]
    Name {
        /// What has the name.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A context has a name that is reserved for Millstream.
    #[error("the context {name:?} is Millstream's own; rename it")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Two things of one kind have the same name.
    #[error("there are two of the {kind} {name:?}; rename one of them, or list it once")]
    Twice {
        /// What they are.
        kind: &'static str,
        /// Their name.
        name: String,
    },
    /// A part says that it belongs to another context than the one that lists it.
    #[error(
        "the {kind} {name:?} is listed in context {listed:?} but says that its context is {own:?}; correct one of the two"
    )]
    OtherContext {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The context that lists it.
        listed: &'static str,
        /// The context that it names.
        own: &'static str,
    },
    /// A part is listed under another name than its own.
    #[error(
        "the {kind} {listed:?} is listed under that name but calls itself {own:?}; correct one of the two"
    )]
    OtherName {
        /// What it is.
        kind: &'static str,
        /// The name in the list.
        listed: &'static str,
        /// Its own name.
        own: &'static str,
    },
    /// An aggregate lists as internal a command that it does not have.
    #[error(
        "the internal command {name:?} of {aggregate:?} is none of its commands; correct `internal_commands`, or delete the name"
    )]
    InternalCommand {
        /// The context and the aggregate.
        aggregate: String,
        /// What it names.
        name: &'static str,
    },
    /// The default of a setting breaks the setting's own rule.
    #[error("the default of the setting {section}.{name} is wrong: it {rule}")]
    Default {
        /// The section of the configuration.
        section: &'static str,
        /// The key.
        name: &'static str,
        /// The rule that it breaks.
        rule: String,
    },
    /// The name of a setting cannot be a key.
    #[error(
        "the setting {section}.{name} has a name that is not allowed: use lower-case letters, digits and underscores, starting with a letter"
    )]
    Setting {
        /// The section of the configuration.
        section: &'static str,
        /// The key.
        name: &'static str,
    },
    /// The version does not have the form of a version.
    #[error(
        "the version {version:?} is not allowed: write three numbers, as in 1.4.0, and what else Cargo allows behind them"
    )]
    Version {
        /// What was given.
        version: &'static str,
    },
    /// The load of the benchmark names something that does not exist.
    #[error("the benchmark names the {kind} {name:?}, which the application does not have")]
    Benchmark {
        /// What it names.
        kind: &'static str,
        /// The name.
        name: String,
    },
}

/// An application that cannot be run, and all of its problems.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("application {application}: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ApplicationError {
    /// Its name.
    pub application: &'static str,
    /// What is wrong, in the order of the list.
    pub problems: Vec<ApplicationProblem>,
}

impl Failure for ApplicationError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Software
    }
}
