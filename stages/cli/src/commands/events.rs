//! `millstream events`: shows one message of EVENTS, and sets aside one that is not a commit.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use millstream_contract::{
    commit::{StoredCommit, content_digest},
    error_text::one_line,
    event_json,
    exit_code::ExitCode,
    header,
    set_aside::{self, MessageSetAside, act_subject},
    stored_message::{Headers, StoredMessage},
    stream_names::EVENTS,
    subject::{CommandAddress, Origin},
};
use millstream_jetstream::{broker::Broker as _, nats_broker::NatsBroker};
use serde_json::{Map, Value, json};

use super::send;
use crate::{command_publisher::OutgoingCommand, failure::CommandFailure, output, session::Session};

/// Show a message of EVENTS, or set aside one that is not a commit.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show everything about the message at a sequence
    Show(ShowArguments),
    /// Let every reader continue after a message that is not a commit
    ///
    /// Shows the message, then records in EVENTS that it was set aside, by whom and why. The message stays where it is. A commit
    /// cannot be set aside, even one with events that this program does not know. Ends like `send`.
    SetAside(SetAsideArguments),
}

#[derive(Debug, clap::Args)]
struct ShowArguments {
    /// Its sequence in EVENTS
    #[arg(value_parser = crate::whole(1..=u64::MAX))]
    sequence: u64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct SetAsideArguments {
    /// Its sequence in EVENTS
    #[arg(value_parser = crate::whole(1..=u64::MAX))]
    sequence: u64,
    /// The reason, in a sentence for those who read it later
    #[arg(long)]
    reason: String,
    /// Who does it; by default, the user of the connection
    #[arg(long, value_parser = crate::header_text)]
    actor: Option<String>,
    /// How long to wait for the outcome
    #[arg(long, default_value = "10s", value_parser = crate::duration)]
    timeout: Duration,
    /// One JSON object for the message, and one for the outcome
    #[arg(long)]
    json: bool,
}

/// Runs it. The number is the exit code.
pub(crate) async fn run(arguments: EventsArguments, session: &Session) -> Result<u8, CommandFailure> {
    match arguments.action {
        Action::Show(arguments) => show(&arguments, session).await,
        Action::SetAside(arguments) => set_aside(arguments, session).await,
    }
}

async fn show(arguments: &ShowArguments, session: &Session) -> Result<u8, CommandFailure> {
    let broker = session.connect().await?.broker;
    let message = message_at(&broker, arguments.sequence).await?;
    let mut fields = describe(&message);
    if let Some(act) = broker.last(EVENTS, &act_subject(message.sequence)).await?
        && MessageSetAside::from_stored(&act).is_some_and(|act| act.names(&message))
        && let Ok(act) = StoredCommit::from_stored(&act)
        && let Some(event) = event_json::events(&act).pop()
    {
        fields.insert("set_aside".into(), event);
    }
    say(fields, arguments.json)?;
    Ok(ExitCode::Ok.number())
}

async fn set_aside(arguments: SetAsideArguments, session: &Session) -> Result<u8, CommandFailure> {
    let actor = match arguments.actor {
        Some(actor) => actor,
        None => session.user()?.ok_or_else(|| {
            CommandFailure::usage("the connection has no user's name; say who does this with --actor")
        })?,
    };
    let connected = session.connect().await?;
    let message = message_at(&connected.broker, arguments.sequence).await?;
    say(describe(&message), arguments.json)?;
    if StoredCommit::from_stored(&message).is_ok() {
        let text =
            format_args!("{EVENTS} {} is a commit; what was recorded cannot be set aside", message.sequence);
        return Err(CommandFailure::new(ExitCode::Data, text));
    }
    let sequence = message.sequence.to_string();
    let address =
        CommandAddress::new(set_aside::CONTEXT, set_aside::AGGREGATE, &sequence, set_aside::COMMAND)
            .map_err(CommandFailure::usage)?;
    let mut headers = Headers::new();
    headers.push(header::ACTOR, actor);
    let body = json!({
        "subject": message.subject,
        "digest": content_digest(&message.payload),
        "reason": arguments.reason,
    });
    let id = ulid::Ulid::generate().to_string();
    let origin = Origin::Sender;
    let command = OutgoingCommand { address, origin, id, body: body.to_string().into(), headers };
    let again = "ask again; a message that is set aside already is set aside once";
    send::deliver(&connected, command, arguments.timeout, arguments.json, again).await
}

async fn message_at(broker: &NatsBroker, sequence: u64) -> Result<StoredMessage, CommandFailure> {
    broker.get(EVENTS, sequence).await?.ok_or_else(|| {
        CommandFailure::new(ExitCode::Usage, format_args!("{EVENTS} has no message {sequence}"))
            .with_code(crate::NOTHING_FOUND)
    })
}

fn describe(message: &StoredMessage) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut insert = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    insert("sequence", json!(message.sequence));
    insert("subject", json!(message.subject));
    insert("stored_at", json!(message.stored_at.to_string()));
    let headers: Map<String, Value> =
        message.headers.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    insert("headers", Value::Object(headers));
    insert("digest", json!(content_digest(&message.payload)));
    match StoredCommit::from_stored(message) {
        Ok(stored) => insert("commit", event_json::commit(&stored.commit)),
        Err(error) => {
            insert("no_commit", json!(one_line(&error)));
            match std::str::from_utf8(&message.payload) {
                Ok(text) => insert("body", json!(text)),
                Err(_) => insert("body_base64", json!(STANDARD.encode(&message.payload))),
            }
        }
    };
    fields
}

fn say(fields: Map<String, Value>, json: bool) -> Result<(), CommandFailure> {
    let value = Value::Object(fields);
    let text = if json { value.to_string() } else { format!("{value:#}") };
    Ok(output::line(text)?)
}
