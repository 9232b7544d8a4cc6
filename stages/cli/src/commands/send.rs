//! `millstream send`: sends one command, and shows its outcome.

use std::{
    io::{self, Read as _},
    time::Duration,
};

use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt as _;
use millstream_contract::{
    exit_code::ExitCode,
    header,
    outcome::{Outcome, OutcomeReply},
    position::StreamPosition,
    stored_message::Headers,
    stream_names,
    subject::{CommandAddress, Origin},
};
use millstream_jetstream::broker::Broker as _;

use crate::{
    command_publisher::{self, OutgoingCommand},
    failure::CommandFailure,
    outcome_follower::OutcomeFollower,
    output,
    session::{Connected, Session},
};

/// Exit codes besides the general ones, so that a script can distinguish an answer from a failure.
pub(crate) const REJECTED: u8 = 10;
/// It was set aside, and an operator can retry it.
pub(crate) const DEAD_LETTERED: u8 = 11;
/// It is stored and will be decided, but was not decided in the given time.
pub(crate) const NO_OUTCOME: u8 = 12;

/// Publish a command and wait for its outcome.
///
/// Ends with 0 if it was accepted, 10 if it was rejected or its id belongs to another command, 11 if it became a dead letter, and 12 if
/// there is no outcome in time. If you send it again under the same id, it changes nothing and gets the first outcome.
#[derive(Debug, clap::Args)]
pub(crate) struct SendArguments {
    /// The context, such as `retail`
    context: String,
    /// The aggregate, such as `till`
    aggregate: String,
    /// The aggregate's id, such as `2506_2012-01-31`
    aggregate_id: String,
    /// The command, such as `record-sale`
    command: String,
    /// The command's fields as JSON; `-` reads standard input
    #[arg(default_value = "{}")]
    body: String,
    /// The command id; by default, a new one
    #[arg(long, value_parser = crate::header_text)]
    id: Option<String>,
    /// Who sends it
    #[arg(long, value_parser = crate::header_text)]
    actor: Option<String>,
    /// Reject unless the aggregate has this version
    #[arg(long, value_name = "VERSION", value_parser = crate::whole(0..=u64::MAX))]
    expected_version: Option<u64>,
    /// Send it as a process does, for commands that only processes may give; the server permits this only to operators
    #[arg(long)]
    effect: bool,
    /// How long to wait for the outcome
    #[arg(long, default_value = "10s", value_parser = crate::duration)]
    timeout: Duration,
    /// Print the outcome as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: SendArguments, session: &Session) -> Result<u8, CommandFailure> {
    let address = CommandAddress::new(
        &arguments.context,
        &arguments.aggregate,
        &arguments.aggregate_id,
        &arguments.command,
    )
    .map_err(CommandFailure::usage)?;
    let body = body(&arguments.body)?;
    let connected = session.connect().await?;
    let command = OutgoingCommand {
        address,
        origin: if arguments.effect { Origin::Effect } else { Origin::Sender },
        id: arguments.id.clone().unwrap_or_else(|| ulid::Ulid::generate().to_string()),
        body,
        headers: headers(&arguments),
    };
    let again = format!("send it again with --id {}", command.id);
    deliver(&connected, command, arguments.timeout, arguments.json, &again).await
}

/// Publishes a command, waits for its outcome and shows it. The number is the exit code. `again` says what to do if no outcome comes in time.
pub(crate) async fn deliver(
    connected: &Connected,
    mut command: OutgoingCommand,
    wait_max: Duration,
    json: bool,
    again: &str,
) -> Result<u8, CommandFailure> {
    let inbox = connected.client.new_inbox();
    command.headers.push(header::REPLY, &inbox);
    command_publisher::check_size(&connected.client, &command)?;
    let waiting = send_and_wait(connected, &command, &inbox);
    let Ok(reply) = tokio::time::timeout(wait_max, waiting).await else {
        return Err(CommandFailure::new(
            ExitCode::Unavailable,
            format_args!(
                "no outcome of {} in time; whether it was stored shows `nats stream get COMMANDS`; {again}",
                command.address
            ),
        )
        .with_code(NO_OUTCOME));
    };
    let reply = reply?;
    show(&reply, &command.address, json)?;
    if let Outcome::Duplicate { other_content: true, .. } = &reply.outcome {
        // The id belongs to another command, whatever became of that one.
        return Ok(REJECTED);
    }
    Ok(match reply.outcome.first() {
        Outcome::Rejected { .. } => REJECTED,
        Outcome::DeadLettered { .. } => DEAD_LETTERED,
        Outcome::Accepted { .. } | Outcome::Duplicate { .. } => ExitCode::Ok.number(),
    })
}

fn body(argument: &str) -> Result<Bytes, CommandFailure> {
    if argument != "-" {
        return Ok(Bytes::copy_from_slice(argument.as_bytes()));
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(|error| {
        CommandFailure::new(ExitCode::InputOutput, format_args!("standard input: {error}"))
    })?;
    Ok(bytes.into())
}

fn headers(arguments: &SendArguments) -> Headers {
    let mut headers = Headers::new();
    if let Some(actor) = &arguments.actor {
        headers.push(header::ACTOR, actor);
    }
    if let Some(version) = arguments.expected_version {
        headers.push(header::EXPECTED_VERSION, version.to_string());
    }
    headers
}

/// The reply is faster, and the record is certain. The first to come counts.
async fn send_and_wait(
    connected: &Connected,
    command: &OutgoingCommand,
    inbox: &str,
) -> Result<OutcomeReply, CommandFailure> {
    let mut replies = connected.client.subscribe(inbox.to_owned()).await.map_err(|error| {
        CommandFailure::new(ExitCode::Unavailable, format_args!("cannot subscribe: {error}"))
    })?;
    let mut follower = OutcomeFollower::begin(&connected.broker, "send").await?;
    let reply = wait(connected, command, &mut replies, &mut follower).await;
    follower.end(&connected.jetstream).await;
    reply
}

async fn wait(
    connected: &Connected,
    command: &OutgoingCommand,
    replies: &mut Subscriber,
    follower: &mut OutcomeFollower,
) -> Result<OutcomeReply, CommandFailure> {
    let position = command_publisher::publish(&connected.broker, command).await?;
    loop {
        tokio::select! {
            Some(message) = replies.next() => {
                let reply = serde_json::from_slice(&message.payload)
                    .ok()
                    .and_then(|value| OutcomeReply::from_json(&value));
                // An earlier, unclear publish of the same command may have been answered, too.
                if let Some(reply) = reply.filter(|reply| reply.command_position == position) {
                    return Ok(reply);
                }
            }
            outcomes = follower.next() => {
                if let Some(found) = outcomes?.into_iter().find(|each| each.position == position) {
                    return recorded(connected, command, position, found.outcome).await;
                }
            }
        }
    }
}

/// The reply that the handler would have sent.
async fn recorded(
    connected: &Connected,
    command: &OutgoingCommand,
    position: u64,
    outcome: Outcome,
) -> Result<OutcomeReply, CommandFailure> {
    let query_position = match outcome.first() {
        Outcome::Accepted { sequence, .. } => {
            let state = connected.broker.state(stream_names::EVENTS).await?;
            Some(StreamPosition::new(stream_names::EVENTS, state.generation, *sequence).to_string())
        }
        _ => None,
    };
    Ok(OutcomeReply {
        command_id: command.id.as_str().into(),
        command_position: position,
        outcome,
        query_position,
    })
}

fn show(reply: &OutcomeReply, address: &CommandAddress, json: bool) -> Result<(), CommandFailure> {
    if json {
        return Ok(output::line(reply.to_json())?);
    }
    Ok(output::line(format_args!("{address}: {}", reply.outcome))?)
}
