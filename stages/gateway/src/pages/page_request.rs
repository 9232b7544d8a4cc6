//! A request for a page: who asks, and for what.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use super::{Pages, session::FormToken};
use crate::{
    key_ring::{Admission, Principal},
    problem::Problem,
};

/// A user who was let in, and the requested address.
pub(super) struct Visit {
    pub(super) pages: Arc<Pages>,
    pub(super) principal: Principal,
    pub(super) admission: Admission,
    /// Proves that a form comes from one of these pages.
    pub(super) form_token: FormToken,
    pub(super) path: String,
    query: Vec<(String, String)>,
}

impl Visit {
    /// A parameter; empty if it is absent.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.query.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    /// All parameters.
    pub(super) fn parameters(&self) -> &[(String, String)] {
        &self.query
    }
}

impl FromRequestParts<Arc<Pages>> for Visit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, pages: &Arc<Pages>) -> Result<Self, Problem> {
        let missing = || {
            let detail = "a page was asked for past the door of this gateway";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "view-failed", detail)
        };
        let query = parts.uri.query().unwrap_or_default();
        let query = serde_urlencoded::from_str(query)
            .map_err(|error| Problem::malformed("query-malformed", error.to_string()))?;
        Ok(Self {
            pages: Arc::clone(pages),
            principal: parts.extensions.get::<Principal>().cloned().ok_or_else(missing)?,
            admission: parts.extensions.get::<Admission>().cloned().ok_or_else(missing)?,
            form_token: parts.extensions.get::<FormToken>().cloned().ok_or_else(missing)?,
            path: parts.uri.path().to_owned(),
            query,
        })
    }
}
