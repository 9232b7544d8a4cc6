//! `millstream import`: a CSV file to commands.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_contract::exit_code::ExitCode;
use serde_json::json;

use crate::{
    dispatcher::Dispatcher,
    failure::CommandFailure,
    import::{
        input::RowsFile,
        mapping::Mapping,
        rejects::{Rejects, is_same_file},
        run::{Import, Summary},
    },
    output,
    session::Session,
};

/// Turn the rows of a CSV file into commands, and wait until every row is accepted or refused.
///
/// The ids of the commands come from row number and content: the same file again changes nothing. Refused rows go to a
/// rejects file with their number and the reason.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArguments {
    /// How rows become commands, as in config/import/iowa-liquor.toml
    #[arg(long, value_name = "FILE.toml")]
    map: PathBuf,
    /// The rows, with a header line
    file: PathBuf,
    /// Where refused rows go; next to the working directory as <file>.rejects.csv when absent
    #[arg(long, value_name = "FILE.csv")]
    rejects: Option<PathBuf>,
    /// How long to wait while no outcome at all is recorded
    #[arg(long, default_value = "60s", value_parser = crate::duration)]
    timeout: Duration,
    /// The summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: ImportArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let file = RowsFile::check(&arguments.file).map_err(nothing_sent)?;
    let known = session.model()?.aggregates();
    let mapping = Mapping::load(&arguments.map, &file.header, &known).map_err(nothing_sent)?;
    let name = mapping.name().to_owned();
    let rejects_path = arguments.rejects.unwrap_or_else(|| default_rejects(&arguments.file));
    for (what, read) in [("rows", &arguments.file), ("map", &arguments.map)] {
        if is_same_file(&rejects_path, read) {
            let path = rejects_path.display();
            return Err(CommandFailure::usage(format_args!(
                "--rejects: {path} is the file of the {what}, which would be overwritten; name another; nothing was sent"
            )));
        }
    }
    let rejects = Rejects::new(&rejects_path, file.header.clone()).map_err(|error| {
        let (code, path) = (ExitCode::of_file_error(&error), rejects_path.display());
        let words = "name a file that can be written with --rejects; nothing was sent";
        CommandFailure::new(code, format_args!("refused rows cannot be written to {path}: {error}; {words}"))
    })?;
    let connected = session.connect().await?;
    let bar = session.console.bar("rows", file.count);
    let dispatcher = Dispatcher::begin(connected, "import", arguments.timeout).await?;
    let mut import = Import::new(dispatcher, mapping, rejects, bar.clone());
    let ended = import.run(&file).await;
    bar.finish_and_clear();
    let (summary, rejects) = import.end().await;
    let rejects = rejects.finish().map_err(|error| CommandFailure::file(&rejects_path, &error))?;
    tell(&summary, rejects, &name, arguments.json, session)?;
    match ended {
        Ok(()) => Ok(ExitCode::Ok),
        Err(failure) => Err(CommandFailure {
            message: format!(
                "{}; {} of the rows that were read have no outcome yet. To go on, import the same file again: what was sent \
                 before is not decided a second time",
                failure.message,
                summary.rows - summary.accepted - summary.refused
            ),
            ..failure
        }),
    }
}

/// What is wrong before the first command.
fn nothing_sent(error: impl Into<CommandFailure>) -> CommandFailure {
    let failure: CommandFailure = error.into();
    CommandFailure { message: format!("{}; nothing was sent", failure.message), ..failure }
}

/// Says what became of the rows, also of those before the import ended early.
fn tell(
    summary: &Summary,
    rejects: Option<PathBuf>,
    name: &str,
    json: bool,
    session: &Session,
) -> Result<(), CommandFailure> {
    if json {
        output::line(json!({
            "rows": summary.rows,
            "accepted": summary.accepted,
            "refused": summary.refused,
            "duplicates": summary.duplicates,
            "commands": summary.commands,
            "commands_sent_before": summary.commands_sent_before,
            "rejects_file": rejects,
        }))?;
        return Ok(());
    }
    output::line(format_args!(
        "{} rows: {} accepted ({} of them known before), {} refused",
        summary.rows, summary.accepted, summary.duplicates, summary.refused
    ))?;
    if summary.commands_sent_before > 0 {
        session.console.say(format_args!(
            "{} of {} commands were sent before for the same rows by a map with the name {name:?}, and keep the outcome of \
             that time, even where the map has changed since; give the map another name to have all decided anew",
            summary.commands_sent_before, summary.commands
        ));
    }
    if let Some(path) = rejects {
        session.console.say(format_args!("refused rows are in {}", path.display()));
    }
    Ok(())
}

fn default_rejects(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("{stem}.rejects.csv"))
}
