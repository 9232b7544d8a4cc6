//! The paths of configured queries. The queries are in files of the stage `sql` and change while the gateway runs, so one operation stands for
//! all of them. Whoever asks for the document gets those besides that there are at that moment and that the key grants, with their parameters.
//! `/v1/sql` takes statements that no file has.

use std::collections::BTreeSet;

use millstream_contract::configured_query::ParameterDescription;
use serde_json::{Map, Value, json};

use super::{
    Described,
    parts::{header, not_modified, parameter, schema, with},
    problems::{Door, referenced},
};
use crate::configured_queries::Offered;

/// Headers that a client may send with a query.
const HEADERS: [&str; 3] = ["Prefer", "Millstream-Position", "If-None-Match"];

/// The path that stands for all queries.
const ANY: &str = "/v1/queries/{context}/{name}";

/// Adds the list, and the path that stands for all queries.
pub(super) fn describe(
    described: &Described<'_>,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    schemas.insert("ConfiguredQueries".to_owned(), queries());
    schemas.insert("QueryAnswer".to_owned(), answer());
    paths.insert("/v1/queries".to_owned(), json!({ "get": list(described) }));
    schemas.insert("Statement".to_owned(), statement());
    schemas.insert("StatementAnswer".to_owned(), statement_answer());
    paths.insert(ANY.to_owned(), json!({ "get": get(described) }));
    paths.insert("/v1/sql".to_owned(), json!({ "post": ask(described) }));
}

/// The document with a path for each of these queries.
pub(crate) fn with_offered(mut document: Value, offered: &[Offered]) -> Value {
    if let Some(Value::Object(paths)) = document.get_mut("paths")
        && let Some(any) = paths.get(ANY).and_then(|path| path.get("get")).cloned()
    {
        for each in offered {
            paths.insert(each.address(), json!({ "get": of_query(any.clone(), each) }));
        }
    }
    document
}

/// The operation of one query, made from that of all queries.
fn of_query(mut any: Value, offered: &Offered) -> Value {
    let query = &offered.query;
    let own = query.parameters.iter().map(|parameter| {
        let granted = offered.granted.get(&parameter.name);
        json!({
            "name": parameter.name, "in": "query", "description": parameter.description, "schema": argument(parameter, granted),
            // The gateway fills in the only value that a key grants.
            "required": parameter.required && granted.is_none_or(|granted| granted.len() != 1),
        })
    });
    let parameters: Vec<Value> = HEADERS.map(parameter).into_iter().chain(own).collect();
    let rows = format!("At most {} rows.", query.rows);
    let description = [query.description.as_str(), &rows]
        .iter()
        .filter(|text| !text.is_empty())
        .copied()
        .collect::<Vec<_>>();
    if let Value::Object(operation) = &mut any {
        operation
            .insert("operationId".to_owned(), format!("queries.{}.{}", query.context, query.name).into());
        operation.insert("tags".to_owned(), json!([query.context]));
        operation.insert("summary".to_owned(), query.title.as_str().into());
        operation.insert("description".to_owned(), description.join("\n\n").into());
        operation.insert("parameters".to_owned(), parameters.into());
    }
    any
}

/// What a parameter takes.
fn argument(parameter: &ParameterDescription, granted: Option<&BTreeSet<String>>) -> Value {
    let kind = match parameter.kind.as_str() {
        "integer" => json!({ "type": "integer", "format": "int64" }),
        "number" => json!({ "type": "number" }),
        "boolean" => json!({ "type": "boolean" }),
        "date" => json!({ "type": "string", "format": "date" }),
        "time" => json!({ "type": "string", "format": "date-time" }),
        _ => json!({ "type": "string" }),
    };
    match granted {
        Some(granted) => json!({ "enum": granted }),
        None if parameter.default.is_null() => kind,
        None => with(kind, "default", parameter.default.clone()),
    }
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

fn ask(described: &Described<'_>) -> Value {
    let mut responses = referenced(described, Door::Statement);
    let headers = json!({
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
                "application/json": { "schema": schema("StatementAnswer") },
                "text/csv": { "schema": { "type": "string", "description": "RFC 4180, with a line of names" } },
            },
        }),
    );
    json!({
        "operationId": "sql.ask",
        "tags": ["gateway"],
        "summary": "The answer of a statement that no file has",
        "parameters": [parameter("Prefer"), parameter("Millstream-Position")],
        "requestBody": { "required": true, "content": { "application/json": { "schema": schema("Statement") } } },
        "responses": responses,
    })
}

fn statement() -> Value {
    json!({
        "type": "object",
        "required": ["statement"],
        "properties": {
            "statement": { "type": "string", "description": "One SELECT, with tables as `context.view` and parameters as `:name`" },
            "parameters": { "type": "object", "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
                "description": "A value for each parameter of the statement" },
            "rows": { "type": ["integer", "null"], "minimum": 1, "maximum": 100_000, "description": "The most rows in the answer, 1,000 unless it is given" },
        },
        "additionalProperties": false,
    })
}

fn statement_answer() -> Value {
    json!({
        "type": "object",
        "required": ["columns", "rows", "cut"],
        "properties": {
            "columns": { "type": "array", "items": { "type": "string" } },
            "rows": { "type": "array", "items": { "type": "object" } },
            "cut": { "type": "boolean", "description": "Whether there were more rows" },
        },
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
