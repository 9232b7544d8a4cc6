//! `millstream deadletters`: shows what was set aside, and has it decided again or dropped.

mod letters;
mod retry;

use millstream_contract::exit_code::ExitCode;
use millstream_jetstream::{
    dead_letters::{letter_name::LetterName, remove_letter},
    nats_broker::NatsBroker,
};
use serde_json::json;

use self::{
    letters::{Letters, Selection, aggregate_name, line, read_one, row, text},
    retry::RetryArguments,
};
use crate::{failure::CommandFailure, output, session::Session};

/// List, show, retry or drop messages that were set aside.
///
/// A letter is named by the stream and the sequence of the message that was set aside, as in COMMANDS.17; 17 alone means
/// COMMANDS.17.
#[derive(Debug, clap::Args)]
pub(crate) struct DeadLettersArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print one line for each letter
    List(ListArguments),
    /// Show everything about a letter: cause, subject, headers, body
    Show(ShowArguments),
    /// Publish letters again, to be decided anew under their own ids; ends like `send`
    ///
    /// Letters are published in the order in which they were first set aside, each with its own subject, headers and body, and are then
    /// no longer dead letters. A command that still cannot be decided becomes a dead letter again.
    Retry(RetryArguments),
    /// Print letters, and then remove them
    Drop(DropArguments),
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    /// Only those of this aggregate, as in retail.till.2506_2012-01-31
    #[arg(long, value_name = "CONTEXT.AGGREGATE.ID", value_parser = aggregate_name)]
    aggregate: Option<String>,
    /// Only those of this code, as in body-malformed
    #[arg(long)]
    code: Option<String>,
    /// One JSON object a letter
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ShowArguments {
    /// As in COMMANDS.17
    letter: LetterName,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DropArguments {
    #[command(flatten)]
    selection: Selection,
    /// One JSON object a letter
    #[arg(long)]
    json: bool,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: DeadLettersArguments, session: &Session) -> Result<u8, CommandFailure> {
    let connected = session.connect().await?;
    match arguments.action {
        Action::List(arguments) => list(arguments, session, &connected.broker).await,
        Action::Show(arguments) => show(&arguments, &connected.broker).await,
        Action::Retry(arguments) => retry::run(arguments, session, &connected).await,
        Action::Drop(arguments) => drop_letters(&arguments, session, &connected.broker).await,
    }
}

async fn list(
    arguments: ListArguments,
    session: &Session,
    broker: &NatsBroker,
) -> Result<u8, CommandFailure> {
    let mut rows = Vec::new();
    let mut letters = Letters::open(broker, &session.console).await?;
    while let Some(kept) = letters.next().await? {
        let wanted = arguments.aggregate.as_deref().is_none_or(|aggregate| kept.is_of(aggregate))
            && arguments.code.as_deref().is_none_or(|code| kept.letter.code == code);
        if !wanted {
            continue;
        }
        if arguments.json {
            output::line(kept.summary())?;
        } else {
            rows.push(row(&kept));
        }
    }
    letters.close().await;
    if !rows.is_empty() {
        let columns = ["letter", "set_aside_at", "subject", "code", "cause"].map(str::to_owned);
        output::line(output::table(&columns, &rows, &[]))?;
    } else if !arguments.json {
        session.console.say("no dead letters");
    }
    Ok(ExitCode::Ok.number())
}

async fn show(arguments: &ShowArguments, broker: &NatsBroker) -> Result<u8, CommandFailure> {
    let kept = read_one(broker, &arguments.letter).await?;
    if arguments.json {
        output::line(kept.to_json())?;
    } else {
        output::line(text(&kept))?;
    }
    Ok(ExitCode::Ok.number())
}

async fn drop_letters(
    arguments: &DropArguments,
    session: &Session,
    broker: &NatsBroker,
) -> Result<u8, CommandFailure> {
    let letters = arguments.selection.read(broker, &session.console).await?;
    for kept in &letters {
        // This is printed first, because a removed letter is gone.
        if arguments.json {
            output::line(kept.to_json())?;
        } else {
            output::line(format_args!("dropping {}", line(kept)))?;
        }
        remove_letter(broker, kept).await?;
    }
    if arguments.json {
        output::line(json!({ "dropped": letters.len() }))?;
    }
    Ok(ExitCode::Ok.number())
}
