//! `millstream stage`: runs one stage in this process. The stage parses its own command line; if it comes here, the name of the stage is
//! unknown.

use std::ffi::OsString;

use crate::{deployment::STAGES, failure::CommandFailure};

/// The name of the subcommand.
pub(crate) const STAGE: &str = "stage";
/// The flag with which a stage judges its own configuration.
pub(crate) const CHECK_CONFIG: &str = "--check-config";

/// Run one stage of this application.
///
/// Flags after the name are those of the stage; `stage NAME --help` lists them.
#[derive(Debug, clap::Args)]
pub(crate) struct StageArguments {
    /// command-handler, projector, reporter, process-manager, sql or gateway
    stage: String,
    /// As in `--config projector.toml`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// There is no stage of that name.
pub(crate) fn unknown(arguments: &StageArguments) -> CommandFailure {
    let StageArguments { stage, flags: _ } = arguments;
    let known = STAGES.map(|(stage, _)| stage).join(", ");
    CommandFailure::usage(format_args!("there is no stage {stage}; there are {known}"))
}
