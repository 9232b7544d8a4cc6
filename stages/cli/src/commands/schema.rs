//! `millstream schema`: checks whether the events that this program writes and reads are the recorded ones, and prints its subjects as a
//! document. Needs no server: it compares the model with which the program was built with a folder of golden files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use millstream_contract::exit_code::ExitCode;
use millstream_domain::{
    async_api::{self, AsyncApiInfo},
    schema::{GoldenFiles, Problem, check, record},
};
use serde_json::json;

use crate::{failure::CommandFailure, output, program::Program, session::Session};

/// Where golden files are looked for, from the current folder upwards: in a checkout, in an application, then in the package of a model.
const PLACES: [&str; 3] = ["pipeline/model/golden", "model/golden", "golden"];

/// Compare the events of this program with the recorded ones.
#[derive(Debug, Args)]
pub(crate) struct SchemaArguments {
    #[command(subcommand)]
    what: What,
    /// Folder of golden files; without it `pipeline/model/golden`, `model/golden` or `golden` here or further up
    #[arg(long, global = true, value_name = "FOLDER")]
    golden: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Refuse an event that changed its shape, and golden files that were edited or deleted
    ///
    /// Ends with 65 if something does not fit, with a line for each event and field.
    Check,
    /// Record new events and versions, each with a golden file made up from its type; existing files stay as they are
    Record,
    /// Print the AsyncAPI 3.0 document: the subjects for NATS clients, with the schemas of commands
    #[command(name = "asyncapi")]
    AsyncApi,
}

/// Runs it.
pub(crate) fn run(arguments: &SchemaArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    if let What::AsyncApi = arguments.what {
        return tell_subjects(session);
    }
    let folder = match &arguments.golden {
        Some(folder) => folder.clone(),
        None => find()?,
    };
    let registry = session.model()?.aggregates();
    let mut files = GoldenFiles::read(&folder)?;
    let problems = match arguments.what {
        What::Check | What::AsyncApi => check(&registry, &files),
        What::Record => match record(&registry, &mut files) {
            Ok(added) => {
                files.write_records()?;
                return tell_added(&added, arguments.json);
            }
            Err(problems) => problems,
        },
    };
    tell(&problems, &folder, arguments.json)?;
    if problems.is_empty() {
        if !arguments.json {
            let types: usize = registry.iter().map(|aggregate| aggregate.event_types().len()).sum();
            output::line(format_args!(
                "{types} event types are as they are recorded in {}",
                folder.display()
            ))?;
        }
        return Ok(ExitCode::Ok);
    }
    Ok(ExitCode::Data)
}

fn tell_subjects(session: &Session) -> Result<ExitCode, CommandFailure> {
    let Program { name, version, about, model } = session.program;
    let document = async_api::document(
        AsyncApiInfo { name, version, about },
        &session.model()?.aggregates(),
        &async_api::views(model)?,
    );
    output::line(format_args!("{document:#}"))?;
    Ok(ExitCode::Ok)
}

fn tell_added(added: &[String], json: bool) -> Result<ExitCode, CommandFailure> {
    for name in added {
        if json {
            output::line(json!({ "recorded": name }))?;
        } else {
            output::line(format_args!("recorded {name}"))?;
        }
    }
    if added.is_empty() && !json {
        output::line("nothing is new")?;
    }
    Ok(ExitCode::Ok)
}

fn tell(problems: &[Problem], folder: &Path, json: bool) -> Result<(), CommandFailure> {
    for problem in problems {
        if json {
            output::line(json!({ "event": problem.event, "field": problem.field, "problem": problem.text }))?;
        } else {
            output::line(problem)?;
        }
    }
    if !problems.is_empty() && !json {
        output::line(format_args!("{} problems with {}", problems.len(), folder.display()))?;
    }
    Ok(())
}

fn find() -> Result<PathBuf, CommandFailure> {
    let here = std::env::current_dir().map_err(|error| CommandFailure::file(Path::new("."), &error))?;
    let places = here.ancestors().flat_map(|folder| PLACES.map(|place| folder.join(place)));
    places.into_iter().find(|folder| folder.is_dir()).ok_or_else(|| {
        CommandFailure::usage("there are no golden files here or further up; name their folder with --golden")
    })
}
