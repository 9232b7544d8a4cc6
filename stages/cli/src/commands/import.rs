//! `millstream import`: rows of files to commands.

use std::{
    collections::HashSet,
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millstream_contract::exit_code::ExitCode;
use millstream_domain::decider::AggregateRegistry;
use millstream_runtime::shutdown::Shutdown;
use serde_json::json;
use tokio::sync::oneshot;

use super::send::{NO_OUTCOME, REJECTED};
use crate::{
    dispatcher::Dispatcher,
    failure::CommandFailure,
    import::{
        dry_run::{self, Prospect},
        input::RowsFile,
        listed::listed,
        map_file::MapFile,
        mapping::Mapping,
        rejects::{Rejects, RejectsError},
        run::{Import, Summary},
        source::{self, STANDARD_INPUT, Source},
        start,
    },
    output,
    session::Session,
};

/// Turn the rows of files into commands, and wait until every row is accepted or refused.
///
/// The map says what rows become and which of them are one, in this file and in others: a row that was imported before changes nothing.
/// Refused rows go to a rejects file, in their order, with line and reason; mended there and imported, a row brings only what is missing.
///
/// Exit codes: 0 when every row was accepted, now or before, or skipped by the map; 10 when rows were refused; 12 when it was interrupted;
/// 64 when there is no such file; 65 when a file is not one of rows, or has changed while it was read; 69 when nothing is decided; 73 or
/// 74 when a file cannot be read, or the rejects cannot be written; 77 when the server refuses; 78 when the map is wrong. With 64, 65 and 78 nothing was sent, unless
/// a file has changed meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArguments {
    /// How rows become commands, as in config/import/iowa-liquor.toml
    #[arg(long, value_name = "FILE.toml", required_unless_present_any = ["check", "start"])]
    map: Option<PathBuf>,
    /// The rows, with a header line: CSV (also .gz), a sheet of an XLSX workbook, the rejects of an import before, a folder of such files,
    /// or - for standard input. Several are imported one after the other
    #[arg(value_name = "FILE", required_unless_present = "start")]
    files: Vec<PathBuf>,
    /// Where refused rows go: a new file; for s.csv a new s.rejects.csv in the working directory when absent, or
    /// s.rejects-2.csv and so on
    #[arg(long, value_name = "FILE.csv")]
    rejects: Option<PathBuf>,
    /// Send nothing; show the commands of the first rows and all rows that would be refused before they are sent
    #[arg(long, value_name = "ROWS", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    dry_run: Option<u64>,
    /// Send nothing; compare this map with the files and the application, and say how the files are read
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["map", "start", "dry_run", "rejects"])]
    check: Option<PathBuf>,
    /// Send nothing; print a map to begin with for this file, with what was found out of how the file is written and of its columns
    #[arg(long, value_name = "FILE", conflicts_with_all = ["map", "files", "dry_run", "rejects"])]
    start: Option<PathBuf>,
    /// With --start, the command that rows become, such as retail.till.record-sale
    #[arg(long, value_name = "CONTEXT.AGGREGATE.COMMAND", requires = "start")]
    command: Option<String>,
    /// How long to wait while no outcome at all is recorded
    #[arg(long, default_value = "60s", value_parser = crate::duration)]
    timeout: Duration,
    /// The summary of each file as one JSON object
    #[arg(long)]
    json: bool,
}

/// A file that fits its map.
struct Prepared {
    file: RowsFile,
    mapping: Mapping,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: ImportArguments, session: &Session) -> Result<u8, CommandFailure> {
    let known = session.model()?.aggregates();
    if let Some(file) = &arguments.start {
        output::part(start::map(file, arguments.command.as_deref(), &known)?)?;
        return Ok(ExitCode::Ok.number());
    }
    let shutdown = Shutdown::new();
    // What sends nothing ends as any other program does.
    if arguments.dry_run.is_none() && arguments.check.is_none() {
        shutdown.on_signals().map_err(|error| {
            CommandFailure::new(ExitCode::Software, format_args!("cannot watch signals: {error}"))
        })?;
    }
    let known = Arc::new(known);
    let files = files(&arguments, session).map_err(nothing_sent)?;
    let map = arguments.check.as_ref().or(arguments.map.as_ref());
    let map = map.ok_or_else(|| CommandFailure::usage("name a map with --map"))?.as_path();
    let (mut first, mut names) = (None, HashSet::new());
    // All before the first is sent.
    for file in &files {
        let name = (files.len() > 1).then(|| file.display().to_string());
        let prepared = prepare_unless_ended(map, file, &known, &shutdown).await;
        let prepared = prepared.map_err(|failure| nothing_sent(of_one(failure, name.as_deref())))?;
        for remark in prepared.file.remarks() {
            session.console.say(remark);
        }
        if arguments.check.is_some() {
            tell_check(map, &prepared)?;
        }
        let called = prepared.file.name().filter(|_| prepared.mapping.tells_files_apart());
        if let Some(called) = called.filter(|called| !names.insert(called.clone())) {
            let said = format_args!(
                "two files are called {called}, and the map tells rows apart by the names of their files; rename one"
            );
            return Err(nothing_sent(CommandFailure::usage(said)));
        }
        if files.len() == 1 {
            first = Some(prepared);
        }
    }
    if arguments.check.is_some() {
        return Ok(ExitCode::Ok.number());
    }
    let mut code = ExitCode::Ok.number();
    for file in &files {
        let name = (files.len() > 1).then(|| file.display().to_string());
        let ended = async {
            let prepared = match first.take() {
                Some(prepared) => prepared,
                None => prepare_unless_ended(map, file, &known, &shutdown).await?,
            };
            match arguments.dry_run {
                Some(rows) => dry_run(rows, &arguments, name.as_deref(), prepared),
                None => import(&arguments, name.as_deref(), prepared, session, &shutdown).await,
            }
        };
        code = code.max(ended.await.map_err(|failure| of_one(failure, name.as_deref()))?);
    }
    Ok(code)
}

/// Says which of several files a failure is of, if it does not say so itself.
fn of_one(failure: CommandFailure, name: Option<&str>) -> CommandFailure {
    let message = match name.filter(|name| !failure.message.contains(name)) {
        Some(name) => format!("{name}: {}", failure.message),
        None => return failure,
    };
    CommandFailure { message, ..failure }
}

/// The files that are named, those of folders in the order of their names.
fn files(arguments: &ImportArguments, session: &Session) -> Result<Vec<PathBuf>, CommandFailure> {
    let mut files = Vec::new();
    for path in &arguments.files {
        let (found, left_out) = source::files(path)?;
        files.extend(found);
        if !left_out.is_empty() {
            let (folder, left_out) = (path.display(), listed(&left_out));
            session.console.say(format_args!("{folder}: left out are {left_out}; name a file to import it"));
        }
    }
    if files.len() > 1 && arguments.rejects.is_some() {
        return Err(CommandFailure::usage(
            "each file has its own rejects; leave out --rejects, or name one file",
        ));
    }
    if files.len() > 1 && files.iter().any(|file| file == Path::new(STANDARD_INPUT)) {
        return Err(CommandFailure::usage(
            "standard input is imported by itself; name the other files in another import",
        ));
    }
    Ok(files)
}

/// Prepares in a thread of its own, which ends with the process: a file of many rows, or standard input, takes a while to read.
async fn prepare_unless_ended(
    map: &Path,
    file: &Path,
    known: &Arc<AggregateRegistry>,
    shutdown: &Shutdown,
) -> Result<Prepared, CommandFailure> {
    let (map, path, known) = (map.to_owned(), file.to_owned(), Arc::clone(known));
    let (tell, told) = oneshot::channel();
    // Nobody listens any more where the import was ended.
    let work = move || drop(tell.send(prepare(&map, &path, &known)));
    let begun = std::thread::Builder::new().name("prepare".to_owned()).spawn(work);
    let software =
        |said: &str| CommandFailure::new(ExitCode::Software, format_args!("{}: {said}", file.display()));
    begun.map_err(|error| software(&format!("cannot start a thread: {error}")))?;
    tokio::select! {
        told = told => told.map_err(|_| software("the thread that read it has failed"))?,
        () = shutdown.requested() => Err(interrupted()),
    }
}

fn interrupted() -> CommandFailure {
    CommandFailure::usage("interrupted").with_code(NO_OUTCOME)
}

fn prepare(map: &Path, file: &Path, known: &AggregateRegistry) -> Result<Prepared, CommandFailure> {
    let map = MapFile::read(map)?;
    let file = RowsFile::check(Source::at(file, map.form())?, map.form())?;
    let mapping = Mapping::load(map, &file, known)?;
    Ok(Prepared { file, mapping })
}

/// Says how a file is read, and what its rows become.
fn tell_check(map: &Path, Prepared { file, mapping }: &Prepared) -> Result<(), CommandFailure> {
    let (delimiter, encoding) = file.form();
    say_line(format_args!(
        "{} fits {}: {} rows, columns between {delimiter:?}, {encoding}",
        map.display(),
        file.path().display(),
        file.count
    ))?;
    for command in mapping.commands_told() {
        say_line(command)?;
    }
    Ok(())
}

async fn import(
    arguments: &ImportArguments,
    name: Option<&str>,
    Prepared { file, mapping }: Prepared,
    session: &Session,
    shutdown: &Shutdown,
) -> Result<u8, CommandFailure> {
    let map_name = mapping.name().to_owned();
    let rejects = rejects(arguments, &file).map_err(nothing_sent)?;
    let begun = async {
        let connected = session.connect().await?;
        Dispatcher::begin(connected, "import", arguments.timeout).await
    };
    let begun = tokio::select! {
        begun = begun => begun,
        () = shutdown.requested() => Err(interrupted()),
    };
    let dispatcher = match begun {
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
        () = shutdown.requested() => Err(interrupted()),
    };
    bar.finish_and_clear();
    let (summary, rejects) = import.end().await?;
    let path = rejects.path().to_owned();
    let rejects = rejects.finish().map_err(|error| CommandFailure::file(&path, &error))?;
    tell(&summary, name, rejects, &map_name, arguments.json, session)?;
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

/// Prints a line, and goes on where nobody reads the output any more (`… | head -1`): the rows are what counts, and the exit code tells of all
/// of them.
fn say_line(text: impl Display) -> Result<(), CommandFailure> {
    match output::line(text).map_err(CommandFailure::from) {
        Err(failure) if failure.code == ExitCode::Ok.number() => Ok(()),
        other => other,
    }
}

/// Shows what would be sent.
fn dry_run(
    rows: u64,
    arguments: &ImportArguments,
    name: Option<&str>,
    Prepared { file, mut mapping }: Prepared,
) -> Result<u8, CommandFailure> {
    let prospect = dry_run::run::<CommandFailure>(&file, &mut mapping, rows, |shown| {
        say_line(if arguments.json { shown.json().to_string() } else { shown.text() })
    })?;
    let Prospect { rows, commands, refused, skipped } = prospect;
    if arguments.json {
        let told = json!({ "file": file.path(), "rows": rows, "commands": commands, "refused": refused, "skipped": skipped });
        say_line(told)?;
    } else {
        say_line(format_args!(
            "{}{rows} rows: {commands} commands, {refused} refused{}; nothing was sent. Rules may refuse more",
            of_file(name),
            and_skipped(skipped)
        ))?;
    }
    Ok(if refused > 0 { REJECTED } else { ExitCode::Ok.number() })
}

fn of_file(name: Option<&str>) -> String {
    name.map(|name| format!("{name}: ")).unwrap_or_default()
}

fn and_skipped(skipped: u64) -> String {
    if skipped > 0 { format!(", {skipped} skipped") } else { String::new() }
}

fn rejects(arguments: &ImportArguments, file: &RowsFile) -> Result<Rejects, RejectsError> {
    match &arguments.rejects {
        Some(path) => Rejects::named(path, file.header.clone()),
        None => Rejects::beside(file.path(), file.header.clone()),
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
    file: Option<&str>,
    rejects: Option<PathBuf>,
    name: &str,
    json: bool,
    session: &Session,
) -> Result<(), CommandFailure> {
    let Summary {
        rows, new, known, mended, without_effect, refused, skipped, commands, out_of_order, ..
    } = *summary;
    if json {
        return say_line(json!({
            "file": file,
            "rows": rows,
            "new": new,
            "known": known,
            "mended": mended,
            "without_effect": without_effect,
            "refused": refused,
            "skipped": skipped,
            "commands": commands,
            "out_of_order": out_of_order,
            "rejects_file": rejects,
        }));
    }
    say_line(format_args!(
        "{}{rows} rows: {new} new, {known} known, {without_effect} without effect, {refused} refused{}",
        of_file(file),
        and_skipped(skipped)
    ))?;
    if known > 0 {
        session.console.say(format_args!(
            "{known} rows were imported before by a map with the name {name:?}, and keep what became of them then; give the map another \
             name to have all decided anew"
        ));
    }
    if mended > 0 {
        session.console.say(format_args!(
            "{mended} rows were refused before as they stand here, and mended since: what the mended rows said stands. Correct them in the file, \
             or take them out there"
        ));
    }
    if let Some((line, aggregate)) = &summary.example_out_of_order {
        session.console.say(format_args!(
            "some rows of {out_of_order} aggregate(s) were decided behind rows that follow them in the file, such as that of line {line} for \
             {aggregate}. What was decided last holds. Where the order counts, as of prices, give once more what has to hold"
        ));
    }
    if without_effect > 0 {
        session.console.say(format_args!(
            "{without_effect} rows changed nothing, or not all that they say: it held before, or two rows give the same id to what they \
             record"
        ));
    }
    if let Some(path) = rejects {
        session.console.say(format_args!("refused rows are in {}", path.display()));
    }
    Ok(())
}
