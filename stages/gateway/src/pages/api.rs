//! Reads what pages show, through the functions that answer the API: what a key may not read there, no page shows.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header as http_header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use millstream_contract::header;
use serde_json::Value;

use super::{address, page_request::Visit, value_text::Shown};
use crate::{
    answers::POSITION, command_request::IDEMPOTENCY_KEY, commands, configured_queries, history,
    problem::Problem, queries, reports,
};

/// How long a page waits for a position or an outcome before it says that it has not been reached.
const WAIT: HeaderValue = HeaderValue::from_static("wait=10");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What was answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// The position of its content.
    pub(super) position: String,
}

impl Answer {
    /// The body as a value that keeps the order of its fields.
    pub(super) fn shown(&self) -> Shown {
        Shown::of(&self.body)
    }
}

/// Why there is nothing to show.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) detail: String,
    /// The parameter of a configured query that caused it; may be empty.
    pub(super) parameter: String,
}

impl Refusal {
    fn of_json(status: StatusCode, problem: &Value) -> Self {
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { status, code: text("code"), detail: text("detail"), parameter: text("parameter") }
    }

    /// The content of an `application/problem+json` body.
    pub(super) fn of_body(status: StatusCode, body: &[u8]) -> Self {
        Self::of_json(status, &serde_json::from_slice(body).unwrap_or_default())
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let json = problem.into_json();
        let status = json.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        Self::of_json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &json)
    }
}

impl From<Refusal> for Problem {
    fn from(Refusal { status, code, detail, .. }: Refusal) -> Self {
        Self::new(status, Cow::Owned(code), detail)
    }
}

/// A command from a form.
pub(super) struct Given<'a> {
    pub(super) address: [&'a str; 4],
    pub(super) body: String,
    /// A name that lets a form take effect once, even if it is sent twice.
    pub(super) once: &'a str,
    /// The version that the aggregate must have, if it has to be given.
    pub(super) version: Option<u64>,
}

impl Visit {
    /// The row of a key, as `GET /v1/{context}/{view}/{key}`.
    pub(super) async fn row(&self, [context, view]: [&str; 2], key: &str) -> Result<Answer, Refusal> {
        self.row_with([context, view], key, self.question()?).await
    }

    /// The current row: no position is waited for.
    pub(super) async fn row_now(&self, view: [&str; 2], key: &str) -> Result<Answer, Refusal> {
        self.row_with(view, key, HeaderMap::new()).await
    }

    async fn row_with(
        &self,
        [context, view]: [&str; 2],
        key: &str,
        headers: HeaderMap,
    ) -> Result<Answer, Refusal> {
        let parts = [context, view, key].map(str::to_owned);
        let uri = uri(&address::path(&["v1", context, view, key]))?;
        let answer = queries::get(self.state(), self.who(), Ok(Path(parts)), uri, headers).await;
        read(answer).await
    }

    /// A page of rows, as `GET /v1/{context}/{view}`.
    pub(super) async fn rows(
        &self,
        [context, view]: [&str; 2],
        parameters: &[(&str, &str)],
    ) -> Result<Answer, Refusal> {
        let uri = uri(&address::with(&address::path(&["v1", context, view]), parameters))?;
        let parts = [context, view].map(str::to_owned);
        let query = Query::try_from_uri(&uri);
        let answer = queries::list(self.state(), self.who(), Ok(Path(parts)), query, self.question()?).await;
        read(answer).await
    }

    /// A row of a report or something of it, as `GET /v1/reports/{report}/{key}`.
    pub(super) async fn report(
        &self,
        report: &str,
        key: &str,
        parameters: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<Response, Problem> {
        let uri = uri(&address::with(&address::path(&["v1", "reports", report, key]), parameters))?;
        let parts = [report, key].map(str::to_owned);
        let query = Query::try_from_uri(&uri);
        let mut headers = self.question()?;
        headers.insert(http_header::ACCEPT, HeaderValue::from_static(accept));
        reports::get(self.state(), self.who(), Ok(Path(parts)), query, uri, headers).await
    }

    /// A page of a report, as `GET /v1/reports/{report}`.
    pub(super) async fn reports(
        &self,
        report: &str,
        parameters: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<Response, Problem> {
        let uri = uri(&address::with(&address::path(&["v1", "reports", report]), parameters))?;
        let query = Query::try_from_uri(&uri);
        let mut headers = self.question()?;
        headers.insert(http_header::ACCEPT, HeaderValue::from_static(accept));
        reports::list(self.state(), self.who(), Ok(Path(report.to_owned())), query, uri, headers).await
    }

    /// The answer of a configured query, as `GET /v1/queries/{context}/{name}`.
    pub(super) async fn query(
        &self,
        context: &str,
        name: &str,
        arguments: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<Answer, Refusal> {
        read(self.query_as_it_is(context, name, arguments, accept).await).await
    }

    /// The same, with its headers.
    pub(super) async fn query_as_it_is(
        &self,
        context: &str,
        name: &str,
        arguments: &[(&str, &str)],
        accept: &'static str,
    ) -> Result<Response, Problem> {
        let uri = uri(&address::with(&address::path(&["v1", "queries", context, name]), arguments))?;
        let mut headers = HeaderMap::new();
        headers.insert(http_header::ACCEPT, HeaderValue::from_static(accept));
        let parts = [context, name].map(str::to_owned);
        configured_queries::get(self.state(), self.who(), Ok(Path(parts)), uri, headers).await
    }

    /// A page of a history or a state, as `GET /v1/history/{context}/{aggregate}/{id}`.
    pub(super) async fn history(
        &self,
        stream: [&str; 3],
        parameters: &[(&str, &str)],
    ) -> Result<Answer, Refusal> {
        let [context, aggregate, id] = stream;
        let path = address::path(&["v1", "history", context, aggregate, id]);
        let uri = uri(&address::with(&path, parameters))?;
        let query = Query::try_from_uri(&uri);
        let parts = stream.map(str::to_owned);
        let answer = history::get(self.state(), self.who(), Ok(Path(parts)), query, self.question()?).await;
        read(answer).await
    }

    /// The outcome of one's own command, as `GET /v1/commands/{command-id}`.
    pub(super) async fn command(&self, id: &str, position: &str) -> Result<Answer, Refusal> {
        let uri = uri(&address::with(&address::path(&["v1", "commands", id]), &[("position", position)]))?;
        let query = Query::try_from_uri(&uri);
        let id = Ok(Path(id.to_owned()));
        let answer = commands::get(self.state(), self.who(), HeaderMap::new(), id, query).await;
        read(answer).await
    }

    /// Sends a command and waits for its outcome, as `POST /v1/commands/{context}/{aggregate}/{id}/{command}`.
    pub(super) async fn send(&self, given: Given<'_>) -> Result<(StatusCode, Answer), Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(http_header::CONTENT_TYPE, HeaderValue::from_static(header::JSON));
        headers.insert(PREFER, WAIT);
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), value(given.once)?);
        match given.version {
            Some(0) => headers.insert(http_header::IF_NONE_MATCH, HeaderValue::from_static("*")),
            Some(version) => headers.insert(http_header::IF_MATCH, value(&format!("\"v{version}\""))?),
            None => None,
        };
        let [context, aggregate, id, command] = given.address;
        let uri = uri(&address::path(&["v1", "commands", context, aggregate, id, command]))?;
        let parts = given.address.map(str::to_owned);
        let (body, admission) = (Body::from(given.body), Extension(self.admission.clone()));
        let sent =
            commands::post(self.state(), self.who(), admission, Ok(Path(parts)), uri, headers, body).await;
        let sent = sent.unwrap_or_else(|problem| problem.into_response());
        let status = sent.status();
        Ok((status, read(Ok(sent)).await?))
    }

    fn state(&self) -> State<Arc<commands::Commands>> {
        State(Arc::clone(&self.pages.commands))
    }

    fn who(&self) -> Extension<crate::key_ring::Principal> {
        Extension(self.principal.clone())
    }

    /// The headers of a request, which wait for the position in the address.
    fn question(&self) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::new();
        let position = self.parameter("position");
        if !position.is_empty() {
            headers.insert(POSITION, value(position)?);
            headers.insert(PREFER, WAIT);
        }
        Ok(headers)
    }
}

/// The body of an answer, or why there is none.
pub(super) async fn read(answer: Result<Response, Problem>) -> Result<Answer, Refusal> {
    let (parts, body) = answer?.into_parts();
    let body = to_bytes(body, usize::MAX)
        .await
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "view-failed", error.to_string()))?;
    if !parts.status.is_success() {
        return Err(Refusal::of_body(parts.status, &body));
    }
    let position = parts.headers.get(POSITION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(Answer { body, position: position.to_owned() })
}

fn uri(text: &str) -> Result<Uri, Problem> {
    text.parse().map_err(|_| Problem::malformed("address-malformed", "the address is too long"))
}

fn value(text: &str) -> Result<HeaderValue, Problem> {
    let malformed = |_| Problem::malformed("position-malformed", format!("{text:?} is no position"));
    HeaderValue::try_from(text).map_err(malformed)
}
