//! `millstream history`: every event of one aggregate, by direct get of its subject.

use millstream_engine::{
    broker::Broker as _,
    contract::{commit::StoredCommit, stream_names, subject::StreamId},
    exit_code::ExitCode,
};
use serde_json::Value;

use crate::{event_json, failure::CommandFailure, output, session::Session};

const COLUMNS: [&str; 7] = ["sequence", "version", "recorded_at", "type", "data", "command_id", "actor"];

/// List every event of an aggregate.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArguments {
    /// As in `retail`
    context: String,
    /// As in `till`
    aggregate: String,
    /// As in `2506_2012-01-31`
    id: String,
    /// One JSON object an event
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: HistoryArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let stream_id = StreamId::new(&arguments.context, &arguments.aggregate, &arguments.id)
        .map_err(CommandFailure::usage)?;
    let connected = session.connect().await?;
    let messages = connected.broker.load(stream_names::EVENTS, &stream_id.event_subject(), 1).await?;
    let mut events = Vec::new();
    for message in &messages {
        let stored = StoredCommit::from_stored(message).map_err(|error| CommandFailure::data(&error))?;
        events.extend(event_json::events(&stored));
    }
    if events.is_empty() {
        session.talk.say(format_args!("{stream_id} has no events"));
    }
    if arguments.json {
        for event in &events {
            output::line(event)?;
        }
    } else if !events.is_empty() {
        let columns = COLUMNS.map(str::to_owned);
        let rows: Vec<Vec<String>> = events.iter().map(row).collect();
        output::line(output::table(&columns, &rows, &[0, 1]))?;
    }
    Ok(ExitCode::Ok)
}

fn row(event: &Value) -> Vec<String> {
    COLUMNS.iter().map(|name| event.get(*name).map(output::cell).unwrap_or_default()).collect()
}
