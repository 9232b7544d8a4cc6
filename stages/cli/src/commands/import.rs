//! `millstream import`: a CSV file to commands.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_contract::exit_code::ExitCode;
use serde_json::json;

use crate::{
    dispatcher::Dispatcher,
    failure::CommandFailure,
    import::{mapping::Mapping, rejects::Rejects, run::Import},
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

/// Whether both names lead to one file; not while one of them leads to none.
fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Runs it.
pub(crate) async fn run(arguments: ImportArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let rows = open(&arguments.file)?.into_records().count() as u64;
    let mut reader = open(&arguments.file)?;
    let header = reader.headers().map_err(|error| CommandFailure::data(&error))?.clone();
    let mapping = Mapping::load(&arguments.map, &header)?;
    let rejects_path = arguments.rejects.unwrap_or_else(|| default_rejects(&arguments.file));
    for (what, read) in [("rows", &arguments.file), ("map", &arguments.map)] {
        if is_same_file(&rejects_path, read) {
            let path = rejects_path.display();
            return Err(CommandFailure::usage(format_args!(
                "--rejects: {path} is the file of the {what}, which would be overwritten; name another"
            )));
        }
    }
    let rejects =
        Rejects::new(&rejects_path, header).map_err(|error| CommandFailure::file(&rejects_path, &error))?;
    let connected = session.connect().await?;
    let bar = session.console.bar("rows", rows);
    let dispatcher = Dispatcher::begin(connected, "import", arguments.timeout).await?;
    let ended = Import::new(dispatcher, mapping, rejects, bar.clone()).run(reader).await;
    bar.finish_and_clear();
    let (summary, rejects) = ended?;
    let rejects = rejects.finish().map_err(|error| CommandFailure::file(&rejects_path, &error))?;
    if arguments.json {
        output::line(json!({
            "rows": summary.rows,
            "accepted": summary.accepted,
            "refused": summary.refused,
            "duplicates": summary.duplicates,
            "commands": summary.commands,
            "rejects_file": rejects,
        }))?;
    } else {
        output::line(format_args!(
            "{} rows: {} accepted ({} of them known before), {} refused",
            summary.rows, summary.accepted, summary.duplicates, summary.refused
        ))?;
        if let Some(path) = rejects {
            session.console.say(format_args!("refused rows are in {}", path.display()));
        }
    }
    Ok(ExitCode::Ok)
}

fn open(path: &Path) -> Result<csv::Reader<BufReader<File>>, CommandFailure> {
    let file = File::open(path)
        .map_err(|error| CommandFailure::usage(format_args!("cannot read {}: {error}", path.display())))?;
    Ok(csv::Reader::from_reader(BufReader::new(file)))
}

fn default_rejects(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("{stem}.rejects.csv"))
}
