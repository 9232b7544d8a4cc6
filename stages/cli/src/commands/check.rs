//! `millstream check`: could every stage work, with its own configuration and as its own user? Each stage is asked with
//! `stage <name> --check-config`, so that nothing is judged here that the stage would judge differently. Changes nothing.
//!
//! Deliberately absent: whether the stages run; `millstream doctor` says that.

use std::{path::PathBuf, process::Stdio};

use futures::future::join_all;
use millstream_contract::exit_code::ExitCode;
use tokio::process::Command;

use crate::{
    commands::stage::STAGE,
    deployment::{STAGES, own_program},
    failure::CommandFailure,
    output,
    session::Session,
};

/// Check each stage's configuration, and with --connect the server: its version, streams and permissions.
///
/// Each stage is asked with its own file, variables and user; `stage <stage> --check-config --connect` asks one alone.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Stages to check; all when none is named
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// Folder of the configuration files, one <STAGE>.toml a stage; a stage without one has the defaults
    #[arg(long, value_name = "FOLDER")]
    config: Option<PathBuf>,
    /// Tell several processes of a stage apart, as the stages' --instance does
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Ask the server, too
    #[arg(long)]
    connect: bool,
}

/// What a stage said.
struct Answer {
    stage: &'static str,
    code: u8,
    found: String,
    problems: String,
}

/// Runs it; the code is that of the first stage in trouble.
pub(crate) async fn run(arguments: CheckArguments, session: &Session) -> Result<u8, CommandFailure> {
    let names = STAGES.map(|(stage, _)| stage);
    if let Some(unknown) = arguments.stages.iter().find(|stage| !names.contains(&stage.as_str())) {
        let known = names.join(", ");
        return Err(CommandFailure::usage(format_args!("there is no stage {unknown}; there are {known}")));
    }
    let chosen = names.into_iter().filter(|name| {
        arguments.stages.is_empty() || arguments.stages.iter().any(|stage| stage.as_str() == *name)
    });
    let mut worst = ExitCode::Ok.number();
    for answer in join_all(chosen.map(|stage| ask(stage, &arguments, session))).await {
        let Answer { stage, code, found, problems } = answer?;
        for line in found.lines() {
            output::line(format_args!("{stage}: {line}"))?;
        }
        for line in problems.lines() {
            session.console.say(format_args!("{stage}: {line}"));
        }
        if worst == ExitCode::Ok.number() {
            worst = code;
        }
    }
    Ok(worst)
}

async fn ask(
    stage: &'static str,
    arguments: &CheckArguments,
    session: &Session,
) -> Result<Answer, CommandFailure> {
    let program = own_program()?;
    let mut command = Command::new(&program);
    command
        .args([STAGE, stage, "--check-config"])
        .args(session.stage_flags())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if arguments.connect {
        command.arg("--connect");
    }
    if let Some(instance) = &arguments.instance {
        command.args(["--instance", instance]);
    }
    let file = arguments.config.as_ref().map(|folder| folder.join(format!("{stage}.toml")));
    if let Some(file) = file.filter(|file| file.exists()) {
        command.arg("--config").arg(file);
    }
    let output = command.output().await.map_err(|error| CommandFailure::file(&program, &error))?;
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Answer {
        stage,
        code: code.unwrap_or(ExitCode::Software.number()),
        found: String::from_utf8_lossy(&output.stdout).into_owned(),
        problems: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
