//! `POST /v1/sql`: a statement that no file has (ad-hoc SQL), which the stage `sql` answers on `sql.ask`.
//!
//! Whoever may ask statements may read every table, so it is granted apart, and each statement has a record in the audit log. Deliberately
//! absent: any knowledge of SQL. A body is passed on byte by byte once it is known to be a statement.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header as http_header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use millstream_contract::{
    configured_query::{STATEMENT_SUBJECT, StatementQuestion, descriptions_subject},
    header,
};

use crate::{
    answers::POSITION,
    command_request::{self, refuse_parameters, refuse_without_meaning},
    commands::Commands,
    configured_queries::{Asked, Table, question},
    guard::stranger,
    key_ring::{Admission, Principal},
    media_type::{self, Form},
    problem::Problem,
    queries::freshness,
    views::{Freshness, ViewAnswer},
};

/// The answer of a statement.
pub(crate) async fn post(
    State(commands): State<Arc<Commands>>,
    (Extension(principal), Extension(admission)): (Extension<Principal>, Extension<Admission>),
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    check_granted(&principal)?;
    refuse_parameters(&uri)?;
    refuse_without_meaning(&headers, &[(http_header::IF_NONE_MATCH.as_str(), "an answer here has no tag")])?;
    let form = media_type::preferred(&headers)?;
    let freshness = freshness(&headers, &commands, &principal)?;
    let body = command_request::body(&headers, body, &commands.limits, &commands.stop).await?;
    // The body may have taken long to come.
    let principal = admission.still(principal).map_err(stranger)?;
    let answer = commands.ask_statement(&principal, body, &freshness).await?;
    let table = Table::read(&answer.body)?;
    let body = if form == Form::Csv { table.csv() } else { answer.body };
    let own = [
        (http_header::CONTENT_TYPE, HeaderValue::from_static(header::JSON)),
        (http_header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = media_type::of_form((StatusCode::OK, own, body).into_response(), form);
    if let Some(position) = answer.position.and_then(|position| HeaderValue::try_from(position).ok()) {
        response.headers_mut().insert(POSITION, position);
    }
    Ok(table.marked(response))
}

fn check_granted(principal: &Principal) -> Result<(), Problem> {
    if principal.may_ask_statements() {
        return Ok(());
    }
    let detail = format!("{} may ask configured queries at most, and no statements", principal.name());
    Err(Problem::new(StatusCode::FORBIDDEN, "statements-not-granted", detail))
}

fn read(body: &[u8]) -> Result<StatementQuestion, Problem> {
    StatementQuestion::read(body).map_err(|error| {
        let detail = format!("the body is no statement: {error}");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "body-malformed", detail)
    })
}

impl Commands {
    /// Asks a statement once the wanted position is reached.
    ///
    /// # Errors
    /// A [`Problem`] when it is not granted, or has no answer.
    pub(crate) async fn ask_statement(
        &self,
        principal: &Principal,
        body: Bytes,
        freshness: &Freshness,
    ) -> Result<ViewAnswer, Problem> {
        check_granted(principal)?;
        let StatementQuestion { statement, .. } = read(&body)?;
        let (context, time) = self.statement_time().await?;
        let record = self.audit.place_for_statement(principal, &statement)?;
        let asked = Asked {
            subject: STATEMENT_SUBJECT.to_owned(),
            body,
            time,
            waiting: (descriptions_subject(&context), question(None)),
        };
        let answer = self.answer(principal, &asked, freshness).await;
        drop(record);
        answer
    }

    /// A context that the stage keeps, and for how long a statement may run.
    async fn statement_time(&self) -> Result<(String, Duration), Problem> {
        let contexts: BTreeSet<&String> = self.views.known.iter().map(|(context, _)| context).collect();
        let mut problem = None;
        for context in contexts {
            match self.told_of_queries(context, None).await {
                Ok(told) => return Ok((context.clone(), Duration::from_millis(told.time_ms))),
                Err(told) => problem = Some(told),
            }
        }
        Err(problem.unwrap_or_else(|| {
            Problem::unavailable("queries-unavailable", "there is no context whose tables could be asked")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_record_with_known_fields() {
        for body in
            ["", "[\"SELECT 1\"]", "{}", "{\"statement\":7}", "{\"statement\":\"\",\"limit\":1}", "SELECT 1"]
        {
            assert!(read(body.as_bytes()).unwrap_err().is(422, "body-malformed"), "{body}");
        }
        let body = br#" {"statement":"SELECT 1","parameters":{"a":1},"rows":5}"#;
        assert_eq!(read(body).unwrap().rows, Some(5));
    }
}
