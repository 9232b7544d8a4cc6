//! `millstream check`: whether every stage could work, with its own configuration and as its own user. Each stage is asked with `stage <name>
//! --check-config`, so that its rules are not repeated here. Changes nothing.
//!
//! Deliberately absent: whether the stages run, which `millstream doctor` checks.

use std::{path::PathBuf, process::Stdio};

use futures::future::join_all;
use millstream_contract::exit_code::ExitCode;
use tokio::process::Command;

use crate::{
    commands::stage::{CHECK_CONFIG, STAGE},
    deployment::{SQL, STAGES, own_program},
    failure::CommandFailure,
    output,
    session::Session,
};

/// Check each stage's configuration, and with --connect the server: its version, streams and permissions.
///
/// Each stage is asked with its own file, variables and user; `stage <stage> --check-config --connect` asks one alone.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Stages to check; by default all except `sql`, which is only checked if --config has a sql.toml
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// Folder of the configuration files, with a <STAGE>.toml for each stage; a stage without one has the defaults
    #[arg(long, value_name = "FOLDER")]
    config: Option<PathBuf>,
    /// Tell several processes of a stage apart, as the stages' --instance does
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Also ask the server
    #[arg(long)]
    connect: bool,
}

/// What a stage answered.
struct Answer {
    stage: &'static str,
    code: u8,
    found: String,
    problems: String,
}

/// Runs it. The exit code is that of the first stage with a problem.
pub(crate) async fn run(arguments: CheckArguments, session: &Session) -> Result<u8, CommandFailure> {
    let names = STAGES.map(|(stage, _)| stage);
    if let Some(unknown) = arguments.stages.iter().find(|stage| !names.contains(&stage.as_str())) {
        let known = names.join(", ");
        return Err(CommandFailure::usage(format_args!("there is no stage {unknown}; there are {known}")));
    }
    if let Some(folder) = arguments.config.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(CommandFailure::usage(format_args!("--config: {} is no folder", folder.display())));
    }
    // Most systems do not run the stage that keeps tables, so it is asked only if it has a file or is named.
    let has_file = |stage: &str| {
        arguments.config.as_ref().is_some_and(|folder| folder.join(format!("{stage}.toml")).exists())
    };
    let chosen = names.into_iter().filter(|name| match &*arguments.stages {
        [] => *name != SQL || has_file(name),
        stages => stages.iter().any(|stage| stage.as_str() == *name),
    });
    let mut worst = ExitCode::Ok.number();
    for answer in join_all(chosen.map(|stage| ask(stage, CHECK_CONFIG, &arguments, session))).await {
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
    if arguments.stages.is_empty() && worst == ExitCode::Ok.number() {
        let mut dumps = Vec::new();
        for answer in join_all(ZONED.map(|stage| ask(stage, "--dump-config", &arguments, session))).await {
            let answer = answer?;
            if answer.code != ExitCode::Ok.number() {
                session.console.say(format_args!("{}: {}", answer.stage, answer.problems));
                return Ok(answer.code);
            }
            dumps.push(answer.found);
        }
        if let [handler, manager] = &*dumps
            && let Some(sentence) = zones_differ(handler, manager)
        {
            session.console.say(sentence);
            worst = ExitCode::Configuration.number();
        }
    }
    Ok(worst)
}

/// The two stages that must agree on the time zone of the business.
const ZONED: [&str; 2] = ["command-handler", "process-manager"];

/// What is wrong with the time zones in the dumped configurations of command handler and process manager, if anything is. If an application
/// lacks the key in one of them, there is nothing to compare.
fn zones_differ(handler: &str, manager: &str) -> Option<String> {
    let zone = |dump: &str, section: &str| {
        let key = format!("{section}.time_zone");
        let words = dump.lines().find(|line| line.split_whitespace().next() == Some(&*key))?;
        words.split('"').nth(1).map(str::to_owned)
    };
    let (handler, manager) = (zone(handler, "command_handler")?, zone(manager, "process_manager")?);
    (handler != manager).then(|| {
        format!(
            "command_handler.time_zone is {handler:?}, but process_manager.time_zone is {manager:?}: days would end at another hour than they begin; give both the same"
        )
    })
}

async fn ask(
    stage: &'static str,
    question: &str,
    arguments: &CheckArguments,
    session: &Session,
) -> Result<Answer, CommandFailure> {
    let program = own_program()?;
    let mut command = Command::new(&program);
    command
        .args([STAGE, stage, question])
        .args(session.stage_flags())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if arguments.connect && question == CHECK_CONFIG {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_compared_where_both_stages_have_one() {
        let handler =
            "command_handler.round_max = 1 # default\ncommand_handler.time_zone = \"UTC\"   # default\n";
        let manager = |zone: &str| format!("process_manager.time_zone = \"{zone}\" # file\n");
        assert_eq!(zones_differ(handler, &manager("UTC")), None);
        assert_eq!(zones_differ(handler, "process_manager.begin = []"), None);
        let said = zones_differ(handler, &manager("Europe/Berlin")).unwrap();
        assert!(said.contains("is \"UTC\", but process_manager.time_zone is \"Europe/Berlin\""), "{said}");
    }
}
