//! The address that accepts several commands, as lines.

use serde_json::{Value, json};

use super::{
    Described,
    parts::{header, parameter, schema},
    problems::{Door, referenced},
};
use crate::command_request::JSON_LINES;

/// Headers that apply to every line.
const PARAMETERS: [&str; 4] =
    ["Prefer", "Millstream-Correlation-Id", "Millstream-Causation-Id", "traceparent"];

/// The operation.
pub(super) fn operation(described: &Described<'_>) -> Value {
    let limits = described.limits;
    let mut responses = referenced(described, Door::Lines);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "Every line has an answer, in the order of the lines",
            "headers": { "Preference-Applied": header("Preference-Applied-To-Lines") },
            "content": { JSON_LINES: { "schema": { "type": "string" }, "x-itemSchema": schema("CommandLineAnswer") } },
        }),
    );
    json!({
        "operationId": "gateway.command-lines",
        "tags": ["gateway"],
        "summary": "Several commands",
        "description": format!(
            "At most {} commands in {} bytes. A line that is refused is refused alone; each line has the answer that the command alone would have had.",
            limits.lines_max, limits.lines_bytes_max
        ),
        "parameters": PARAMETERS.map(parameter),
        "requestBody": {
            "required": false,
            "content": { JSON_LINES: { "schema": { "description": "Text, each line of it a CommandLine" }, "x-itemSchema": schema("CommandLine") } },
        },
        "responses": responses,
    })
}

/// A line of the request.
pub(super) fn line() -> Value {
    json!({
        "type": "object",
        "description": "A command",
        "required": ["context", "aggregate", "id", "command", "body"],
        "properties": {
            "context": { "type": "string" },
            "aggregate": { "type": "string" },
            "id": { "type": "string" },
            "command": { "type": "string" },
            "body": { "description": "As the body of the command's own address" },
            "idempotency_key": { "type": ["string", "null"] },
            "expected_version": { "type": ["integer", "null"], "minimum": 0, "description": "0 for an aggregate without events" },
        },
        "additionalProperties": false,
    })
}

/// A line of the answer.
pub(super) fn line_answer() -> Value {
    json!({
        "type": "object",
        "description": "What a request with this command alone would have been told, with what stands in headers there",
        "required": ["line", "status"],
        "properties": {
            "line": { "type": "integer", "minimum": 1 },
            "status": { "type": "integer" },
            "location": { "type": "string" },
            "query_position": { "type": "string" },
            "retry_after": { "type": "integer", "minimum": 1 },
        },
    })
}
