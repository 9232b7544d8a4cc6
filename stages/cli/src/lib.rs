//! The command line of an application: one file for each command under `commands/`, and what they share. [`run`] is its entry point. The
//! reference application's program is called `millstream`; other applications have their own names.
//!
//! Results go to standard output, progress and messages to standard error; `--json` exists wherever a program may read the results.

use std::{
    ffi::OsString, fmt::Display, num::NonZeroUsize, ops::RangeInclusive, process, str::FromStr,
    time::Duration,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use millstream_contract::exit_code::ExitCode;
use millstream_domain::application::Application;
use millstream_runtime::{
    config::parse_duration,
    metrics::Count,
    stage::version_text,
    standard_streams::answer_command_line,
    telemetry::{self, LogFormat, TelemetrySettings},
};

pub use self::program::RunStage;
use self::{
    console::Console,
    failure::CommandFailure,
    program::Program,
    session::{ConnectionArguments, Environment, Session},
    supervisor::tether,
};

mod bench;
mod command_publisher;
mod commands;
mod console;
#[cfg(feature = "reference")]
mod demo;
mod deployment;
mod dispatcher;
mod failure;
mod import;
mod names;
mod outcome_follower;
mod output;
mod past_views;
mod program;
mod query_client;
mod session;
mod supervisor;

/// The exit code of a question without an answer, because there is no row with that key.
const NOTHING_FOUND: u8 = 13;

/// The variable that selects log lines, as for the stages.
const FILTER_VARIABLE: &str = "MILLSTREAM_TELEMETRY__FILTER";
/// Which log lines are written by default.
const FILTER_DEFAULT: &str = "error,millstream_jetstream::nats_server=info,async_nats=off";

/// The command line of an application; its name, version and purpose are the application's.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(commands::up::UpArguments),
    Stage(commands::stage::StageArguments),
    #[cfg(feature = "reference")]
    Demo(commands::demo::DemoArguments),
    Check(commands::check::CheckArguments),
    Docs(commands::docs::DocsArguments),
    Doctor(commands::doctor::DoctorArguments),
    Ready(commands::ready::ReadyArguments),
    Setup(commands::setup::SetupArguments),
    Send(commands::send::SendArguments),
    Import(commands::import::ImportArguments),
    Report(commands::report::ReportArguments),
    Query(commands::query::QueryArguments),
    Sql(commands::sql::SqlArguments),
    History(commands::history::HistoryArguments),
    Explain(commands::explain::ExplainArguments),
    Deadletters(commands::deadletters::DeadLettersArguments),
    Events(commands::events::EventsArguments),
    Verify(commands::verify::VerifyArguments),
    Audit(commands::audit::AuditArguments),
    Decode(commands::decode::DecodeArguments),
    Schema(commands::schema::SchemaArguments),
    New(commands::new::NewArguments),
    Keys(commands::keys::KeysArguments),
    Bench(commands::bench::BenchArguments),
    #[command(name = tether::TETHERED, hide = true)]
    Tethered(tether::TetherArguments),
}

/// Runs one command of an application or one of its stages, and returns how it ended.
///
/// `arguments` begins with the name of the program, like those of a process.
pub fn run<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    run_stage: RunStage,
) -> process::ExitCode {
    let program = Program::of::<A>();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    // A stage has its own command line, in which the same flags may mean something else.
    if let [_, first, stage, rest @ ..] = &*arguments
        && first == commands::stage::STAGE
        && let Some(stage) = stage.to_str()
    {
        let called = OsString::from(format!("{} {} {stage}", program.name, commands::stage::STAGE));
        let arguments = std::iter::once(called).chain(rest.iter().cloned()).collect();
        if let Some(code) = run_stage(stage, arguments, environment.clone()) {
            return code;
        }
    }
    match parse(program, arguments) {
        Ok(arguments) => run_command(program, arguments, program::unicode(environment)),
        Err(answer) => answer_command_line(&answer).into(),
    }
}

fn parse(program: Program, arguments: Vec<OsString>) -> Result<Arguments, clap::Error> {
    Arguments::from_arg_matches(&command(program).try_get_matches_from(arguments)?)
}

/// The command line under the application's name.
fn command(program: Program) -> clap::Command {
    let mut command = Arguments::command()
        .name(program.name)
        .bin_name(program.name)
        .version(version_text(program.version))
        .about(program.about)
        .long_about(None::<&str>);
    for (name, usage) in [
        ("explain", "[OPTIONS] [CONTEXT] <VIEW> <KEY>"),
        ("history", "[OPTIONS] <CONTEXT> <AGGREGATE> <ID>"),
        ("query", "[OPTIONS] <CONTEXT> <VIEW> [KEY]"),
    ] {
        let usage = format!("{} {name} {usage}", program.name);
        command = command.mut_subcommand(name, |command| command.override_usage(usage));
    }
    command
}

fn run_command(program: Program, arguments: Arguments, environment: Environment) -> process::ExitCode {
    let console = Console::new();
    // Nobody asks a command for its metrics.
    telemetry::initialise(&log_settings(&environment), program.name, "", Count::default());
    let session = Session::new(console.clone(), environment, program, arguments.connection);
    // No command is useful if the application contradicts itself.
    match session.model().and_then(|_| dispatch(arguments.command, &session)) {
        Ok(code) => code.into(),
        Err(failure) => {
            if failure.code != ExitCode::Ok.number() {
                console.say(format_args!("error: {}", failure.message));
            }
            failure.code.into()
        }
    }
}

/// Logs errors, and that a nats-server is being downloaded. The commands print everything else.
fn log_settings(environment: &Environment) -> TelemetrySettings {
    let filter = environment.get(FILTER_VARIABLE).map_or(FILTER_DEFAULT, String::as_str);
    TelemetrySettings { address: None, filter: filter.to_owned(), format: LogFormat::Human }
}

fn dispatch(command: Command, session: &Session) -> Result<u8, CommandFailure> {
    // The runtime has one thread, because a child process that is tied to its parent ends with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        CommandFailure::new(ExitCode::Software, format_args!("cannot start the runtime: {error}"))
    })?;
    match command {
        Command::Stage(arguments) => Err(commands::stage::unknown(&arguments)),
        Command::Up(arguments) => runtime.block_on(commands::up::run(arguments, session)),
        #[cfg(feature = "reference")]
        Command::Demo(arguments) => runtime.block_on(commands::demo::run(arguments, session)),
        Command::Check(arguments) => return runtime.block_on(commands::check::run(arguments, session)),
        Command::Doctor(arguments) => runtime.block_on(commands::doctor::run(arguments, session)),
        Command::Ready(arguments) => runtime.block_on(commands::ready::run(arguments)),
        Command::Setup(arguments) => {
            runtime.block_on(session.unless_forbidden(commands::setup::run(arguments, session)))
        }
        Command::Send(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::send::run(arguments, session)));
        }
        Command::Import(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::import::run(arguments, session)));
        }
        Command::Report(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::report::run(arguments, session)));
        }
        Command::Query(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::query::run(arguments, session)));
        }
        Command::History(arguments) => {
            let history = commands::history::run(arguments, session);
            return runtime.block_on(session.unless_forbidden(history));
        }
        Command::Explain(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::explain::run(arguments, session)));
        }
        Command::Deadletters(arguments) => {
            return runtime
                .block_on(session.unless_forbidden(commands::deadletters::run(arguments, session)));
        }
        Command::Events(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::events::run(arguments, session)));
        }
        Command::Verify(arguments) => {
            runtime.block_on(session.unless_forbidden(commands::verify::run(arguments, session)))
        }
        Command::Audit(arguments) => {
            runtime.block_on(session.unless_forbidden(commands::audit::run(arguments, session)))
        }
        Command::Decode(arguments) => commands::decode::run(&arguments),
        Command::Sql(arguments) => return commands::sql::run(&arguments, session),
        Command::Keys(arguments) => commands::keys::run(arguments),
        Command::New(arguments) => commands::new::run(&arguments, session),
        Command::Schema(arguments) => commands::schema::run(&arguments, session),
        Command::Docs(arguments) => commands::docs::run(&arguments, session),
        Command::Bench(arguments) => runtime.block_on(commands::bench::run(arguments, session)),
        Command::Tethered(arguments) => {
            let error = tether::become_tethered(&arguments);
            Err(CommandFailure::new(ExitCode::Unavailable, error))
        }
    }
    .map(ExitCode::number)
}

/// A text that becomes a header as it is: it has visible characters and only one line.
fn header_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is blank".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("it holds control characters, such as line breaks".to_owned());
    }
    Ok(text.to_owned())
}

/// For flags that take a whole number.
fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
    }
}

/// For flags that take a duration.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// For flags with the number of copies of a stream. JetStream accepts any number up to five, but an even one survives the loss of no more
/// servers than the number below it.
fn replicas(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse().ok().filter(|count: &NonZeroUsize| [1, 3, 5].contains(&count.get()));
    count.ok_or_else(|| {
        "give 1, 3 or 5: an even number survives the loss of no more servers than one less".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use millstream_model::Reference;

    use super::*;

    /// Flags said "invalid digit found in string" and "number would be zero for non-zero type".
    #[test]
    fn numbers_are_refused_with_what_to_write() {
        let program = Program::of::<Reference>();
        let refused = |line: &str| {
            let arguments = line.split(' ').map(OsString::from).collect();
            parse(program, arguments).map(|_| ()).unwrap_err().to_string()
        };
        for (line, said) in [
            ("x query retail stock --limit 0", "write a whole number from 1 to "),
            (
                "x report store-daily --date 2012-01-31 --revision 0",
                "write a whole number from 1 to 4294967295",
            ),
            ("x send a b c d --expected-version new", "write a whole number from 0 to "),
            ("x up --dir d --nats-port 70000", "write a whole number from 1 to 65535"),
            ("x up --dir d --nats-port 0", "write a whole number from 1 to 65535"),
            ("x up --dir d --http-port 0", "write a whole number from 1 to 65535"),
            ("x events show 0", "write a whole number from 1 to "),
            ("x events set-aside first --actor a --reason r", "write a whole number from 1 to "),
            ("x setup --commands-after -", "write a whole number from 0 to "),
            ("x bench pipeline --commands some", "write a whole number from 1 to "),
        ] {
            let answer = refused(line);
            assert!(answer.contains(said), "{line}: {answer}");
        }
    }

    #[test]
    fn no_command_has_a_flag_twice() {
        command(Program::of::<Reference>()).debug_assert();
    }
}
