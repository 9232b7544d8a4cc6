//! `millstream import`: a CSV file to commands.

use std::{path::PathBuf, time::Duration};

use millstream_contract::exit_code::ExitCode;
use millstream_runtime::shutdown::Shutdown;
use serde_json::json;

use super::send::{NO_OUTCOME, REJECTED};
use crate::{
    dispatcher::Dispatcher,
    failure::CommandFailure,
    import::{
        dry_run::{self, Prospect},
        input::RowsFile,
        mapping::Mapping,
        rejects::{Rejects, RejectsError},
        run::{Import, Summary},
    },
    output,
    session::Session,
};

/// Turn the rows of a CSV file into commands, and wait until every row is accepted or refused.
///
/// The map says which rows are one, in this file and in others: a row that was imported before changes nothing. Refused rows
/// go to a rejects file, in their order, with line and reason; mended there and imported, a row brings only what is missing.
///
/// Ends with 0 when every row was accepted, now or before, 10 when rows were refused, 12 when it was interrupted, 64 when there
/// is no such file, 65 when the file is not one of rows, 69 when nothing is decided, 78 when the map is wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArguments {
    /// How rows become commands, as in config/import/iowa-liquor.toml
    #[arg(long, value_name = "FILE.toml")]
    map: PathBuf,
    /// The rows, with a header line; or the rejects of an import before
    file: PathBuf,
    /// Where refused rows go: a new file; for s.csv a new s.rejects.csv in the working directory when absent, or
    /// s.rejects-2.csv and so on
    #[arg(long, value_name = "FILE.csv")]
    rejects: Option<PathBuf>,
    /// Send nothing; show the commands of the first rows and all rows that would be refused before they are sent
    #[arg(long, value_name = "ROWS", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    dry_run: Option<u64>,
    /// How long to wait while no outcome at all is recorded
    #[arg(long, default_value = "60s", value_parser = crate::duration)]
    timeout: Duration,
    /// The summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: ImportArguments, session: &Session) -> Result<u8, CommandFailure> {
    let file = RowsFile::check(&arguments.file).map_err(nothing_sent)?;
    if let Some(doubt) = file.doubt() {
        session.console.say(doubt);
    }
    let known = session.model()?.aggregates();
    let mapping = Mapping::load(&arguments.map, &file, &known).map_err(nothing_sent)?;
    if let Some(rows) = arguments.dry_run {
        return dry_run(rows, &arguments, &file, mapping);
    }
    let name = mapping.name().to_owned();
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| {
        CommandFailure::new(ExitCode::Software, format_args!("cannot watch signals: {error}"))
    })?;
    let rejects = rejects(&arguments, &file).map_err(nothing_sent)?;
    let begun = async {
        let connected = session.connect().await?;
        Dispatcher::begin(connected, "import", arguments.timeout).await
    };
    let dispatcher = match begun.await {
        Ok(dispatcher) => dispatcher,
        Err(failure) => {
            // An empty file of rejects would say that there was an import.
            drop(rejects.finish());
            return Err(nothing_sent(failure));
        }
    };
    let bar = session.console.bar("rows", file.count);
    let mut import = Import::new(dispatcher, mapping, rejects, bar.clone());
    let ended = tokio::select! {
        ended = import.run(&file) => ended,
        () = shutdown.requested() => Err(CommandFailure::usage("interrupted").with_code(NO_OUTCOME)),
    };
    bar.finish_and_clear();
    let (summary, rejects) = import.end().await?;
    let path = rejects.path().to_owned();
    let rejects = rejects.finish().map_err(|error| CommandFailure::file(&path, &error))?;
    tell(&summary, rejects, &name, arguments.json, session)?;
    match ended {
        Ok(()) if summary.refused > 0 => Ok(REJECTED),
        Ok(()) => Ok(ExitCode::Ok.number()),
        Err(failure) => Err(CommandFailure {
            message: format!(
                "{}; {} of {} rows were read, of which {} have no outcome yet. To go on, import the same file again: what was sent \
                 before is not decided a second time",
                failure.message,
                summary.rows,
                file.count,
                summary.undecided()
            ),
            ..failure
        }),
    }
}

/// Shows what would be sent.
fn dry_run(
    rows: u64,
    arguments: &ImportArguments,
    file: &RowsFile,
    mut mapping: Mapping,
) -> Result<u8, CommandFailure> {
    let prospect = dry_run::run::<CommandFailure>(file, &mut mapping, rows, |shown| {
        let shown = if arguments.json { shown.json().to_string() } else { shown.text() };
        Ok(output::line(shown)?)
    })?;
    let Prospect { rows, commands, refused } = prospect;
    if arguments.json {
        output::line(json!({ "rows": rows, "commands": commands, "refused": refused }))?;
    } else {
        output::line(format_args!(
            "{rows} rows: {commands} commands, {refused} refused; nothing was sent. Rules may refuse more"
        ))?;
    }
    Ok(if refused > 0 { REJECTED } else { ExitCode::Ok.number() })
}

fn rejects(arguments: &ImportArguments, file: &RowsFile) -> Result<Rejects, RejectsError> {
    match &arguments.rejects {
        Some(path) => Rejects::named(path, file.header.clone()),
        None => Rejects::beside(&arguments.file, file.header.clone()),
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
    let Summary { rows, new, known, without_effect, refused, commands } = *summary;
    if json {
        output::line(json!({
            "rows": rows,
            "new": new,
            "known": known,
            "without_effect": without_effect,
            "refused": refused,
            "commands": commands,
            "rejects_file": rejects,
        }))?;
        return Ok(());
    }
    output::line(format_args!(
        "{rows} rows: {new} new, {known} known, {without_effect} without effect, {refused} refused"
    ))?;
    if known > 0 {
        session.console.say(format_args!(
            "{known} rows were imported before by a map with the name {name:?}, and keep what became of them then, even where the \
             map or the row has changed since; give the map another name to have all decided anew"
        ));
    }
    if without_effect > 0 {
        session.console.say(format_args!(
            "{without_effect} rows changed nothing, as what they say held before, also where two rows give the same id to what they \
             record"
        ));
    }
    if let Some(path) = rejects {
        session.console.say(format_args!("refused rows are in {}", path.display()));
    }
    Ok(())
}
