//! `millstream deadletters retry`: puts letters back where they came from, in order, and waits for their outcomes.

use std::{collections::BTreeMap, time::Duration};

use millstream_contract::{
    command::{letter_command_id, letter_of_command_id},
    dead_letter::DeadLetter,
    exit_code::ExitCode,
    header,
    outcome::{CommandOutcome, Outcome},
    stream_names::{COMMANDS, TIMERS},
};
use millstream_jetstream::broker::{Broker as _, NewMessage};
use serde_json::{Map, Value, json};

use super::{
    letters::{KeptLetter, Selection},
    remove,
};
use crate::{
    command_publisher::store,
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
        let command = kept.command_subject().ok_or_else(|| why_not(&kept.letter));
        match command.and_then(|subject| fitting(message(kept, subject), bytes_max)) {
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
        // They are published one after the other, so that COMMANDS has them in their original order.
        let position = store(&connected.broker, COMMANDS, &command).await?;
        // If this is interrupted before the letter is removed, the next retry publishes it again under the same id, which gives a duplicate.
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

/// The message as it was published, under an id: its own, or one made from its position, so that it takes effect once however often it is
/// retried.
fn message(kept: &KeptLetter, subject: String) -> NewMessage {
    let letter = &kept.letter;
    let mut headers = letter.headers.clone();
    // An id whose header is written in another case counts, too. A second id beside it would be refused for ever.
    if headers.find(header::COMMAND_ID).is_none() {
        let id = match &*letter.stream {
            COMMANDS => letter_of_command_id(letter.sequence, kept.set_aside_at, &letter.payload),
            stream => letter_command_id(stream, letter.sequence),
        };
        let is_id = |name: &str| name.eq_ignore_ascii_case(header::COMMAND_ID);
        headers = headers.iter().filter(|(name, _)| !is_id(name)).collect();
        headers.push(header::COMMAND_ID, id);
    }
    NewMessage { subject, expected_last: None, headers, payload: letter.payload.clone() }
}

/// The message, if the server accepts it together with the id that a retry gives it.
fn fitting(message: NewMessage, bytes_max: usize) -> Result<NewMessage, String> {
    let expected = header::EXPECTED_STREAM.len() + COMMANDS.len() + ": \r\n".len();
    let size = message.headers.block().len() + message.payload.len() + expected;
    if size <= bytes_max {
        return Ok(message);
    }
    Err(format!(
        "with its id it takes {size} bytes, and this server takes commands of up to {bytes_max}; raise max_payload and retry it then"
    ))
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

#[cfg(test)]
mod tests {
    use millstream_contract::stored_message::Headers;

    use super::*;

    #[test]
    fn a_letter_that_fits_only_without_the_id_of_a_retry_stays_and_says_so() {
        let letter = |bytes: usize| {
            let payload = vec![b' '; bytes].into();
            NewMessage {
                subject: "cmd.a.b.c.d".into(),
                expected_last: None,
                headers: Headers::new(),
                payload,
            }
        };
        assert!(fitting(letter(100), 200).is_ok());
        let why = fitting(letter(1_000), 200).unwrap_err();
        assert!(why.contains("max_payload") && why.contains("200"), "{why}");
    }
}
