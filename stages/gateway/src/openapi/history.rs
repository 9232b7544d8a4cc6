//! A path for each aggregate type: its events, the newest first, or its state as of a moment.

use serde_json::{Map, Value, json};

use super::{
    Described,
    commands::aggregate_id,
    parts::{header, not_modified, parameter, schema},
    problems::{Door, referenced},
};
use crate::history::EVENTS_MAX;

/// Headers that a client may send.
const HEADERS: [&str; 3] = ["Prefer", "Millstream-Position", "If-None-Match"];

/// Adds the histories of all aggregates.
pub(super) fn describe(
    described: &Described<'_>,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    schemas.insert("HistoryEvent".to_owned(), event());
    schemas.insert("HistoryPage".to_owned(), page());
    schemas.insert("HistoryState".to_owned(), state());
    for aggregate in described.parts.aggregates.iter() {
        let (context, name) = (aggregate.context(), aggregate.aggregate());
        let mut responses = referenced(described, Door::History);
        let headers = json!({
            "ETag": header("ETag"), "Millstream-Position": header("Millstream-Position"), "Link": header("Link"),
        });
        let body = json!({ "oneOf": [schema("HistoryPage"), schema("HistoryState")] });
        responses.insert(
            "200".to_owned(),
            json!({ "description": "A page of events; with `at`, the state", "headers": headers,
                "content": { "application/json": { "schema": body } } }),
        );
        responses.insert("304".to_owned(), not_modified());
        let mut parameters: Vec<Value> = HEADERS.map(parameter).into();
        parameters.push(aggregate_id(aggregate.as_ref()));
        parameters.extend(own_parameters());
        let operation = json!({
            "operationId": format!("{context}.{name}.history"),
            "tags": [context],
            "summary": format!("Events of {name}, the newest first, or its state as of a moment"),
            "parameters": parameters,
            "responses": responses,
        });
        paths.insert(format!("/v1/history/{context}/{name}/{{id}}"), json!({ "get": operation }));
    }
}

fn own_parameters() -> [Value; 3] {
    let in_query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    [
        in_query(
            "limit",
            "Events on a page; a commit is never cut",
            json!({ "type": "integer", "minimum": 1, "maximum": EVENTS_MAX, "default": 50 }),
        ),
        in_query(
            "before",
            "Where the page begins, as the page before has it",
            json!({ "type": "integer", "minimum": 1, "maximum": i64::MAX }),
        ),
        in_query(
            "at",
            "The state then, alone: a time, a date (its end in UTC), a position, or a sequence of EVENTS",
            json!({ "type": "string", "examples": ["2012-01-31T18:00:00Z", "2012-01-31", "17"] }),
        ),
    ]
}

fn event() -> Value {
    json!({
        "type": "object",
        "description": "An event",
        "required": ["sequence", "version", "recorded_at", "type", "schema", "data", "command_id", "actor"],
        "properties": {
            "sequence": { "type": "integer", "minimum": 1, "description": "Of its commit in EVENTS" },
            "version": { "type": "integer", "minimum": 1, "description": "Its place among the aggregate's events" },
            "recorded_at": { "type": "string", "format": "date-time" },
            "type": { "type": "string" },
            "schema": { "type": "integer", "minimum": 1, "description": "The version of the type's form" },
            "data": { "description": "Its fields, as they were recorded" },
            "command_id": { "type": "string" },
            "actor": { "type": ["string", "null"] },
            "partner_of": { "type": "string", "description": "The aggregate of the command, where that was another" },
        },
        "additionalProperties": false,
    })
}

fn page() -> Value {
    json!({
        "type": "object",
        "required": ["aggregate", "events", "before"],
        "properties": {
            "aggregate": { "type": "string" },
            "events": { "type": "array", "items": schema("HistoryEvent") },
            "before": { "type": ["integer", "null"], "description": "Where the next page begins; null on the last" },
        },
        "additionalProperties": false,
    })
}

fn state() -> Value {
    json!({
        "type": "object",
        "required": ["aggregate", "as_of", "sequence", "version", "recorded_at", "state"],
        "properties": {
            "aggregate": { "type": "string" },
            "as_of": { "type": "string" },
            "sequence": { "type": "integer", "minimum": 0, "description": "Of the last commit that counts; 0 for none" },
            "version": { "type": "integer", "minimum": 0, "description": "How many events count" },
            "recorded_at": { "type": ["string", "null"], "format": "date-time" },
            "state": { "description": "What the rules decide on" },
        },
        "additionalProperties": false,
    })
}
