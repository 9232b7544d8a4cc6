//! The path of live rows. Its answer does not end, so tools that ask all addresses must leave it out (`.ci/run http_contract`).

use serde_json::{Value, json};

use super::{
    Described,
    parts::parameter,
    problems::{Door, referenced},
};
use crate::live::WATCHES_MAX;

/// The operation of `/v1/live`.
pub(super) fn operation(described: &Described<'_>) -> Value {
    let mut responses = referenced(described, Door::Live);
    let description = "Server-Sent Events: `row` and `list` are states, as the query of the same answers, with the member `watch` that names what it is of, and null for a \
         row that there is not. `reset` says that what came before is void, `problem` that a view does not answer now, `end` that the stream ends, and why. \
         A state's `id` is its position.";
    responses.insert(
        "200".to_owned(),
        json!({ "description": description, "content": { "text/event-stream": { "schema": { "type": "string" } } } }),
    );
    let several = |name: &str, description: String, form: &str| {
        json!({ "name": name, "in": "query", "description": description,
            "schema": { "type": "array", "items": { "type": "string", "pattern": form }, "maxItems": WATCHES_MAX } })
    };
    let id = json!({ "name": "Last-Event-ID", "in": "header", "description": "The id of the last event that the client has had: no state is older",
        "schema": { "type": "string", "examples": ["EVENTS:01JD0ZV6V8Q6Y0Q3M1R5J3X2A4:17"] } });
    json!({
        "operationId": "gateway.live",
        "tags": ["gateway"],
        "summary": "Rows and lists, again whenever they have changed",
        "parameters": [
            several("watch", format!("<context>/<view>/<key> of a row; at most {WATCHES_MAX} rows and lists in all, and at least one"), "^[^/]+/[^/]+/.+$"),
            several("list", "<context>/<view>/<prefix> of a list of up to 100 rows".to_owned(), "^[^/]+/[^/]+/"),
            id,
            parameter("Millstream-Position"),
            parameter("Prefer"),
        ],
        "responses": responses,
    })
}
