//! `millstream deadletters retry`: puts letters back where they came from, in order, and waits for their outcomes.

use std::{collections::BTreeMap, time::Duration};

use millstream_contract::{
    exit_code::ExitCode,
    outcome::{CommandOutcome, Outcome},
    stream_names::COMMANDS,
};
use millstream_jetstream::{
    broker::{Broker as _, NewMessage},
    dead_letters::{
        kept_letter::KeptLetter,
        put_back::{PutBackError, put_back},
        remove_letter,
    },
    provision::DUPLICATE_WINDOW,
};
use serde_json::{Map, Value, json};

use super::letters::Selection;
use crate::{
    command_publisher::until_clear,
    commands::send::{DEAD_LETTERED, NO_OUTCOME, REJECTED},
    failure::CommandFailure,
    outcome_follower::OutcomeFollower,
    output,
    session::{Connected, Session},
};

#[derive(Debug, clap::Args)]
pub(super) struct RetryArguments {
    #[command(flatten)]
    selection: Selection,
    /// How long to wait for the outcomes
    #[arg(long, default_value = "10s", value_parser = crate::duration)]
    timeout: Duration,
    /// One JSON object an outcome
    #[arg(long)]
    json: bool,
}

/// Runs it. The number is the exit code: that of the worst outcome.
pub(super) async fn run(
    arguments: RetryArguments,
    session: &Session,
    connected: &Connected,
) -> Result<u8, CommandFailure> {
    let letters = arguments.selection.read(&connected.broker, &session.console).await?;
    let mut commands = Vec::new();
    let mut left = 0;
    let bytes_max = connected.broker.message_bytes_max();
    for kept in &letters {
        match kept.command(bytes_max) {
            Ok(message) => commands.push((kept, message)),
            // A letter that cannot be retried does not hold back the others.
            Err(why) => {
                left += 1;
                session.console.say(format_args!("{} stays: {why}", kept.name()));
            }
        }
    }
    if commands.is_empty() && left > 0 {
        return Err(CommandFailure::usage("none of these letters can be retried"));
    }
    // Somebody else may be retrying the same letters, and be ahead: what the server takes for a repeat was published, and so decided, within
    // this time at the earliest.
    let mut follower =
        OutcomeFollower::begin_before(&connected.broker, "deadletters", DUPLICATE_WINDOW).await?;
    let ended = retry(&arguments, commands, connected, &mut follower).await;
    follower.end(&connected.jetstream).await;
    Ok(if left > 0 { ended?.max(DEAD_LETTERED) } else { ended? })
}

async fn retry(
    arguments: &RetryArguments,
    commands: Vec<(&KeptLetter, NewMessage)>,
    connected: &Connected,
    follower: &mut OutcomeFollower,
) -> Result<u8, CommandFailure> {
    let mut waiting = BTreeMap::new();
    for (kept, command) in commands {
        // They are published one after the other, so that COMMANDS has them in their original order.
        let position =
            until_clear(async || put_back(&connected.broker, kept, &command).await, PutBackError::append)
                .await?;
        // If this is interrupted before the letter is removed, the next retry publishes it again under the same id, which gives a duplicate.
        remove_letter(&connected.broker, kept).await?;
        waiting.insert(position, kept);
    }
    let mut worst = ExitCode::Ok.number();
    let deadline = tokio::time::Instant::now() + arguments.timeout;
    while !waiting.is_empty() {
        let Ok(outcomes) = tokio::time::timeout_at(deadline, follower.next()).await else {
            return Err(CommandFailure::new(
                ExitCode::Unavailable,
                format_args!(
                    "{} commands are on {COMMANDS} again and have no outcome in time",
                    waiting.len()
                ),
            )
            .with_code(NO_OUTCOME));
        };
        for outcome in outcomes? {
            if let Some(kept) = waiting.remove(&outcome.position) {
                show(kept, &outcome, arguments.json)?;
                worst = worst.max(code(&outcome.outcome));
            }
        }
    }
    Ok(worst)
}

fn code(outcome: &Outcome) -> u8 {
    match outcome.first() {
        Outcome::Rejected { .. } => REJECTED,
        Outcome::DeadLettered { .. } => DEAD_LETTERED,
        Outcome::Accepted { .. } | Outcome::Duplicate { .. } => ExitCode::Ok.number(),
    }
}

fn show(kept: &KeptLetter, outcome: &CommandOutcome, json: bool) -> Result<(), CommandFailure> {
    if !json {
        let words = &outcome.outcome;
        return Ok(output::line(format_args!("{}: {}: {words}", kept.name(), kept.letter.subject))?);
    }
    let mut fields = Map::new();
    fields.insert("letter".into(), json!(kept.name()));
    fields.insert("subject".into(), json!(kept.letter.subject));
    fields.insert("command_position".into(), json!(outcome.position));
    outcome.outcome.put_json(&mut fields);
    Ok(output::line(Value::Object(fields))?)
}
