//! `GET /v1/openapi.json`: what the gateway tells of itself. It is made once, when the gateway starts.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;

use crate::{
    openapi::{self, Described},
    queries::current,
    views::ViewAnswer,
};

/// The documents.
pub(crate) struct Documents {
    openapi: Bytes,
}

impl Documents {
    /// Those of a gateway.
    pub(crate) fn of(described: &Described<'_>) -> Self {
        Self { openapi: openapi::document(described).to_string().into() }
    }
}

/// The OpenAPI document.
pub(crate) async fn openapi(State(documents): State<Arc<Documents>>, headers: HeaderMap) -> Response {
    current(&headers, ViewAnswer { body: documents.openapi.clone(), position: None }, None)
}
