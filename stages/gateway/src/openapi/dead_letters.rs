//! The paths of dead letters: a list, a letter, and the two ways to be rid of one.

use serde_json::{Map, Value, json};

use super::{
    Described,
    parts::{header, not_modified, parameter, schema},
    problems::{Door, referenced},
};
use crate::dead_letters::{LETTERS_DEFAULT, LETTERS_MAX};

/// Adds all of them.
pub(super) fn describe(
    described: &Described<'_>,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    schemas.insert("DeadLetterSummary".to_owned(), summary());
    schemas.insert("DeadLetters".to_owned(), page());
    schemas.insert("DeadLetter".to_owned(), letter());
    schemas.insert("DeadLetterRetried".to_owned(), retried());
    schemas.insert("DeadLetterDropped".to_owned(), dropped());
    let address = |action: &str| format!("/v1/deadletters/{{letter}}{action}");
    paths.insert("/v1/deadletters".to_owned(), json!({ "get": list(described) }));
    paths.insert(address(""), json!({ "get": get(described) }));
    paths.insert(address("/retry"), json!({ "post": retry(described) }));
    paths.insert(address("/drop"), json!({ "post": drop_letter(described) }));
}

fn list(described: &Described<'_>) -> Value {
    let in_query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    let text = || json!({ "type": "string" });
    let limit =
        json!({ "type": "integer", "minimum": 1, "maximum": LETTERS_MAX, "default": LETTERS_DEFAULT });
    let headers = json!({ "ETag": header("ETag"), "Link": header("Link") });
    operation(
        referenced(described, Door::Letters),
        ["deadletters.list", "What was set aside, the newest first"],
        vec![
            in_query("limit", "Letters on a page", limit),
            in_query(
                "before",
                "Where the page begins, as the page before has it",
                json!({ "type": "integer", "minimum": 1, "maximum": i64::MAX }),
            ),
            in_query("code", "Only letters with this code", text()),
            in_query("context", "Only letters to aggregates of this context", text()),
            in_query("aggregate", "Only letters to this aggregate: `<context>.<aggregate>.<id>`", text()),
            parameter("If-None-Match"),
        ],
        json!({ "description": "A page. It may have fewer letters than `limit`, or none, although a `Link` says that there are more",
            "headers": headers,
            "content": { "application/json": { "schema": schema("DeadLetters") } } }),
        true,
    )
}

fn get(described: &Described<'_>) -> Value {
    operation(
        referenced(described, Door::Letter),
        ["deadletters.get", "A letter with its headers and its body"],
        vec![name(), parameter("If-None-Match")],
        json!({ "description": "The letter", "headers": { "ETag": header("ETag") },
            "content": { "application/json": { "schema": schema("DeadLetter") } } }),
        true,
    )
}

fn retry(described: &Described<'_>) -> Value {
    let content = json!({ "application/json": { "schema": schema("DeadLetterRetried") } });
    let mut operation = operation(
        referenced(described, Door::LetterMove),
        ["deadletters.retry", "Has a letter decided again; it is no dead letter any more"],
        vec![name(), parameter("Prefer")],
        json!({ "description": "Its outcome (only with Prefer: wait)", "content": content,
            "headers": { "Millstream-Position": header("Millstream-Position"), "Preference-Applied": header("Preference-Applied") } }),
        false,
    );
    let stored = json!({ "description": "It is stored as a command again, and will be decided", "content": content,
        "headers": { "Millstream-Position": header("Command-Position") } });
    if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
        responses.insert("202".to_owned(), stored);
    }
    operation
}

fn drop_letter(described: &Described<'_>) -> Value {
    operation(
        referenced(described, Door::LetterMove),
        ["deadletters.drop", "Removes a letter for good"],
        vec![name()],
        json!({ "description": "It is removed",
            "content": { "application/json": { "schema": schema("DeadLetterDropped") } } }),
        false,
    )
}

fn operation(
    mut responses: Map<String, Value>,
    [id, summary]: [&str; 2],
    parameters: Vec<Value>,
    success: Value,
    is_question: bool,
) -> Value {
    responses.insert("200".to_owned(), success);
    if is_question {
        responses.insert("304".to_owned(), not_modified());
    }
    json!({ "operationId": id, "tags": ["gateway"], "summary": summary, "parameters": parameters, "responses": responses })
}

fn name() -> Value {
    json!({ "name": "letter", "in": "path", "required": true,
        "description": "Where the message stood: `<stream>.<sequence>`, with the effect behind it for one of a process",
        "schema": { "type": "string", "minLength": 1, "examples": ["COMMANDS.17", "EVENTS.17-fulfilment-3-0"] } })
}

fn fields() -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    Map::from_iter([
        ("letter".to_owned(), json!({ "type": "string", "description": "Its name" })),
        ("set_aside_at".to_owned(), json!({ "type": "string", "format": "date-time" })),
        ("stream".to_owned(), json!({ "type": "string", "description": "Where the message stood" })),
        (
            "sequence".to_owned(),
            json!({ "type": "integer", "minimum": 0, "description": "Its sequence there" }),
        ),
        ("subject".to_owned(), text()),
        ("code".to_owned(), json!({ "type": "string", "description": "Why, for programs" })),
        ("cause".to_owned(), json!({ "type": "string", "description": "The same, as a sentence" })),
    ])
}

fn summary() -> Value {
    let fields = fields();
    let required: Vec<&String> = fields.keys().collect();
    json!({ "type": "object", "required": required, "properties": fields, "additionalProperties": false })
}

fn page() -> Value {
    json!({
        "type": "object",
        "required": ["letters", "before"],
        "properties": {
            "letters": { "type": "array", "items": schema("DeadLetterSummary") },
            "before": { "type": ["integer", "null"], "description": "Where the next page begins; null on the last" },
        },
        "additionalProperties": false,
    })
}

fn letter() -> Value {
    let mut properties = fields();
    let mut required: Vec<String> = properties.keys().cloned().collect();
    required.push("headers".to_owned());
    let bytes = |description: &str| json!({ "type": "string", "contentEncoding": "base64", "description": description });
    properties.insert(
        "headers".to_owned(),
        json!({ "type": "object", "description": "A header that was given more than once has a list of values",
            "additionalProperties": { "type": ["string", "array"], "items": { "type": "string" } } }),
    );
    properties.insert(
        "headers_unreadable".to_owned(),
        json!({ "type": "string", "description": "Why its headers cannot be read" }),
    );
    properties.insert(
        "header_block_base64".to_owned(),
        bytes("Its headers as they came, where they cannot be read"),
    );
    properties.insert("body".to_owned(), json!({ "type": "string" }));
    properties.insert("body_base64".to_owned(), bytes("Instead of `body`, where that is no UTF-8"));
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

fn retried() -> Value {
    json!({
        "type": "object",
        "required": ["letter", "command_id", "command_position", "outcome"],
        "properties": {
            "letter": { "type": "string" },
            "command_id": { "type": "string" },
            "command_position": { "type": "integer", "minimum": 1, "description": "Where the command stands now" },
            "outcome": { "enum": ["pending", "accepted", "rejected", "dead-lettered"] },
            "code": { "type": "string", "description": "Why it was rejected, or set aside again" },
            "message": { "type": "string", "description": "The same, as a sentence" },
            "query_position": { "type": "string", "description": "What a query sends to see the effect" },
        },
    })
}

fn dropped() -> Value {
    json!({
        "type": "object",
        "required": ["letter", "dropped"],
        "properties": { "letter": { "type": "string" }, "dropped": { "const": true } },
        "additionalProperties": false,
    })
}
