//! What commands and views share in the document: schemas of answers, parameters and headers.

use serde_json::{Map, Value, json};

use super::lines::{line, line_answer};
use crate::config::Limits;

/// An object with an additional member.
pub(super) fn with(mut object: Value, name: &str, member: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), member);
    }
    object
}

/// A reference to a parameter.
pub(super) fn parameter(name: &str) -> Value {
    json!({ "$ref": format!("#/components/parameters/{name}") })
}

/// A reference to a header of an answer.
pub(super) fn header(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

/// A reference to a schema.
pub(super) fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The answer if the client already has the same.
pub(super) fn not_modified() -> Value {
    json!({ "description": "As the client has it already", "headers": { "ETag": header("ETag") } })
}

/// The schemas of answers, except those of rows.
pub(super) fn schemas() -> Map<String, Value> {
    Map::from_iter([
        ("Problem".to_owned(), problem()),
        ("StoredCommand".to_owned(), stored_command()),
        ("AcceptedCommand".to_owned(), accepted_command()),
        ("CommandStatus".to_owned(), command_status()),
        ("RowTooLarge".to_owned(), row_too_large()),
        ("CommandLine".to_owned(), line()),
        ("CommandLineAnswer".to_owned(), line_answer()),
    ])
}

fn whole() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "A refusal (RFC 9457)",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": { "type": "string", "description": "urn:millstream:problem:<code>" },
            "title": text(),
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "A sentence for people" },
            "code": { "type": "string", "description": "Stable, for programs" },
            "parameter": { "type": "string", "description": "The parameter of a configured query that it is about" },
            "command_id": text(),
            "command_position": whole(),
            "outcome": { "enum": ["rejected", "dead-lettered"] },
            "version": { "type": "integer", "minimum": 0, "description": "The aggregate's version, of version-conflict" },
        },
    })
}

fn stored_command() -> Value {
    json!({
        "type": "object",
        "description": "The command is stored, and will be decided",
        "required": ["command_id", "command_position"],
        "properties": { "command_id": text(), "command_position": whole() },
        "additionalProperties": false,
    })
}

fn accepted_command() -> Value {
    json!({
        "type": "object",
        "description": "The command was accepted",
        "required": ["command_id", "command_position", "outcome", "position", "version", "events"],
        "properties": {
            "command_id": text(),
            "command_position": whole(),
            "outcome": { "const": "accepted" },
            "position": { "type": "integer", "minimum": 0, "description": "In EVENTS, of the aggregate's last commit; 0 for none" },
            "version": { "type": "integer", "minimum": 0, "description": "The aggregate's version afterwards" },
            "events": { "type": "integer", "minimum": 0, "description": "How many events the command caused" },
            "query_position": { "type": "string", "description": "What a query sends to see the effect" },
        },
    })
}

fn command_status() -> Value {
    json!({
        "type": "object",
        "description": "What became of a command",
        "required": ["command_id", "command_position", "outcome"],
        "properties": {
            "command_id": text(),
            "command_position": whole(),
            "outcome": { "enum": ["pending", "accepted", "rejected", "dead-lettered"] },
            "subject": { "type": "string", "description": "Where the command would be sent over NATS" },
            "position": whole(),
            "version": whole(),
            "events": whole(),
            "code": { "type": "string", "description": "Why it was rejected or set aside" },
            "message": { "type": "string", "description": "The same, as a sentence" },
            "repeats": { "type": "integer", "minimum": 1, "description": "How often it came again" },
            "last_repeat": whole(),
        },
    })
}

fn row_too_large() -> Value {
    json!({
        "type": "object",
        "description": "A row that is larger than an answer may be",
        "required": ["key", "too_large"],
        "properties": {
            "key": text(),
            "too_large": {
                "type": "object",
                "required": ["bytes", "bytes_max"],
                "properties": { "bytes": whole(), "bytes_max": whole() },
            },
        },
        "additionalProperties": false,
    })
}

/// Parameters of more than one address.
pub(super) fn parameters(limits: &Limits) -> Value {
    let wait = format!(
        "`wait=<seconds>`: wait that long, at most {} seconds, for the outcome of a command or for the position of a query",
        limits.wait_max.as_secs()
    );
    let in_header = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "header", "description": description, "schema": schema });
    let in_query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    // An empty value counts as absent.
    let kept = || json!({ "type": "string", "pattern": "^[ -~]*$", "maxLength": 256 });
    let some_ascii = json!({ "type": "string", "pattern": "^[\\t -~]*[!-~][\\t -~]*$", "maxLength": 256 });
    json!({
        "Prefer": in_header("Prefer", &wait, json!({ "type": "string", "examples": ["wait=5"] })),
        "Idempotency-Key": in_header("Idempotency-Key", "The client's own name for this request, which may then be sent again without harm", some_ascii),
        "If-Match": in_header("If-Match", "The version that the aggregate must have; not together with If-None-Match",
            json!({ "type": "string", "pattern": r#"^"v(0|[1-9][0-9]{0,18})"$"#, "examples": ["\"v7\""] })),
        "If-None-Match-Any": in_header("If-None-Match", "The aggregate must have no events yet", json!({ "const": "*" })),
        "Millstream-Correlation-Id": in_header("Millstream-Correlation-Id", "What the command belongs to", kept()),
        "Millstream-Causation-Id": in_header("Millstream-Causation-Id", "What caused the command", kept()),
        "traceparent": in_header("traceparent", "The trace that the command belongs to (W3C Trace Context)", kept()),
        "If-None-Match": in_header("If-None-Match", "The ETag of the answer that the client has", text()),
        "Millstream-Position": in_header("Millstream-Position", "What must be in the answer: the position of an earlier answer",
            json!({ "type": "string", "pattern": "^[A-Z]+:[0-9A-Z]+:(0|[1-9][0-9]{0,18})$" })),
        "prefix": in_query("prefix", "Only keys that start with this text", text()),
        "from": in_query("from", "Keys from this one on, this one included", text()),
        "to": in_query("to", "Keys up to this one, this one not included", text()),
        "limit": in_query("limit", "Rows on a page", json!({ "type": "integer", "minimum": 1, "maximum": 10_000, "default": 100 })),
        "reverse": in_query("reverse", "Descending instead of ascending keys", json!({ "type": "boolean", "default": false })),
        "cursor": in_query("cursor", "Continue behind the page that has this cursor", text()),
        "revision": in_query("revision", "A number, or `all`; without it, the current one",
            json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": u32::MAX }, { "const": "all" }] })),
        "differences": in_query("differences", "The revision of which it is asked what it adds to the one before",
            json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })),
    })
}

/// Headers of answers. A required one is always present.
pub(super) fn headers() -> Value {
    let always = |description: &str| json!({ "description": description, "required": true, "schema": { "type": "string" } });
    let maybe = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    json!({
        "Location": always("Where to ask what became of the command"),
        "Command-Position": always("The command's position, for a query that must show its effect"),
        "Preference-Applied": always("For how many seconds the gateway would have waited"),
        "ETag": always("For If-None-Match of the same address"),
        "Version": always("The aggregate's version, for If-Match of its next command"),
        "Accept-Encoding": maybe("identity, where the body had a Content-Encoding"),
        "Version-There-Is": maybe("The version that the aggregate has"),
        "Millstream-Position": maybe("Which events the answer holds"),
        "Preference-Applied-To-Lines": maybe("For how many seconds the gateway would have waited"),
        "Vary": always("accept: the same address has answers in several forms"),
        "Millstream-Cut": maybe("true, where there are more rows than an answer of the query may have"),
        "Link": maybe("The next page, as rel=\"next\""),
        "Retry-After": { "description": "Seconds until another attempt makes sense", "required": true, "schema": { "type": "integer", "minimum": 1 } },
        "Retry-After-Pending": { "description": "Seconds until it makes sense to ask again, of a command that is pending", "schema": { "type": "integer", "minimum": 1 } },
        "WWW-Authenticate": always("Bearer"),
    })
}
