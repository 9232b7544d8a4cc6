//! `POST /v1/commands`: several commands in one request, one on each line (`application/jsonl`), and one answer line for each, in order.
//!
//! Valid commands are stored together, in the order of their lines; an invalid line is refused alone. Deliberately absent: all or nothing. What
//! must take effect together is one command.

use std::{str, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header as http_header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use http_body_util::BodyExt as _;
use millstream_write_side::outcome_inbox::ExpectedOutcome;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use tokio::time::Instant;

use crate::{
    answers::{POSITION, PREFERENCE_APPLIED},
    command_request::{self, IDEMPOTENCY_KEY, JSON_LINES, Wishes, too_large},
    commands::{Commands, OnItsWay, Sending, Told},
    guard::{Guard, stranger},
    key_ring::{Admission, Principal},
    problem::Problem,
};

/// How many lines with a key are looked up at a time to find out whether they were answered before.
const LOOKS_MAX: usize = 32;
/// The audit log counts refusals of all lines as one kind.
const LINE: &str = "line";

/// A command in the form of a line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    context: String,
    aggregate: String,
    id: String,
    command: String,
    /// Passed on unchanged.
    #[serde(borrow)]
    body: &'a RawValue,
    idempotency_key: Option<String>,
    expected_version: Option<u64>,
}

/// The state of a line: it has an answer, or its command is being stored.
enum Step<T> {
    Answered(Response),
    Goes(T),
}

/// A command that is being stored, and its outcome if the client waits for it.
type Stored = (OnItsWay, Option<(u64, ExpectedOutcome)>);

/// Takes commands.
pub(crate) async fn post(
    State(commands): State<Arc<Commands>>,
    (Extension(principal), Extension(admission)): (Extension<Principal>, Extension<Admission>),
    Extension(guard): Extension<Arc<Guard>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    command_request::refuse_parameters(&uri)?;
    let wishes = wishes(&headers)?;
    let _place = commands.places_for_lines.take(principal.name())?;
    let body = command_request::lines(&headers, body, &commands.limits, &commands.stop).await?;
    let principal = admission.still(principal).map_err(stranger)?;
    let lines: Vec<(usize, Bytes)> = numbered(&body);
    let max = commands.limits.lines_max;
    if lines.len() > max {
        let detail = format!("these are {} commands, and a request takes {max}", lines.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many-commands", detail));
    }
    // The request itself has already been counted.
    let more = lines.len().saturating_sub(1);
    guard.count_more(&principal, more)?;
    // The lines are handled one after the other: if two lines under one key differ, the second one is refused.
    let checked: Vec<_> = lines.iter().map(|(_, line)| commands.checked(&principal, &wishes, line)).collect();
    let looks: Vec<_> =
        checked.into_iter().map(|sending| commands.looked_up(sending, wishes.wait_seconds)).collect();
    let taken = stream::iter(looks).buffered(LOOKS_MAX).collect().await;
    let answers = commands.store_all(taken, wishes.wait_seconds).await;
    let mut told = Vec::new();
    for ((number, _), answer) in lines.iter().zip(answers) {
        told.extend_from_slice(&answer_line(*number, answer).await);
        told.push(b'\n');
    }
    let mut response =
        (StatusCode::OK, [(http_header::CONTENT_TYPE, HeaderValue::from_static(JSON_LINES))], told)
            .into_response();
    if let Some(seconds) = commands.seconds(wishes.wait_seconds)
        && let Ok(value) = HeaderValue::try_from(format!("wait={seconds}"))
    {
        response.headers_mut().insert(PREFERENCE_APPLIED, value);
    }
    Ok(response)
}

/// The headers for all lines. A header that only makes sense for one line is refused, so that nobody believes that it holds for all.
fn wishes(headers: &HeaderMap) -> Result<Wishes, Problem> {
    let version = "each line has its own expected_version";
    let own = [
        (IDEMPOTENCY_KEY, "each line has its own idempotency_key"),
        (http_header::IF_MATCH.as_str(), version),
        (http_header::IF_NONE_MATCH.as_str(), version),
    ];
    command_request::refuse_without_meaning(headers, &own)?;
    Wishes::read(headers)
}

/// The lines that are not blank, with their numbers from 1.
fn numbered(body: &Bytes) -> Vec<(usize, Bytes)> {
    let lines = body.split(|byte| *byte == b'\n').map(|line| body.slice_ref(line.trim_ascii()));
    (1..).zip(lines).filter(|(_, line)| !line.is_empty()).collect()
}

impl Commands {
    /// A command to store, checked as far as possible without asking anybody.
    fn checked(&self, principal: &Principal, wishes: &Wishes, line: &Bytes) -> Result<Sending, Problem> {
        let Line { context, aggregate, id, command, body, idempotency_key, expected_version } = read(line)?;
        let address = command_request::address(&[context, aggregate, id, command])?;
        principal.check_may_send(&address).inspect_err(|problem| {
            self.audit.refused(&principal.asker(), LINE, &address.subject(), problem.kind());
        })?;
        if let Some(key) = &idempotency_key {
            command_request::check_idempotency_key(key)?;
        }
        let wishes = Wishes { idempotency_key, expected_version, ..wishes.clone() };
        let body = line.slice_ref(body.get().as_bytes());
        if body.len() > self.limits.body_max {
            return Err(too_large(self.limits.body_max));
        }
        command_request::check_depth(&body)?;
        self.sending(principal, &address, &wishes, body)
    }

    async fn looked_up(
        &self,
        sending: Result<Sending, Problem>,
        wait: Option<u64>,
    ) -> Result<Step<Sending>, Problem> {
        let sending = sending?;
        let told = self.repeated(&sending, wait).await?.map(Told::into_response);
        Ok(told.map_or(Step::Goes(sending), Step::Answered))
    }

    /// Stores the commands in order, and waits until they are stored and, if the client wants it, for their outcomes.
    async fn store_all(
        &self,
        taken: Vec<Result<Step<Sending>, Problem>>,
        wait: Option<u64>,
    ) -> Vec<Result<Response, Problem>> {
        let deadline = Instant::now() + self.limits.store_wait;
        let mut begun = Vec::with_capacity(taken.len());
        for taken in taken {
            begun.push(match taken {
                Ok(Step::Goes(sending)) => self.begin(sending, wait, deadline).await.map(Step::Goes),
                Ok(Step::Answered(response)) => Ok(Step::Answered(response)),
                Err(problem) => Err(problem),
            });
        }
        join_all(begun.into_iter().map(|begun| self.ended(begun, deadline))).await
    }

    async fn begin(
        &self,
        mut sending: Sending,
        wait: Option<u64>,
        deadline: Instant,
    ) -> Result<Stored, Problem> {
        let expected = self.expected(&mut sending, wait);
        Ok((self.hand_over(sending, deadline).await?, expected))
    }

    async fn ended(
        &self,
        begun: Result<Step<Stored>, Problem>,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        match begun? {
            Step::Goes((on_its_way, expected)) => {
                self.told(on_its_way, expected, deadline).await.map(Told::into_response)
            }
            Step::Answered(response) => Ok(response),
        }
    }
}

fn read(line: &[u8]) -> Result<Line<'_>, Problem> {
    let malformed =
        |what: &str| Problem::malformed("line-malformed", format!("the line is no command: {what}"));
    // A list would be read by the order of its items.
    if line.first() != Some(&b'{') {
        return Err(malformed("it does not begin with {"));
    }
    serde_json::from_slice(line)
        .map_err(|error| malformed(&error.to_string().replace(" at line 1 column", " at column")))
}

/// The answer to a request with only this command, in one object: the status, the headers and the body.
async fn answer_line(number: usize, answer: Result<Response, Problem>) -> Vec<u8> {
    let (head, body) = answer.into_response().into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut fields = Map::new();
    fields.insert("line".to_owned(), number.into());
    fields.insert("status".to_owned(), head.status.as_u16().into());
    for (header, name) in [(http_header::LOCATION, "location"), (POSITION, "query_position")] {
        if let Some(text) = head.headers.get(header).and_then(|value| value.to_str().ok()) {
            fields.insert(name.to_owned(), text.into());
        }
    }
    if let Some(seconds) = head.headers.get(http_header::RETRY_AFTER).and_then(|value| value.to_str().ok()) {
        fields.insert("retry_after".to_owned(), seconds.parse::<u64>().unwrap_or(1).into());
    }
    if let Ok(Value::Object(body)) = serde_json::from_slice(&body) {
        fields.extend(body);
    }
    Value::Object(fields).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_numbers_that_an_editor_shows() {
        let body = Bytes::from_static(b"\n{\"a\":1}\r\n \t\n{\"b\":2}");
        let lines = numbered(&body);
        assert_eq!(lines, [(2, Bytes::from_static(b"{\"a\":1}")), (4, Bytes::from_static(b"{\"b\":2}"))]);
        assert!(numbered(&Bytes::new()).is_empty() && numbered(&Bytes::from_static(b"\n\n")).is_empty());
    }

    #[test]
    fn a_line_is_an_object_with_known_fields_and_its_body_stays_as_it_is() {
        let line = r#"{"context":"retail","aggregate":"till","id":"7","command":"close","body":{ "a":1.0 }}"#;
        assert_eq!(read(line.as_bytes()).unwrap().body.get(), "{ \"a\":1.0 }");
        for wrong in [
            r#"["retail","till","7","close",{}]"#,
            r#"{"context":"retail","aggregate":"till","id":"7","command":"close"}"#,
            r#"{"context":"retail","aggregate":"till","id":"7","command":"close","body":{},"actor":"anna"}"#,
            r#"{"context":"retail","aggregate":"till","id":"7","command":"close","body":{},"body":{}}"#,
            r#"{"context":"retail","aggregate":"till","id":"7","command":"close","body":{}} {}"#,
            r#"{"context":"retail","aggregate":"till","id":"7","command":"close","body":{},"expected_version":-1}"#,
            "{",
        ] {
            assert!(read(wrong.as_bytes()).unwrap_err().is(400, "line-malformed"), "{wrong}");
        }
        assert!(read(b"{\"context\":\"\xff\"}").is_err());
    }
}
