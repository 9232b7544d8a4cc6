//! Refusals in the form of RFC 9457: `application/problem+json` with a type for each code.

use std::{borrow::Cow, time::Duration};

use axum::{
    extract::rejection::PathRejection,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use millstream_contract::error_text::bounded;
use millstream_jetstream::nats_broker::service::ServiceError;
use serde_json::{Map, Value};

/// The prefix of a type. The rest is the code.
const TYPE_PREFIX: &str = "urn:millstream:problem:";
/// When to try again if nothing better is known.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// The code of a problem, attached to its response.
#[derive(Debug, Clone)]
pub(crate) struct Code(pub(crate) Cow<'static, str>);

/// Why a request is refused.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    fields: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A refusal with a code for programs and a sentence for people.
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, code: code.into(), detail: detail.into(), fields: Map::new(), headers: Vec::new() }
    }

    /// Its status and its code.
    pub(crate) fn kind(&self) -> (StatusCode, &str) {
        (self.status, &*self.code)
    }

    #[cfg(test)]
    pub(crate) fn is(&self, status: u16, code: &str) -> bool {
        self.status == status && self.code == code
    }

    /// The same as the error of a NATS micro service: the status, and code and sentence in one line.
    pub(crate) fn service_error(&self) -> ServiceError {
        ServiceError::new(self.status.as_u16(), &format!("{}: {}", self.code, self.detail))
    }

    /// Its members.
    pub(crate) fn into_json(self) -> Value {
        let Self { status, code, detail, mut fields, .. } = self;
        fields.insert("type".to_owned(), format!("{TYPE_PREFIX}{code}").into());
        fields.insert("title".to_owned(), status.canonical_reason().unwrap_or("Refused").into());
        fields.insert("status".to_owned(), status.as_u16().into());
        fields.insert("detail".to_owned(), bounded(&detail).into());
        fields.insert("code".to_owned(), code.into());
        Value::Object(fields)
    }

    /// The client's request is malformed.
    pub(crate) fn malformed(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// The gateway cannot answer now.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(SOON)
    }

    /// The same, with an additional member.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// The same, with all members of an object.
    pub(crate) fn with_all(mut self, fields: Map<String, Value>) -> Self {
        self.fields.extend(fields);
        self
    }

    /// The same, with a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same, and the client may try again after `pause`, which is rounded up to seconds.
    pub(crate) fn retry_after(self, pause: Duration) -> Self {
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::malformed("address-malformed", rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, headers) = (self.status, self.headers.clone());
        let code = Code(self.code.clone());
        let body = self.into_json().to_string();
        let media_type = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, media_type)], body).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(code);
        response
    }
}
