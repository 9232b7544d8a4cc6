//! `GET /v1/openapi.json`, `GET /v1/asyncapi.json` and `GET /v1/docs`: descriptions of the gateway and of the NATS subjects, for programs and
//! people. They are made once, when the gateway starts; only configured queries are looked up for whoever asks.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::Response,
};
use bytes::Bytes;
use millstream_domain::async_api::{self, AsyncApiInfo};
use serde_json::Value;

use crate::{
    command_request::{check_question, refuse_parameters},
    commands::Commands,
    docs_page,
    key_ring::Principal,
    openapi::{self, Described, queries::with_offered},
    problem::Problem,
    queries::current,
    views::ViewAnswer,
};

/// Their addresses. If the gateway has no keys, a person may open them in a browser on the same machine.
pub(crate) const ADDRESSES: [&str; 3] = ["/v1/openapi.json", "/v1/asyncapi.json", "/v1/docs"];
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The documents.
pub(crate) struct Documents {
    openapi: Value,
    asyncapi: Bytes,
    page: Bytes,
    security_policy: HeaderValue,
}

impl Documents {
    /// The documents of a gateway.
    pub(crate) fn of(described: &Described<'_>) -> Self {
        let docs_page::Page { html, security_policy } = docs_page::page(described);
        let &Described { name, version, about, parts, .. } = described;
        let asyncapi =
            async_api::document(AsyncApiInfo { name, version, about }, &parts.aggregates, &parts.views);
        Self {
            openapi: openapi::document(described),
            asyncapi: asyncapi.to_string().into(),
            page: html.into(),
            security_policy,
        }
    }
}

/// The OpenAPI document, with the configured queries that the key grants, if the stage that has them answers.
pub(crate) async fn openapi(
    State((documents, commands)): State<(Arc<Documents>, Arc<Commands>)>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let offered = match commands.offered(&principal).await {
        Ok((offered, _)) => offered,
        Err(problem) => {
            tracing::debug!(?problem, "the document has no configured queries");
            Vec::new()
        }
    };
    let document = with_offered(documents.openapi.clone(), &offered);
    same_or_whole(&uri, &headers, &document.to_string().into())
}

/// The AsyncAPI document.
pub(crate) async fn asyncapi(
    State(documents): State<Arc<Documents>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    same_or_whole(&uri, &headers, &documents.asyncapi)
}

/// The page. Its content security policy allows only its own style.
pub(crate) async fn page(
    State(documents): State<Arc<Documents>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut response = same_or_whole(&uri, &headers, &documents.page)?;
    let all = response.headers_mut();
    all.insert(header::CONTENT_SECURITY_POLICY, documents.security_policy.clone());
    if let Some(media_type) = all.get_mut(header::CONTENT_TYPE) {
        *media_type = HTML;
    }
    Ok(response)
}

fn same_or_whole(uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Result<Response, Problem> {
    refuse_parameters(uri)?;
    check_question(headers, &[])?;
    Ok(current(headers, ViewAnswer { body: body.clone(), position: None }, None))
}
