//! The command line of an application: one file a command under `commands/`, and what they share. [`run`] is all of it; the
//! reference application's program is called `millstream`, others have their own names.
//!
//! Results go to standard output, progress and console to standard error; `--json` wherever a program may read.

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

/// Exit code of a question to which there is no answer: no row of that key.
const NOTHING_FOUND: u8 = 13;

/// Which log lines are written, as for the stages.
const FILTER_VARIABLE: &str = "MILLSTREAM_TELEMETRY__FILTER";
/// What is said when nobody asks for more.
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

/// Runs one command of an application, or one of its stages, and says how it ended.
///
/// `arguments` begins with what the program is called, as those of a process do.
pub fn run<A: Application>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    run_stage: RunStage,
) -> process::ExitCode {
    let program = Program::of::<A>();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    // A stage has a command line of its own, with other flags under the same names.
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
    // No command is of use where the application contradicts itself.
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

/// Errors, and that a nats-server is being fetched: the rest is said by the commands themselves.
fn log_settings(environment: &Environment) -> TelemetrySettings {
    let filter = environment.get(FILTER_VARIABLE).map_or(FILTER_DEFAULT, String::as_str);
    TelemetrySettings { address: None, filter: filter.to_owned(), format: LogFormat::Human }
}

fn dispatch(command: Command, session: &Session) -> Result<u8, CommandFailure> {
    // One thread: a child process that is tied to its parent ends with the thread that started it.
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

/// A text that goes into a header as it is: something is to be seen in it, and it is one line.
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

/// For flags that take how many copies of a stream there are. JetStream takes any number up to five; an even one survives the loss of no
/// more servers than the number below it.
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
