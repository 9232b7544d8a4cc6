//! What a client is told about its command: that it is stored, and its outcome.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header as http_header},
    response::{IntoResponse, Response},
};
use millstream_contract::{
    header,
    outcome::{Outcome, OutcomeReply},
    position::StreamPosition,
    stream_names::COMMANDS,
    version_conflict,
};
use serde_json::{Map, Value, json};

use crate::problem::{Problem, SOON};

/// The position that an answer has reached or, in a request, that it must have reached at least.
pub(crate) const POSITION: HeaderName = HeaderName::from_static("millstream-position");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const JSON: HeaderValue = HeaderValue::from_static(header::JSON);

/// A command that is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Its id.
    pub(crate) id: String,
    /// Its position in COMMANDS.
    pub(crate) position: u64,
    /// The generation of COMMANDS.
    pub(crate) generation: String,
}

impl Stored {
    /// The address at which to ask for the outcome. The position distinguishes a command that still waits from one that never existed.
    pub(crate) fn location(&self) -> String {
        format!("/v1/commands/{}?position={}", self.id, self.position)
    }

    fn position(&self) -> StreamPosition {
        StreamPosition::new(COMMANDS, self.generation.as_str(), self.position)
    }

    /// 202: it is stored and will be decided.
    pub(crate) fn accepted(&self) -> Response {
        let body = json!({ "command_id": self.id, "command_position": self.position });
        let mut response = answer(StatusCode::ACCEPTED, &body);
        put(&mut response, http_header::LOCATION, self.location());
        put(&mut response, POSITION, self.position().to_string());
        response
    }
}

/// The answer with the outcome of a command for which a client waited: 200 if it took effect, otherwise a problem.
pub(crate) fn decided(reply: &OutcomeReply, wait_seconds: u64) -> Response {
    let mut response = match &reply.outcome {
        Outcome::Accepted { version, .. } => {
            let mut response = answer(StatusCode::OK, &reply.to_json());
            put(&mut response, http_header::ETAG, version_tag(*version));
            if let Some(position) = &reply.query_position {
                put(&mut response, POSITION, position.clone());
            }
            response
        }
        Outcome::Duplicate { .. } => return decided(&of_first(reply.clone()), wait_seconds),
        Outcome::Rejected { code, message } if &**code == version_conflict::CODE => {
            let mut problem = refused(StatusCode::PRECONDITION_FAILED, code, message, reply);
            if let Some(version) = version_conflict::version(message) {
                let tag = HeaderValue::try_from(version_tag(version)).expect("digits between quotes");
                problem = problem.with("version", version).header(http_header::ETAG, tag);
            }
            problem.into_response()
        }
        Outcome::Rejected { code, message } => {
            refused(StatusCode::CONFLICT, code, message, reply).into_response()
        }
        Outcome::DeadLettered { code, message } => {
            refused(StatusCode::INTERNAL_SERVER_ERROR, code, message, reply).into_response()
        }
    };
    put(&mut response, PREFERENCE_APPLIED, format!("wait={wait_seconds}"));
    response
}

/// The outcome of the first command if a command is its repeat. The duplicate's outcome contains it.
pub(crate) fn of_first(reply: OutcomeReply) -> OutcomeReply {
    match reply.outcome {
        Outcome::Duplicate { of, first, .. } => {
            OutcomeReply { command_position: of, outcome: (*first).clone(), ..reply }
        }
        _ => reply,
    }
}

/// The outcome of a command, in the form of the view `command`.
pub(crate) fn status(row: &Value, position: Option<&str>) -> Response {
    let mut response = answer(StatusCode::OK, row);
    if let Some(position) = position {
        put(&mut response, POSITION, position.to_owned());
    }
    response
}

/// A command that is stored and has no outcome yet, or none that the view has seen.
pub(crate) fn pending(id: &str, position: u64) -> Response {
    let body = json!({ "command_id": id, "command_position": position, "outcome": "pending" });
    let mut response = answer(StatusCode::OK, &body);
    response.headers_mut().insert(http_header::RETRY_AFTER, HeaderValue::from(SOON.as_secs()));
    response
}

/// An answer with a position that a query may send, and for how many seconds the gateway would have waited, where each is known.
pub(crate) fn with_position(
    status: StatusCode,
    body: &Value,
    position: Option<String>,
    waited: Option<u64>,
) -> Response {
    let mut response = answer(status, body);
    if let Some(position) = position {
        put(&mut response, POSITION, position);
    }
    if let Some(seconds) = waited {
        put(&mut response, PREFERENCE_APPLIED, format!("wait={seconds}"));
    }
    response
}

fn refused(status: StatusCode, code: &str, message: &str, reply: &OutcomeReply) -> Problem {
    let mut fields = Map::new();
    fields.insert("command_id".to_owned(), reply.command_id.as_ref().into());
    fields.insert("command_position".to_owned(), reply.command_position.into());
    fields.insert("outcome".to_owned(), reply.outcome.kind().into());
    Problem::new(status, code.to_owned(), message).with_all(fields)
}

fn version_tag(version: u64) -> String {
    format!("\"v{version}\"")
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(http_header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

/// Ids and positions are visible ASCII. A value from elsewhere that is not is left out.
fn put(response: &mut Response, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}
