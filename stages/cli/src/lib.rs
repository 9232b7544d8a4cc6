//! The `millstream` command line: one file a command under `commands/`, and what they share.
//!
//! Results go to standard output, progress and talk to standard error; `--json` wherever a program may read.

use std::{process, time::Duration};

use clap::{Parser, Subcommand};
use millstream_engine::{
    config::parse_duration,
    exit_code::ExitCode,
    telemetry::{self, LogFormat, TelemetrySettings},
};

pub use self::session::{ConnectionArguments, Environment};
use self::{failure::CommandFailure, session::Session, supervisor::tether, talk::Talk};

mod bench;
mod command_publisher;
mod commands;
mod demo;
mod deployment;
mod dispatcher;
mod event_json;
mod failure;
mod import;
mod names;
mod outcome_follower;
mod output;
mod past;
mod query_client;
mod session;
mod supervisor;
mod talk;

/// Exit code of a question to which there is no answer: no row of that key.
const NOTHING_FOUND: u8 = 13;

/// Which log lines are written, as for the stages.
const FILTER_VARIABLE: &str = "MILLSTREAM_TELEMETRY__FILTER";
/// What is said when nobody asks for more.
const FILTER_DEFAULT: &str = "error,millstream_jetstream::nats_server=info,async_nats=off";

/// Event sourcing and CQRS on NATS JetStream.
#[derive(Debug, Parser)]
#[command(name = "millstream", version)]
pub struct Arguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(commands::up::UpArguments),
    Demo(commands::demo::DemoArguments),
    Check(commands::check::CheckArguments),
    Doctor(commands::doctor::DoctorArguments),
    Ready(commands::ready::ReadyArguments),
    Setup(commands::setup::SetupArguments),
    Send(commands::send::SendArguments),
    Import(commands::import::ImportArguments),
    Report(commands::report::ReportArguments),
    Query(commands::query::QueryArguments),
    History(commands::history::HistoryArguments),
    Explain(commands::explain::ExplainArguments),
    Deadletters(commands::deadletters::DeadLettersArguments),
    Verify(commands::verify::VerifyArguments),
    Decode(commands::decode::DecodeArguments),
    Schema(commands::schema::SchemaArguments),
    New(commands::new::NewArguments),
    Bench(commands::bench::BenchArguments),
    #[command(name = tether::TETHERED, hide = true)]
    Tethered(tether::TetherArguments),
}

/// Runs one command and says how it ended.
pub fn run(arguments: Arguments, environment: Environment) -> process::ExitCode {
    let talk = Talk::new();
    telemetry::initialise(&log_settings(&environment), "millstream", "");
    let session = Session::new(talk.clone(), environment, arguments.connection);
    match dispatch(arguments.command, &session) {
        Ok(code) => code.into(),
        Err(failure) => {
            if failure.code != ExitCode::Ok.number() {
                talk.say(format_args!("error: {}", failure.message));
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
        Command::Up(arguments) => runtime.block_on(commands::up::run(arguments, session)),
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
            runtime.block_on(session.unless_forbidden(commands::import::run(arguments, session)))
        }
        Command::Report(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::report::run(arguments, session)));
        }
        Command::Query(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::query::run(arguments, session)));
        }
        Command::History(arguments) => {
            runtime.block_on(session.unless_forbidden(commands::history::run(arguments, session)))
        }
        Command::Explain(arguments) => {
            return runtime.block_on(session.unless_forbidden(commands::explain::run(arguments, session)));
        }
        Command::Deadletters(arguments) => {
            return runtime
                .block_on(session.unless_forbidden(commands::deadletters::run(arguments, session)));
        }
        Command::Verify(arguments) => {
            runtime.block_on(session.unless_forbidden(commands::verify::run(arguments, session)))
        }
        Command::Decode(arguments) => commands::decode::run(&arguments),
        Command::New(arguments) => commands::new::run(&arguments),
        Command::Schema(arguments) => commands::schema::run(&arguments),
        Command::Bench(arguments) => runtime.block_on(commands::bench::run(arguments, session)),
        Command::Tethered(arguments) => {
            let error = tether::become_tethered(&arguments);
            Err(CommandFailure::new(ExitCode::Unavailable, error))
        }
    }
    .map(ExitCode::number)
}

/// For flags that take a duration.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}
