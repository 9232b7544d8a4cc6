//! `millstream decode`: one stored message to JSON, for `nats sub --translate 'millstream decode' 'evt.>'`.

use std::io::{self, Read as _};

use millstream_contract::{
    commit::Commit, event_json, exit_code::ExitCode, message_pack, outcome::OutcomeRecord,
};
use serde_json::{Value, json};

use crate::{failure::CommandFailure, output};

/// Turn one commit (or outcome record) on standard input into one line of JSON.
///
/// For the nats CLI: nats sub --translate 'millstream decode' 'evt.>'
#[derive(Debug, clap::Args)]
pub(crate) struct DecodeArguments {
    /// Spread the JSON over several lines
    #[arg(long)]
    pretty: bool,
}

/// Runs it. Needs no server.
pub(crate) fn run(arguments: &DecodeArguments) -> Result<ExitCode, CommandFailure> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).map_err(|error| {
        CommandFailure::new(ExitCode::InputOutput, format_args!("standard input: {error}"))
    })?;
    let value = decode(&bytes)?;
    let text = if arguments.pretty { format!("{value:#}") } else { value.to_string() };
    output::line(text)?;
    Ok(ExitCode::Ok)
}

fn decode(bytes: &[u8]) -> Result<Value, CommandFailure> {
    match message_pack::from_slice::<Commit>(bytes) {
        Ok(commit) => Ok(event_json::commit(&commit)),
        Err(not_a_commit) => match message_pack::from_slice::<OutcomeRecord>(bytes) {
            Ok(record) => Ok(outcome_record(&record)),
            Err(_) => Err(CommandFailure::new(
                ExitCode::Data,
                format_args!("standard input is neither a commit nor an outcome record: {not_a_commit}"),
            )),
        },
    }
}

fn outcome_record(record: &OutcomeRecord) -> Value {
    let outcomes: Vec<Value> = record
        .outcomes
        .iter()
        .map(|line| {
            let mut fields = serde_json::Map::new();
            fields.insert("command_position".into(), json!(line.position));
            fields.insert("command_id".into(), json!(line.id));
            fields.insert("command".into(), json!(line.address));
            line.outcome.put_json(&mut fields);
            Value::Object(fields)
        })
        .collect();
    json!({
        "record_id": record.record_id,
        "kind": record.kind,
        "handler": record.handler,
        "after": record.after,
        "through": record.through,
        "events_through": record.events_through,
        "outcomes": outcomes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b"{}"[..], b"", b"\x80", b"\xff\xff"] {
            assert_eq!(decode(bytes).unwrap_err().code, ExitCode::Data.number(), "{bytes:?}");
        }
    }
}
