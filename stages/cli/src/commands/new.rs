//! `millstream new`: writes the starting point of a new application, or of a context in one. What it writes compiles and passes its tests
//! unchanged (stages/end-to-end-tests/tests/contexts).

mod app;
mod context;
mod files;
mod names;

use clap::{Args, Subcommand};
use millstream_contract::exit_code::ExitCode;

use self::{app::AppArguments, context::ContextArguments};
use crate::{failure::CommandFailure, session::Session};

/// Write the starting point of something new.
#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// An application: a workspace with a model, the program, golden files, Dockerfile, compose file, values of the Helm chart and CI
    ///
    /// Writes a new folder here, and changes nothing that is there.
    App(AppArguments),
    /// A context: an aggregate with rules, a view, tests, golden files
    ///
    /// Writes into the application or the checkout of Millstream in which it is called, and changes nothing that is there but the
    /// list of contexts and, in a checkout, the page docs/contexts.md.
    Context(ContextArguments),
}

/// Runs it.
pub(crate) fn run(arguments: &NewArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    match &arguments.what {
        What::App(arguments) => app::run(arguments),
        What::Context(arguments) => context::run(arguments, session),
    }
}
