//! The paths of configured queries. The queries are in files of the stage `sql` and change while the gateway runs, so one operation stands for
//! all of them; `GET /v1/queries` tells what each query takes.

use serde_json::{Map, Value, json};

use super::{
    Described,
    parts::{header, not_modified, parameter, schema},
    problems::{Door, referenced},
};

/// Headers that a client may send with a query.
const HEADERS: [&str; 3] = ["Prefer", "Millstream-Position", "If-None-Match"];

/// Adds both.
pub(super) fn describe(
    described: &Described<'_>,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    schemas.insert("ConfiguredQueries".to_owned(), queries());
    schemas.insert("QueryAnswer".to_owned(), answer());
    paths.insert("/v1/queries".to_owned(), json!({ "get": list(described) }));
    paths.insert("/v1/queries/{context}/{name}".to_owned(), json!({ "get": get(described) }));
}

fn list(described: &Described<'_>) -> Value {
    let mut responses = referenced(described, Door::Queries);
    responses.insert(
        "200".to_owned(),
        json!({ "description": "Those that may be asked", "headers": { "ETag": header("ETag") },
            "content": { "application/json": { "schema": schema("ConfiguredQueries") } } }),
    );
    responses.insert("304".to_owned(), not_modified());
    json!({
        "operationId": "queries.list",
        "tags": ["gateway"],
        "summary": "The configured queries that there are, and what they take",
        "parameters": [parameter("If-None-Match")],
        "responses": responses,
    })
}

fn get(described: &Described<'_>) -> Value {
    let mut responses = referenced(described, Door::Query);
    let headers = json!({
        "ETag": header("ETag"),
        "Millstream-Position": header("Millstream-Position"),
        "Millstream-Cut": header("Millstream-Cut"),
        "Vary": header("Vary"),
    });
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "As the client prefers it (`Accept`)",
            "headers": headers,
            "content": {
                "application/json": { "schema": schema("QueryAnswer") },
                "text/csv": { "schema": { "type": "string", "description": "RFC 4180, with a line of names" } },
            },
        }),
    );
    responses.insert("304".to_owned(), not_modified());
    let in_path = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } });
    let arguments = json!({
        "name": "arguments", "in": "query", "style": "form", "explode": true,
        "description": "The parameters of the query, each by its name, as `GET /v1/queries` lists them",
        "schema": { "type": "object", "additionalProperties": { "type": "string" } },
    });
    let mut parameters: Vec<Value> = HEADERS.map(parameter).into();
    parameters.extend([in_path("context"), in_path("name"), arguments]);
    json!({
        "operationId": "queries.get",
        "tags": ["gateway"],
        "summary": "The answer of a configured query",
        "parameters": parameters,
        "responses": responses,
    })
}

fn queries() -> Value {
    let text = || json!({ "type": "string" });
    let parameter = json!({
        "type": "object",
        "required": ["name", "type", "required", "default", "description"],
        "properties": {
            "name": text(),
            "type": { "enum": ["text", "integer", "number", "date", "time", "boolean"] },
            "required": { "type": "boolean" },
            "default": { "type": ["string", "number", "boolean", "null"], "description": "What it is when it is not given" },
            "description": text(),
            "granted": { "type": "array", "items": text(), "description": "The values that the key grants, where it does not grant all" },
        },
    });
    let query = json!({
        "type": "object",
        "required": ["context", "name", "title", "description", "parameters", "rows", "address"],
        "properties": {
            "context": text(),
            "name": text(),
            "title": text(),
            "description": text(),
            "parameters": { "type": "array", "items": parameter },
            "rows": { "type": "integer", "minimum": 1, "description": "How many rows an answer has at most" },
            "address": { "type": "string", "description": "Where it is asked" },
        },
    });
    json!({
        "type": "object",
        "required": ["queries", "unanswered"],
        "properties": {
            "queries": { "type": "array", "items": query },
            "unanswered": { "type": "array", "items": text(), "description": "Contexts of which nobody tells any now" },
        },
    })
}

fn answer() -> Value {
    let text = || json!({ "type": "string" });
    json!({
        "type": "object",
        "required": ["query", "title", "columns", "money", "rows", "cut"],
        "properties": {
            "query": text(),
            "title": text(),
            "columns": { "type": "array", "items": text() },
            "money": { "type": "object", "additionalProperties": text(),
                "description": "The columns that are amounts in minor units, each with the column that has its currency" },
            "rows": { "type": "array", "items": { "type": "object" } },
            "cut": { "type": "boolean", "description": "Whether there were more rows" },
        },
    })
}
