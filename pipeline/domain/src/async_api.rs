//! The AsyncAPI 3.0 document of an application: the subjects on which NATS clients send commands, query views and read events. It is made
//! from the same types as everything else.
//!
//! The document describes a client of Millstream: what it sends and what it receives. Deliberately absent: addresses of servers, and the
//! subjects on which stages talk to each other.

use std::collections::BTreeSet;

use millstream_contract::{
    header,
    subject::{COMMAND_PREFIX, EVENT_PREFIX, QUERY_PREFIX, SUBMIT_PREFIX},
};
use serde_json::{Map, Value, json};

use crate::{
    application::{ApplicationError, DefaultSettings, Model, Views},
    decider::{AggregateRegistry, AggregateType},
    projection::view_name,
};

/// The application that the document describes.
#[derive(Debug, Clone, Copy)]
pub struct AsyncApiInfo {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it is for.
    pub about: &'static str,
}

/// All views of an application, with their contexts.
///
/// # Errors
/// When the application has problems.
pub fn views(
    model: impl Fn() -> Result<Model, ApplicationError>,
) -> Result<BTreeSet<(String, String)>, ApplicationError> {
    let contexts = model()?.context_names();
    let Views { projections, outcome_projections } = model()?.views(&mut DefaultSettings::default());
    let reports = model()?.reports(&mut DefaultSettings::default());
    let of_events = projections.into_iter().chain(reports.into_iter().map(|report| report.ledger));
    let mut views: BTreeSet<(String, String)> = of_events
        .flat_map(|each| {
            let context = each.context();
            each.views().iter().map(|table| (context.to_owned(), view_name(table))).collect::<Vec<_>>()
        })
        .collect();
    for context in contexts {
        let of_outcomes = outcome_projections.iter().map(|each| view_name(each.name()));
        views.extend(of_outcomes.map(|view| (context.to_owned(), view)));
    }
    Ok(views)
}

/// The document.
pub fn document(
    info: AsyncApiInfo,
    aggregates: &AggregateRegistry,
    views: &BTreeSet<(String, String)>,
) -> Value {
    let mut parts = Parts::default();
    for aggregate in aggregates.iter() {
        let internal = aggregate.internal_commands();
        for command in aggregate.command_names().iter().filter(|command| !internal.contains(command)) {
            parts.add_command(aggregate.as_ref(), command);
        }
        parts.add_events(aggregate.as_ref());
    }
    for (context, view) in views {
        parts.add_view(context, view);
    }
    parts.messages.insert("outcome".to_owned(), outcome());
    parts.messages.insert("rows".to_owned(), rows());
    let inbox = json!({
        "address": null,
        "description": "The reply subject of the request, an inbox that the client library makes",
        "messages": { "outcome": message("outcome"), "rows": message("rows") },
    });
    parts.channels.insert("inbox".to_owned(), inbox);
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": info.name,
            "version": info.version,
            "description": format!("{}.\n\nThe subjects of NATS for a program beside it: what it sends, and what it receives.", info.about),
        },
        "defaultContentType": header::JSON,
        "channels": parts.channels,
        "operations": parts.operations,
        "components": {
            "messages": parts.messages,
            "schemas": parts.schemas,
            "messageTraits": { "command": { "headers": command_headers() }, "query": { "headers": query_headers() } },
        },
    })
}

#[derive(Default)]
struct Parts {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Parts {
    /// A command can be sent in two ways: on its own, or as a request that is answered with the outcome.
    fn add_command(&mut self, aggregate: &dyn AggregateType, command: &str) {
        let (context, kind) = (aggregate.context(), aggregate.aggregate());
        let name = format!("{context}.{kind}.{command}");
        let body = aggregate.command_json_schema(command).unwrap_or_else(|| json!({ "type": "object" }));
        self.schemas.insert(name.clone(), body);
        let told = json!({
            "name": name,
            "title": format!("{command} ({kind})"),
            "contentType": header::JSON,
            "payload": { "$ref": format!("#/components/schemas/{name}") },
            "traits": [{ "$ref": "#/components/messageTraits/command" }],
        });
        self.messages.insert(name.clone(), told);
        for (prefix, summary) in [
            (COMMAND_PREFIX, "Sends it; the answer of JetStream says that it is stored"),
            (SUBMIT_PREFIX, "Sends it, and is answered with its outcome"),
        ] {
            let channel = format!("{prefix}.{name}");
            let address = format!("{prefix}.{context}.{kind}.{{id}}.{command}");
            self.channels.insert(
                channel.clone(),
                json!({
                    "address": address,
                    "parameters": { "id": { "description": format!("The id of the {kind}") } },
                    "messages": { "command": message(&name) },
                }),
            );
            let mut operation = json!({
                "action": "send",
                "channel": { "$ref": format!("#/channels/{channel}") },
                "summary": summary,
                "tags": [{ "name": context }],
            });
            if prefix == SUBMIT_PREFIX {
                reply(&mut operation, "outcome");
            }
            self.operations.insert(channel, operation);
        }
    }

    fn add_events(&mut self, aggregate: &dyn AggregateType) {
        let (context, kind) = (aggregate.context(), aggregate.aggregate());
        let name = format!("{EVENT_PREFIX}.{context}.{kind}");
        let types: Vec<&str> = aggregate.event_types().iter().map(|(event, _)| *event).collect();
        let examples: Map<String, Value> = types
            .iter()
            .filter_map(|event| Some(((*event).to_owned(), aggregate.event_sample(event)?)))
            .collect();
        let told = json!({
            "name": name,
            "title": format!("A commit of the {kind}"),
            "summary": "All events that one or more commands of one aggregate caused together; `millstream decode` shows it as JSON",
            "contentType": "application/msgpack",
            "payload": { "type": "object", "required": ["commit_id", "first_version", "events"], "properties": {
                "commit_id": { "type": "string" },
                "first_version": { "type": "integer", "minimum": 1 },
                "events": { "type": "array", "items": { "type": "object", "properties": {
                    "type": { "enum": types }, "schema": { "type": "integer" }, "data": { "description": "The fields of the event, in MessagePack" },
                } } },
            } },
            "x-events": examples,
        });
        self.messages.insert(name.clone(), told);
        self.channels.insert(
            name.clone(),
            json!({
                "address": format!("{EVENT_PREFIX}.{context}.{kind}.{{id}}"),
                "description": "In the stream EVENTS, in order and for ever",
                "parameters": { "id": { "description": format!("The id of the {kind}") } },
                "messages": { "commit": message(&name) },
            }),
        );
        let operation = json!({
            "action": "receive",
            "channel": { "$ref": format!("#/channels/{name}") },
            "summary": format!("What has happened to each {kind}"),
            "tags": [{ "name": context }],
        });
        self.operations.insert(name, operation);
    }

    fn add_view(&mut self, context: &str, view: &str) {
        for (verb, question) in [("get", get()), ("list", list())] {
            let name = format!("{QUERY_PREFIX}.{context}.{view}.{verb}");
            let told = json!({
                "name": name,
                "contentType": header::JSON,
                "payload": question,
                "traits": [{ "$ref": "#/components/messageTraits/query" }],
            });
            self.messages.insert(name.clone(), told);
            self.channels
                .insert(name.clone(), json!({ "address": name, "messages": { "question": message(&name) } }));
            let mut operation = json!({
                "action": "send",
                "channel": { "$ref": format!("#/channels/{name}") },
                "summary": format!("{} of {view}", if verb == "get" { "A row" } else { "Rows" }),
                "tags": [{ "name": context }],
            });
            reply(&mut operation, "rows");
            self.operations.insert(name, operation);
        }
    }
}

fn message(name: &str) -> Value {
    json!({ "$ref": format!("#/components/messages/{name}") })
}

/// A request is answered in the inbox that it names.
fn reply(operation: &mut Value, message: &str) {
    if let Some(operation) = operation.as_object_mut() {
        operation.insert(
            "reply".to_owned(),
            json!({
                "channel": { "$ref": "#/channels/inbox" },
                "messages": [{ "$ref": format!("#/channels/inbox/messages/{message}") }],
            }),
        );
    }
}

fn command_headers() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({ "type": "object", "properties": {
        (header::COMMAND_ID): text("The command's id: sent again under the same, it takes effect once"),
        (header::EXPECTED_VERSION): text("The version that the aggregate must have"),
        (header::REPLY): text("A subject that gets the outcome"),
        (header::ACTOR): text("Who sends it"),
        (header::CORRELATION_ID): text("What it belongs to"),
    } })
}

fn query_headers() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({ "type": "object", "properties": {
        (header::POSITION): text("The answer holds what is at this position, or more"),
        (header::WAIT_MS): text("How long it may wait for that, in milliseconds"),
    } })
}

fn outcome() -> Value {
    json!({
        "name": "outcome",
        "contentType": header::JSON,
        "payload": { "type": "object", "required": ["command_id", "command_position", "outcome"], "properties": {
            "command_id": { "type": "string" },
            "command_position": { "type": "integer", "minimum": 1 },
            "outcome": { "enum": ["accepted", "rejected", "duplicate", "dead-lettered"] },
            "code": { "type": "string" },
            "message": { "type": "string" },
            "other_content": { "type": "boolean", "description": "Of a duplicate: the id was used by a command with another address or body" },
        } },
    })
}

fn rows() -> Value {
    json!({ "name": "rows", "contentType": header::JSON, "payload": { "type": "object" } })
}

fn get() -> Value {
    json!({ "type": "object", "required": ["key"], "properties": { "key": { "type": "string" } } })
}

fn list() -> Value {
    let text = json!({ "type": "string" });
    json!({ "type": "object", "properties": {
        "prefix": text, "from": text, "to": text, "cursor": text,
        "limit": { "type": "integer", "minimum": 1 },
        "reverse": { "type": "boolean" },
    }, "additionalProperties": false })
}
