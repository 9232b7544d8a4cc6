//! `millstream deadletters retry`: puts letters back where they came from, in order, and waits for what becomes of them.

use std::{collections::BTreeMap, time::Duration};

use millstream_contract::{
    dead_letter::DeadLetter,
    exit_code::ExitCode,
    header,
    outcome::{CommandOutcome, Outcome},
    stream_names::{COMMANDS, TIMERS},
};
use millstream_jetstream::broker::NewMessage;
use serde_json::{Map, Value, json};

use super::{
    letters::{KeptLetter, Selection},
    remove,
};
use crate::{
    command_publisher::store,
    commands::send::{DEAD_LETTERED, NO_OUTCOME, REJECTED, describe},
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
    for kept in &letters {
        match kept.command_subject() {
            Some(subject) => commands.push((kept, message(&kept.letter, subject))),
            // One that cannot be retried keeps none of the others back.
            None => {
                left += 1;
                session.console.say(format_args!("{} stays: {}", kept.name(), why_not(&kept.letter)));
            }
        }
    }
    if commands.is_empty() && left > 0 {
        return Err(CommandFailure::usage("none of these letters can be retried"));
    }
    let mut follower = OutcomeFollower::begin(&connected.broker, "deadletters").await?;
    let ended = retry(&arguments, commands, connected, &mut follower).await;
    follower.end(&connected.jetstream).await;
    Ok(if left > 0 { ended?.max(DEAD_LETTERED) } else { ended? })
}

/// Why a letter cannot be put back.
fn why_not(letter: &DeadLetter) -> String {
    if letter.headers.unreadable().is_some() {
        return "its headers cannot be read; its sender has to send the command again, then drop the letter"
            .to_owned();
    }
    format!(
        "it is no command. Commands are the letters of {COMMANDS}, those of {TIMERS} that fell due on a subject with four names, and whole effects of events"
    )
}

async fn retry(
    arguments: &RetryArguments,
    commands: Vec<(&KeptLetter, NewMessage)>,
    connected: &Connected,
    follower: &mut OutcomeFollower,
) -> Result<u8, CommandFailure> {
    let mut waiting = BTreeMap::new();
    for (kept, command) in commands {
        // One after the other: COMMANDS keeps the order in which they came.
        let position = store(&connected.broker, COMMANDS, &command).await?;
        // Cut off before this, the letter is published once more by the next retry, under the same id: a duplicate.
        remove(&connected.broker, kept).await?;
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

/// The message as it was published, under an id: its own, or one made of its place, so that it takes effect once however
/// often it is retried.
fn message(letter: &DeadLetter, subject: String) -> NewMessage {
    let mut headers = letter.headers.clone();
    if headers.get(header::COMMAND_ID).is_none_or(str::is_empty) {
        headers = headers.iter().filter(|(name, _)| *name != header::COMMAND_ID).collect();
        headers.push(header::COMMAND_ID, format!("dead-letter-{}-{}", letter.stream, letter.sequence));
    }
    NewMessage { subject, expected_last: None, headers, payload: letter.payload.clone() }
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
        let words = describe(&outcome.outcome);
        return Ok(output::line(format_args!("{}: {}: {words}", kept.name(), kept.letter.subject))?);
    }
    let mut fields = Map::new();
    fields.insert("letter".into(), json!(kept.name()));
    fields.insert("subject".into(), json!(kept.letter.subject));
    fields.insert("command_position".into(), json!(outcome.position));
    outcome.outcome.put_json(&mut fields);
    Ok(output::line(Value::Object(fields))?)
}
