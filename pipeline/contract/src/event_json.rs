//! Commits and events as JSON, for people and programs.

use serde_json::{Value, json};

use super::{
    commit::{Commit, StoredCommit, hexadecimal},
    message_pack,
};

/// A whole commit, its events' fields decoded.
pub fn commit(commit: &Commit) -> Value {
    let events: Vec<Value> = (commit.first_version..)
        .zip(&commit.events)
        .map(|(version, event)| {
            json!({
                "version": version,
                "type": event.event_type,
                "schema": event.schema,
                "command": event.command,
                "data": fields(&event.data),
            })
        })
        .collect();
    json!({
        "commit_id": commit.commit_id,
        "first_version": commit.first_version,
        "recorded_at": commit.recorded_at().to_string(),
        "commands": commit.commands,
        "events": events,
        "previous": commit.previous.as_deref().map(hexadecimal),
    })
}

/// The events of a stored commit, one object each: sequence, version, recorded_at, type, schema, data, command_id, actor; and
/// partner_of where the command was another aggregate's.
pub fn events(stored: &StoredCommit) -> Vec<Value> {
    stored
        .envelopes()
        .map(|envelope| {
            let mut event = json!({
                "sequence": envelope.broker_sequence,
                "version": envelope.aggregate_version,
                "recorded_at": envelope.recorded_at.to_string(),
                "type": envelope.event_type,
                "schema": envelope.schema,
                "data": fields(envelope.data),
                "command_id": envelope.command.id,
                "actor": envelope.command.actor,
            });
            if let (Some(own), Some(event)) = (&envelope.command.partner_of, event.as_object_mut()) {
                event.insert("partner_of".into(), json!(own));
            }
            event
        })
        .collect()
}

/// An event's fields. Bytes that are not MessagePack are shown in hexadecimal.
fn fields(data: &[u8]) -> Value {
    message_pack::from_slice(data)
        .unwrap_or_else(|error| json!({ "undecodable": hexadecimal(data), "because": error.to_string() }))
}
