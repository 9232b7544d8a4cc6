//! A path for each command, and the one that returns the outcome of any command.

use std::collections::BTreeSet;

use millstream_contract::subject::AGGREGATE_ID_LENGTH_MAX;
use millstream_domain::decider::{ANY_COMMAND, AggregateType};
use serde_json::{Map, Value, json};

use super::{
    Described, examples,
    parts::{header, parameter, schema, with},
    problems::{Door, referenced},
};

/// An id that an aggregate with its own form of ids refuses. Its refusal describes the form.
const NO_ID: &str = "-";
/// Ids of forms that aggregates demand: any form, a date, and two parts.
const IDS: [&str; 5] = ["a1", "2012-01-31", "a1_2012-01-31", "a1:b2", "1"];
/// Headers that a client may send with a command.
const PARAMETERS: [&str; 7] = [
    "Prefer",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match-Any",
    "Millstream-Correlation-Id",
    "Millstream-Causation-Id",
    "traceparent",
];

/// Adds all commands that anybody may send.
pub(super) fn describe(
    described: &Described<'_>,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    for aggregate in described.parts.aggregates.iter() {
        for command in offered(aggregate.as_ref()) {
            let (context, name) = (aggregate.context(), aggregate.aggregate());
            let id = format!("{context}.{name}.{command}");
            schemas.insert(id.clone(), body(aggregate.as_ref(), command));
            let path = format!("/v1/commands/{context}/{name}/{{id}}/{command}");
            paths.insert(path, json!({ "post": operation(described, aggregate.as_ref(), command, &id) }));
        }
    }
    paths.insert("/v1/commands/{command_id}".to_owned(), json!({ "get": status(described) }));
}

/// The commands of an aggregate that can be sent over HTTP, which excludes those that only processes and timers may give.
pub(crate) fn offered(aggregate: &dyn AggregateType) -> impl Iterator<Item = &'static str> {
    let internal = aggregate.internal_commands();
    aggregate.command_names().iter().copied().filter(move |command| !internal.contains(command))
}

/// The codes with which a command can be rejected, as its rules declare them.
pub(crate) fn rejections(aggregate: &dyn AggregateType, command: &str) -> BTreeSet<&'static str> {
    let all = aggregate.rejections().into_iter();
    all.filter(|(of, _)| [ANY_COMMAND, command].contains(of)).map(|(_, code)| code).collect()
}

/// The aggregate's own demands on its ids, in its own words.
pub(crate) fn id_form(aggregate: &dyn AggregateType) -> Option<String> {
    aggregate.check_id(NO_ID).err().map(|rejection| rejection.message)
}

/// An id that an aggregate accepts; `None` if its form is a special one.
pub(crate) fn example_id(aggregate: &dyn AggregateType) -> Option<&'static str> {
    IDS.into_iter().find(|id| aggregate.check_id(id).is_ok())
}

/// The schema of a command's body. If the type could not be examined, it only says that it is an object.
pub(crate) fn body(aggregate: &dyn AggregateType, command: &str) -> Value {
    let mut schema = aggregate.command_json_schema(command).unwrap_or_else(|| json!({ "type": "object" }));
    if let (Some(id), Some(example)) = (example_id(aggregate), schema.pointer_mut("/examples/0")) {
        examples::mend(aggregate, id, command, example);
    }
    schema
}

fn operation(described: &Described<'_>, aggregate: &dyn AggregateType, command: &str, id: &str) -> Value {
    let rejections = rejections(aggregate, command);
    let body = body(aggregate, command);
    let mut parameters = vec![aggregate_id(aggregate)];
    parameters.extend(PARAMETERS.map(parameter));
    let mut responses = referenced(described, Door::Command);
    responses.insert("200".to_owned(), accepted());
    responses.insert("202".to_owned(), stored());
    let mut description = format!("At most {} bytes.", described.limits.body_max);
    if !rejections.is_empty() {
        let codes: Vec<String> = rejections.iter().map(|code| format!("`{code}`")).collect();
        description.push_str(&format!(" Rejected with {}.", codes.join(", ")));
    }
    json!({
        "operationId": id,
        "tags": [aggregate.context()],
        "summary": format!("{command} ({})", aggregate.aggregate()),
        "description": description,
        "x-rejections": rejections,
        "parameters": parameters,
        "requestBody": {
            // A command without required fields may come without a body.
            "required": body.get("required").is_some(),
            "content": { "application/json": { "schema": schema(id) } },
        },
        "responses": responses,
    })
}

pub(super) fn aggregate_id(aggregate: &dyn AggregateType) -> Value {
    let mut description = format!("The id of the {}", aggregate.aggregate());
    if let Some(form) = id_form(aggregate) {
        description.push_str(&format!(": {form}"));
    }
    let parameter = json!({
        "name": "id",
        "in": "path",
        "required": true,
        "description": description,
        "schema": { "type": "string", "pattern": format!("^[A-Za-z0-9_:@-]{{1,{AGGREGATE_ID_LENGTH_MAX}}}$") },
    });
    match example_id(aggregate) {
        Some(id) => with(parameter, "example", json!(id)),
        None => parameter,
    }
}

fn stored() -> Value {
    json!({
        "description": "The command is stored, and will be decided",
        "headers": { "Location": header("Location"), "Millstream-Position": header("Command-Position") },
        "content": { "application/json": { "schema": schema("StoredCommand") } },
    })
}

fn accepted() -> Value {
    json!({
        "description": "The command was accepted (only with Prefer: wait)",
        "headers": {
            "ETag": header("Version"),
            "Millstream-Position": header("Millstream-Position"),
            "Preference-Applied": header("Preference-Applied"),
        },
        "content": { "application/json": { "schema": schema("AcceptedCommand") } },
    })
}

fn status(described: &Described<'_>) -> Value {
    let mut responses = referenced(described, Door::Status);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "What became of the command; `pending` as long as it has no outcome",
            "headers": { "Millstream-Position": header("Millstream-Position"), "Retry-After": header("Retry-After-Pending") },
            "content": { "application/json": { "schema": schema("CommandStatus") } },
        }),
    );
    json!({
        "operationId": "gateway.command-status",
        "tags": ["gateway"],
        "summary": "What became of a command",
        "description": "At the address in Location of the answer to the command.",
        "parameters": [
            { "name": "command_id", "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } },
            { "name": "position", "in": "query", "description": "The command's position in COMMANDS",
              "schema": { "type": "integer", "minimum": 1, "maximum": u64::MAX } },
        ],
        "responses": responses,
    })
}
