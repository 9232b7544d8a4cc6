//! The OpenAPI 3.1 document of a running gateway, generated from the application that it serves. Nobody writes a line for a command or a view.
//!
//! In reading order: `commands`, `views` and `reports` have a path for each command, view and report; `history` has one for each aggregate,
//! `lines` the one for several commands, `live` the one for live rows, `dead_letters` those of what was set aside, and `queries` those of configured queries. `parts` is what they share,
//! `examples` makes examples of commands, and `problems` lists every refusal. Deliberately absent: what the gateway does not do, and what is
//! not known about an application (the form of most rows).

pub(crate) mod commands;
mod dead_letters;
mod examples;
mod history;
mod lines;
mod live;
mod parts;
pub(crate) mod problems;
pub(crate) mod queries;
pub(crate) mod reports;
mod views;

use serde_json::{Map, Value, json};

use self::{parts::with, problems::Door};
use crate::config::{Limits, Parts};

/// What the description of a running gateway depends on.
pub(crate) struct Described<'a> {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) about: &'static str,
    pub(crate) parts: &'a Parts,
    pub(crate) limits: &'a Limits,
    /// The port on which it listens.
    pub(crate) port: u16,
    /// Whether some commands must name the aggregate version that their sender has seen.
    pub(crate) with_preconditions: bool,
    /// Whether every request needs a key.
    pub(crate) with_keys: bool,
}

/// The document.
pub(crate) fn document(described: &Described<'_>) -> Value {
    let mut paths = Map::new();
    let mut schemas = parts::schemas();
    commands::describe(described, &mut paths, &mut schemas);
    views::describe(described, &mut paths, &mut schemas);
    reports::describe(described, &mut paths);
    history::describe(described, &mut paths, &mut schemas);
    queries::describe(described, &mut paths, &mut schemas);
    dead_letters::describe(described, &mut paths, &mut schemas);
    paths.insert("/v1/commands".to_owned(), json!({ "post": lines::operation(described) }));
    paths.insert("/v1/live".to_owned(), json!({ "get": live::operation(described) }));
    for [address, id, summary, media_type, kind] in OF_ITSELF {
        let operation =
            of_itself(described, id, summary, json!({ media_type: { "schema": { "type": kind } } }));
        paths.insert(address.to_owned(), json!({ "get": operation }));
    }
    let components = json!({
        "schemas": schemas,
        "parameters": parts::parameters(described.limits),
        "headers": parts::headers(),
        "responses": problems::responses(described),
    });
    let document = json!({
        "openapi": "3.1.0",
        "info": info(described),
        "tags": tags(described),
        "paths": paths,
    });
    if !described.with_keys {
        return with(document, "components", components);
    }
    let key = json!({
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `millstream keys new`, or a token (JWT) of an issuer. What they grant stands in the gateway's file of keys.",
    });
    let components = with(components, "securitySchemes", json!({ "key": key }));
    with(with(document, "components", components), "security", json!([{ "key": [] }]))
}

fn info(described: &Described<'_>) -> Value {
    let description = format!(
        "{}.\n\nCommands are stored and decided later; views are asked for rows. Every refusal is a problem of RFC 9457 with a `code`. A request \
         whose headers are larger than 16 KiB, or that is no HTTP/1.1, is refused without a body.",
        described.about
    );
    json!({ "title": described.name, "version": described.version, "description": description })
}

fn tags(described: &Described<'_>) -> Value {
    let contexts = described.parts.contexts.iter();
    let contexts =
        contexts.map(|context| json!({ "name": context, "description": format!("The context {context}") }));
    contexts.chain([json!({ "name": "gateway", "description": "What belongs to no context" })]).collect()
}

/// A document that the gateway serves about itself: address, name, summary, media type and JSON type.
const OF_ITSELF: [[&str; 5]; 3] = [
    ["/v1/openapi.json", "gateway.openapi", "This document", "application/json", "object"],
    [
        "/v1/asyncapi.json",
        "gateway.asyncapi",
        "The subjects for those who speak NATS (AsyncAPI 3.0)",
        "application/json",
        "object",
    ],
    ["/v1/docs", "gateway.docs", "A page for people that says the same", "text/html", "string"],
];

fn of_itself(described: &Described<'_>, id: &str, summary: &str, content: Value) -> Value {
    let mut responses = problems::referenced(described, Door::Document);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": summary,
            "headers": { "ETag": parts::header("ETag") },
            "content": content,
        }),
    );
    responses.insert("304".to_owned(), parts::not_modified());
    json!({
        "operationId": id,
        "tags": ["gateway"],
        "summary": summary,
        "parameters": [parts::parameter("If-None-Match")],
        "responses": responses,
    })
}

#[cfg(test)]
pub(crate) mod tests;
