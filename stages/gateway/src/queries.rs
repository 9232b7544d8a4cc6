//! `GET /v1/{context}/{view}/{key}` and `GET /v1/{context}/{view}`: rows and lists, as the views answer them.
//!
//! Deliberately absent: any knowledge of rows. An answer is passed on byte by byte.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header as http_header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use millstream_contract::header;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    answers::POSITION,
    command_request::{check_question, one, refuse_parameters, wait_seconds},
    commands::Commands,
    key_ring::Principal,
    problem::Problem,
    views::{Awaited, Freshness, Operation, ViewAnswer},
    whole_number,
};

/// A client has to revalidate what it has cached each time.
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// How long an answer waits for its position unless the client says otherwise: as long as a view does.
const WAIT_DEFAULT: Duration = Duration::from_secs(2);

/// The row of a key.
pub(crate) async fn get(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    parts: Result<Path<[String; 3]>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path([context, view, key]) = parts?;
    if !principal.may_read(&context, &view, &key) {
        return Err(not_granted(&principal, &format!("{context}.{view}"), "this row"));
    }
    refuse_parameters(&uri)?;
    let freshness = freshness(&headers, &commands, &principal)?;
    let body = json!({ "key": key });
    let answer = commands.views.ask([&context, &view], Operation::Get, &body, &freshness).await?;
    Ok(current(&headers, answer, None))
}

/// The parameters of a list, as in docs/queries.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number::parameter")]
    pub(crate) limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reverse: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// What a page says about the next one.
#[derive(Debug, Deserialize)]
struct PageEnd {
    cursor: Option<String>,
}

/// A page of rows.
pub(crate) async fn list(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    parts: Result<Path<[String; 2]>, PathRejection>,
    query: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path([context, view]) = parts?;
    let Query(wanted) = query.map_err(|error| Problem::malformed("query-malformed", error.body_text()))?;
    if !principal.may_list(&context, &view, wanted.prefix.as_deref().unwrap_or_default()) {
        return Err(not_granted(&principal, &format!("{context}.{view}"), "a list of this prefix"));
    }
    let freshness = freshness(&headers, &commands, &principal)?;
    let body = json!(wanted);
    let answer = commands.views.ask([&context, &view], Operation::List, &body, &freshness).await?;
    let end = serde_json::from_slice::<PageEnd>(&answer.body).ok().and_then(|page| page.cursor);
    let next = end.and_then(|cursor| {
        let query = serde_urlencoded::to_string(Wanted { cursor: Some(cursor), ..wanted }).ok()?;
        Some(format!("</v1/{context}/{view}?{query}>; rel=\"next\""))
    });
    Ok(current(&headers, answer, next))
}

/// What the answer must contain, according to the client.
pub(crate) fn freshness(
    headers: &HeaderMap,
    commands: &Commands,
    principal: &Principal,
) -> Result<Freshness, Problem> {
    check_question(headers, &[header::POSITION])?;
    let position = one(headers, header::POSITION)?;
    let wait = wait_seconds(headers).map_or(WAIT_DEFAULT, Duration::from_secs);
    commands.freshness(principal, position, wait)
}

impl Commands {
    /// The position that an answer must have reached, and a place to wait for it.
    ///
    /// # Errors
    /// A [`Problem`] when too many wait.
    pub(crate) fn freshness(
        &self,
        principal: &Principal,
        position: Option<&str>,
        wait: Duration,
    ) -> Result<Freshness, Problem> {
        let awaited = |position: &str| {
            let place = Arc::new(self.places_for_waiting.take(principal.name())?);
            Ok::<_, Problem>(Awaited { position: position.to_owned(), place })
        };
        let position = position.map(awaited).transpose()?;
        Ok(Freshness { position, wait: wait.min(self.limits.wait_max) })
    }
}

/// The answer, or 304 if the client already has it.
pub(crate) fn current(headers: &HeaderMap, answer: ViewAnswer, next: Option<String>) -> Response {
    let tag = tag_of(&answer.body);
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let media_type = HeaderValue::from_static(header::JSON);
        (StatusCode::OK, [(http_header::CONTENT_TYPE, media_type)], answer.body).into_response()
    };
    let all = response.headers_mut();
    all.insert(http_header::CACHE_CONTROL, REVALIDATE);
    let texts = [(http_header::ETAG, Some(tag)), (POSITION, answer.position), (http_header::LINK, next)];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
            all.insert(name, value);
        }
    }
    response
}

/// Whether the client has something with this tag. Tags are compared weakly (RFC 9110, 13.1.2), because a proxy may have made a strong tag
/// of a weak one.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    fn opaque(tag: &str) -> &str {
        tag.strip_prefix("W/").unwrap_or(tag)
    }
    let known = headers.get_all(http_header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|known| known == "*" || opaque(known) == opaque(tag))
}

/// The tag is weak, because a proxy in front of the gateway may compress answers.
fn tag_of(body: &Bytes) -> String {
    let hash = blake3::hash(body).to_hex();
    format!("W/\"{}\"", hash.get(..16).unwrap_or(&hash))
}

pub(crate) fn not_granted(principal: &Principal, view: &str, what: &str) -> Problem {
    let detail = format!("{what} of {view} is not granted to {}", principal.name());
    Problem::new(StatusCode::FORBIDDEN, "query-not-granted", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_for_with_the_same_fields() {
        let wanted = Wanted {
            prefix: Some("2506/ä&b".to_owned()),
            from: None,
            to: None,
            limit: Some(2),
            reverse: None,
            cursor: Some("3130".to_owned()),
        };
        let query = serde_urlencoded::to_string(&wanted).unwrap();
        assert_eq!(query, "prefix=2506%2F%C3%A4%26b&limit=2&cursor=3130");
        assert_eq!(json!(wanted), json!({ "prefix": "2506/ä&b", "limit": 2, "cursor": "3130" }));
    }

    #[test]
    fn who_has_it_already_gets_no_body() {
        let answer = |body: &'static str| ViewAnswer {
            body: Bytes::from_static(body.as_bytes()),
            position: Some("EVENTS:01JD:1".to_owned()),
        };
        let first = current(&HeaderMap::new(), answer("{}"), None);
        let tag = first.headers()[http_header::ETAG].clone();
        let mut headers = HeaderMap::new();
        let opaque = tag.to_str().unwrap().strip_prefix("W/").unwrap();
        for known in [tag.to_str().unwrap(), opaque, &format!("\"x\", {opaque}"), "*"] {
            headers.insert(http_header::IF_NONE_MATCH, HeaderValue::try_from(known).unwrap());
            assert_eq!(current(&headers, answer("{}"), None).status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        headers.insert(http_header::IF_NONE_MATCH, tag);
        assert_eq!(current(&headers, answer("{\"a\":1}"), None).status(), StatusCode::OK);
    }
}
