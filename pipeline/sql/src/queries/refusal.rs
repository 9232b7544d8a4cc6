//! Why a request has no answer: a status like that of HTTP, a code for programs, and a sentence for people.

use async_nats::HeaderMap;
use millstream_contract::{configured_query::problem, header};
use millstream_jetstream::nats_broker::service::ServiceError;

use super::{header::ArgumentError, reader::AskError};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    code: u16,
    problem: &'static str,
    parameter: Option<String>,
    status: String,
}

impl Refusal {
    pub(super) fn new(code: u16, problem: &'static str, status: impl Into<String>) -> Self {
        Self { code, problem, parameter: None, status: status.into() }
    }

    /// The refusal of a request that cannot be understood.
    pub(super) fn malformed(status: impl Into<String>) -> Self {
        Self::new(400, problem::MALFORMED, status)
    }

    pub(super) fn no_such_query(context: &str, name: &str) -> Self {
        Self::new(404, problem::QUERY_UNKNOWN, format!("there is no query {context}.{name}"))
    }

    /// The refusal as the error of a micro service, with headers for programs.
    pub(super) fn told(self) -> (ServiceError, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(header::PROBLEM, self.problem);
        // A name that is not a parameter's may contain anything.
        let parameter = self.parameter.filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()));
        if let Some(parameter) = parameter {
            headers.insert(header::PARAMETER, parameter);
        }
        (ServiceError::new(self.code, &self.status), headers)
    }
}

impl From<ArgumentError> for Refusal {
    fn from(error: ArgumentError) -> Self {
        let (problem, parameter) = error.told();
        Self { parameter: Some(parameter.to_owned()), ..Self::new(400, problem, error.to_string()) }
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        let (code, problem) = match &error {
            AskError::Refused(_) => (400, problem::QUERY_REFUSED),
            AskError::TooLong(_) => (504, problem::QUERY_TOO_LONG),
            AskError::TooLarge(_) => (413, problem::ANSWER_TOO_LARGE),
            AskError::Unavailable(_) => (503, problem::UNAVAILABLE),
        };
        Self::new(code, problem, error.to_string())
    }
}
