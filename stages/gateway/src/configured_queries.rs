//! `GET /v1/queries/{context}/{name}` and `GET /v1/queries`: configured queries, which the stage `sql` answers on `query.<context>.<name>`.
//!
//! The stage describes the queries, and checks whether an argument has the right kind. This module checks who may ask, and with which
//! arguments. Deliberately absent: SQL. A client sends arguments, never a statement.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri},
    response::Response,
};
use bytes::Bytes;
use futures::future::join_all;
use millstream_contract::{
    configured_query::{
        ArgumentsRefused, Descriptions, DescriptionsQuestion, QueryDescription, STATEMENT_SUBJECT,
        descriptions_subject, problem, query_subject,
    },
    error_text::bounded,
    header,
    stored_message::Headers,
};
use millstream_jetstream::nats_broker::{Answer, AskError};
use millstream_runtime::file_work::end_of;
use millstream_values::{
    money::decimal_in,
    report_table::{LineEnd, cell, csv},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    command_log::ANSWER_WAIT,
    command_request::{check_question, refuse_parameters},
    commands::Commands,
    key_ring::Principal,
    last_moment,
    media_type::{self, Form},
    problem::{Problem, SOON},
    queries::{current, freshness, not_granted},
    views::{Freshness, ViewAnswer, not_reached},
};

/// The longest wait for a query, however long the stage lets it run.
const QUERY_TIME_MAX: Duration = Duration::from_secs(600);
/// The pause before a query is repeated whose answer had not reached its position.
const PAUSE: Duration = Duration::from_millis(50);
/// The header of an answer that does not contain all rows.
const CUT: HeaderName = HeaderName::from_static("millstream-cut");

/// The stage's answer to a query.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    /// The columns with amounts, each with the column of its currency.
    #[serde(default)]
    pub(crate) money: BTreeMap<String, String>,
    pub(crate) rows: Vec<Map<String, Value>>,
    /// Whether there were more.
    #[serde(default)]
    pub(crate) cut: bool,
}

impl Table {
    /// # Errors
    /// A [`Problem`] when it is not an answer.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(|error| {
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "view-failed",
                format!("what the stage sql answers is no table: {error}"),
            )
        })
    }

    /// A cell as text. Amounts have the decimal places of their currency; those that are no whole minor units, as of an average, are rounded.
    pub(crate) fn text(&self, row: &Map<String, Value>, column: &str) -> String {
        let value = row.get(column).unwrap_or(&Value::Null);
        match (self.money.get(column), minor_units(value)) {
            (Some(currency), Some(units)) => decimal_in(row.get(currency).and_then(Value::as_str), units),
            _ => cell(value),
        }
    }

    /// The response, with a header if rows are missing.
    pub(crate) fn marked(&self, mut response: Response) -> Response {
        if self.cut {
            response.headers_mut().insert(CUT, HeaderValue::from_static("true"));
        }
        response
    }

    pub(crate) fn csv(&self) -> Bytes {
        let cells =
            self.rows.iter().map(|row| self.columns.iter().map(|column| self.text(row, column)).collect());
        let (names, cells): (Vec<&str>, Vec<Vec<String>>) =
            (self.columns.iter().map(String::as_str).collect(), cells.collect());
        csv(&names, &cells, LineEnd::CarriageReturnLineFeed).into()
    }
}

/// An amount in minor units. A sum beyond 64 bits comes as a real number.
fn minor_units(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what is beyond 128 bits is told as the largest that is not"
    )]
    let rounded = || Some(number.as_f64()?.round() as i128);
    number.as_i128().or_else(rounded)
}

/// A query that somebody may ask, and the parameters for which only certain values are granted.
pub(crate) struct Offered {
    pub(crate) query: QueryDescription,
    pub(crate) granted: BTreeMap<String, BTreeSet<String>>,
}

impl Offered {
    /// Where it is asked.
    pub(crate) fn address(&self) -> String {
        format!("/v1/queries/{}/{}", self.query.context, self.query.name)
    }

    fn to_json(&self) -> Value {
        let QueryDescription { context, name, title, description, parameters, rows, .. } = &self.query;
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|parameter| {
                let mut told = json!(parameter);
                if let (Some(values), Value::Object(fields)) = (self.granted.get(&parameter.name), &mut told)
                {
                    fields.insert("granted".to_owned(), json!(values));
                }
                told
            })
            .collect();
        json!({
            "context": context, "name": name, "title": title, "description": description, "parameters": parameters, "rows": rows,
            "address": self.address(),
        })
    }
}

/// The existing queries, as far as the key grants them.
pub(crate) async fn list(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    refuse_parameters(&uri)?;
    check_question(&headers, &[])?;
    let (offered, unanswered) = commands.offered(&principal).await?;
    let queries: Vec<Value> = offered.iter().map(Offered::to_json).collect();
    let body = json!({ "queries": queries, "unanswered": unanswered });
    Ok(current(&headers, ViewAnswer { body: body.to_string().into(), position: None }, None))
}

/// The answer of a query.
pub(crate) async fn get(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    parts: Result<Path<[String; 2]>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path([context, name]) = parts?;
    if !principal.may_ask_query(&context, &name) {
        return Err(not_granted(&principal, &format!("{context}.{name}"), "the query"));
    }
    let form = media_type::preferred(&headers)?;
    let given = given(&uri)?;
    let freshness = freshness(&headers, &commands, &principal)?;
    let query = commands.description(&context, &name).await?;
    let mut answer = commands.query_answer(&principal, &query, given, &freshness).await?;
    let table = Table::read(&answer.body)?;
    if form == Form::Csv {
        answer.body = table.csv();
    }
    Ok(table.marked(media_type::of_form(current(&headers, answer, None), form)))
}

/// A question for the stage.
pub(crate) struct Asked {
    pub(crate) subject: String,
    pub(crate) body: Bytes,
    /// For how long the stage may work on it.
    pub(crate) time: Duration,
    /// Subject and body of a question that takes no place in the stage, with which a position is waited for.
    pub(crate) waiting: (String, Bytes),
}

/// The arguments in an address. Each may occur once.
fn given(uri: &Uri) -> Result<BTreeMap<String, String>, Problem> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(uri.query().unwrap_or_default())
        .map_err(|error| Problem::malformed("query-malformed", error.to_string()))?;
    let mut given = BTreeMap::new();
    for (name, value) in pairs {
        if given.contains_key(&name) {
            let detail = format!("{name}: this parameter is given twice");
            return Err(Problem::malformed("parameter-twice", detail).with("parameter", bounded(&name)));
        }
        given.insert(name, value);
    }
    Ok(given)
}

fn not_with_these(principal: &Principal, query: &QueryDescription, refused: &ArgumentsRefused) -> Problem {
    match refused {
        ArgumentsRefused::Query => {
            not_granted(principal, &format!("{}.{}", query.context, query.name), "the query")
        }
        ArgumentsRefused::Value { parameter, .. } => {
            let detail = format!("{refused} to {}", principal.name());
            Problem::new(StatusCode::FORBIDDEN, "parameter-not-granted", detail)
                .with("parameter", parameter.as_str())
        }
        ArgumentsRefused::Which { parameter, .. } => {
            Problem::malformed("parameter-missing", refused.to_string()).with("parameter", parameter.as_str())
        }
    }
}

impl Commands {
    /// The queries that somebody may ask, and the contexts whose stage does not answer.
    ///
    /// # Errors
    /// A [`Problem`] when no context's stage answers.
    pub(crate) async fn offered(
        &self,
        principal: &Principal,
    ) -> Result<(Vec<Offered>, Vec<String>), Problem> {
        let contexts: BTreeSet<&String> = self.views.known.iter().map(|(context, _)| context).collect();
        let asked = contexts.iter().map(|context| self.told_of_queries(context, None));
        let (mut offered, mut unanswered, mut problem) = (Vec::new(), Vec::new(), None);
        for (context, told) in contexts.iter().zip(join_all(asked).await) {
            match told {
                Ok(told) => {
                    let own = told.queries.into_iter().filter(|query| query.context == **context);
                    offered.extend(own.filter_map(|query| principal.offers(query)));
                }
                Err(told) => {
                    unanswered.push((*context).clone());
                    problem = Some(told);
                }
            }
        }
        match problem {
            Some(problem) if unanswered.len() == contexts.len() => Err(problem),
            _ => Ok((offered, unanswered)),
        }
    }

    /// The description of a query.
    ///
    /// # Errors
    /// A [`Problem`] when there is no such query, or the stage does not answer.
    pub(crate) async fn description(&self, context: &str, name: &str) -> Result<QueryDescription, Problem> {
        let unknown = || {
            let detail = format!("there is no query {context}.{name}");
            Problem::new(StatusCode::NOT_FOUND, "query-unknown", detail)
        };
        if !self.views.known.iter().any(|(known, _)| known == context) {
            return Err(unknown());
        }
        let told = self.told_of_queries(context, Some(name)).await?.queries;
        told.into_iter().find(|query| query.context == context && query.name == name).ok_or_else(unknown)
    }

    /// What the stage tells of the queries of a context, or of one of them.
    ///
    /// # Errors
    /// A [`Problem`] when it does not answer.
    pub(crate) async fn told_of_queries(
        &self,
        context: &str,
        name: Option<&str>,
    ) -> Result<Descriptions, Problem> {
        let (subject, body) = (descriptions_subject(context), question(name));
        let answer = self.broker.ask(&subject, &Headers::new(), body, ANSWER_WAIT).await.map_err(refusal)?;
        serde_json::from_slice(&answer.payload).map_err(|error| {
            Problem::unavailable(
                "queries-unavailable",
                format!("what the stage sql tells is not understood: {error}"),
            )
        })
    }

    /// The answer of a query with the arguments that somebody gives, as far as they are granted.
    ///
    /// # Errors
    /// A [`Problem`] when they are not granted, or there is no answer.
    pub(crate) async fn query_answer(
        &self,
        principal: &Principal,
        query: &QueryDescription,
        given: BTreeMap<String, String>,
        freshness: &Freshness,
    ) -> Result<ViewAnswer, Problem> {
        let arguments = principal.arguments(query, given);
        let arguments = arguments.map_err(|refused| not_with_these(principal, query, &refused))?;
        let asked = Asked {
            subject: query_subject(&query.context, &query.name),
            body: Bytes::from(json!(arguments).to_string()),
            time: Duration::from_millis(query.time_ms),
            waiting: (descriptions_subject(&query.context), question(Some(&query.name))),
        };
        self.answer(principal, &asked, freshness).await
    }

    /// Asks the stage once the wanted position is reached.
    ///
    /// # Errors
    /// A [`Problem`] when there is no answer.
    pub(crate) async fn answer(
        &self,
        principal: &Principal,
        asked: &Asked,
        freshness: &Freshness,
    ) -> Result<ViewAnswer, Problem> {
        let deadline = Instant::now() + freshness.wait;
        let (tells, question) = &asked.waiting;
        // A waiting request holds no place among the running ones.
        let position = self.views.reached_by(tells, question.clone(), freshness).await?;
        loop {
            match self.run(principal, asked, position.as_deref()).await {
                // Another process of the stage has answered, or the tables are being filled again.
                Err(error) if is_not_reached(&error) && Instant::now() + PAUSE < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(refusal(error)),
                Ok(answer) => return answer,
            }
        }
    }

    /// Runs it once. The place is taken as long as the stage may run the query, even if the client has gone.
    async fn run(
        &self,
        principal: &Principal,
        asked: &Asked,
        position: Option<&str>,
    ) -> Result<Result<ViewAnswer, Problem>, AskError> {
        let place = match self.places_for_queries.take(principal.name()) {
            Ok(place) => place,
            Err(problem) => return Ok(Err(problem)),
        };
        let mut headers = Headers::new();
        if let Some(position) = position {
            headers.push(header::POSITION, position);
            headers.push(header::WAIT_MS, "0");
        }
        let wait = asked.time.min(QUERY_TIME_MAX) + ANSWER_WAIT;
        let (broker, subject, body) = (self.broker.clone(), asked.subject.clone(), asked.body.clone());
        let asked = tokio::spawn(async move {
            let answer = broker.ask(&subject, &headers, body, wait).await;
            drop(place);
            answer
        });
        let Answer { headers, payload } = tokio::select! {
            biased;
            answer = end_of(asked) => answer?,
            () = last_moment(&self.stop) => {
                return Ok(Err(Problem::unavailable("stopping", "this gateway is stopping; ask again")));
            }
        };
        Ok(Ok(ViewAnswer { body: payload, position: headers.get(header::POSITION).map(str::to_owned) }))
    }
}

impl Principal {
    /// The query, if the principal may ask it with some arguments.
    pub(crate) fn offers(&self, query: QueryDescription) -> Option<Offered> {
        let is_granted = self.may_ask_query(&query.context, &query.name)
            && !matches!(self.arguments(&query, BTreeMap::new()), Err(ArgumentsRefused::Query));
        is_granted.then(|| Offered { granted: self.granted_values(&query), query })
    }
}

/// The question for the descriptions of all queries of a context, or of one.
pub(crate) fn question(name: Option<&str>) -> Bytes {
    json!(DescriptionsQuestion { name: name.map(str::to_owned) }).to_string().into()
}

fn is_not_reached(error: &AskError) -> bool {
    matches!(error, AskError::Refused { headers, .. } if headers.get(header::PROBLEM) == Some(problem::NOT_REACHED))
}

/// The stage's refusal of a query, in the terms of HTTP.
fn refusal(error: AskError) -> Problem {
    let AskError::Refused { code, text, headers, .. } = error else {
        if matches!(&error, AskError::NoResponders { subject } if subject == STATEMENT_SUBJECT) {
            let detail = "the stage sql answers configured queries alone; `sql.ad_hoc = true` lets it answer statements";
            return Problem::new(StatusCode::FORBIDDEN, "statements-off", detail);
        }
        let detail = format!("{error}: the stage sql does not run, or has just begun to");
        return Problem::unavailable("queries-unavailable", detail);
    };
    let of_parameter = |code: &'static str, text: String| {
        let problem = Problem::malformed(code, text);
        match headers.get(header::PARAMETER) {
            Some(name) => problem.with("parameter", name),
            // It has other characters than a header may have, or is too long.
            None => problem,
        }
    };
    match headers.get(header::PROBLEM).unwrap_or_default() {
        problem::PARAMETER_MISSING => of_parameter("parameter-missing", text),
        problem::PARAMETER_UNKNOWN => of_parameter("parameter-unknown", text),
        problem::PARAMETER_MALFORMED => of_parameter("parameter-malformed", text),
        problem::QUERY_UNKNOWN => Problem::new(StatusCode::NOT_FOUND, "query-unknown", text),
        problem::QUERY_REFUSED => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "query-refused", text),
        problem::ANSWER_TOO_LARGE => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "answer-too-large", text),
        problem::QUERY_TOO_LONG => {
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "query-too-long", text).retry_after(SOON)
        }
        problem::NOT_REACHED => not_reached(text),
        problem::OF_ANOTHER_GENERATION => {
            Problem::new(StatusCode::CONFLICT, "position-of-another-generation", text)
        }
        problem::BUSY => Problem::unavailable("busy", text),
        problem::UNAVAILABLE => Problem::unavailable("queries-unavailable", text),
        problem::MALFORMED => Problem::malformed("query-malformed", text),
        _ => {
            let detail = format!("the stage sql: {text} ({code})");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "view-failed", detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_places_of_their_currency_and_all_else_is_as_it_is() {
        let body = br#"{"columns":["sku","amount","currency","share"],"money":{"amount":"currency"},"cut":true,"rows":[
            {"sku":"a,b","amount":1200,"currency":"USD","share":0.5},{"sku":null,"amount":7,"currency":"JPY","share":true},
            {"sku":"sums","amount":9.4e18,"currency":"USD","share":1},{"sku":"mean","amount":1249.6,"currency":"USD","share":"x"}]}"#;
        let table = Table::read(body).unwrap();
        let expected = "sku,amount,currency,share\r\n\"a,b\",12.00,USD,0.5\r\n,7,JPY,true\r\n\
             sums,94000000000000000.00,USD,1\r\nmean,12.50,USD,x\r\n";
        assert_eq!(table.csv(), expected);
        assert!(table.cut && Table::read(b"[]").is_err());
    }

    #[test]
    fn an_argument_is_given_once() {
        let of = |query: &str| given(&format!("/v1/queries/a/b?{query}").parse().unwrap());
        assert_eq!(
            of("a=1&b=%C3%A4+x").unwrap(),
            BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "ä x".to_owned())])
        );
        assert!(of("a=1&a=1").unwrap_err().is(400, "parameter-twice"));
        assert!(of("").unwrap().is_empty());
    }

    #[test]
    fn refusals_of_the_stage_keep_their_codes() {
        let refused = |code: &str, headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(name, value)| (*name, *value)).collect();
            refusal(AskError::Refused {
                subject: String::new(),
                code: code.to_owned(),
                text: "why".to_owned(),
                headers,
            })
        };
        let missing =
            refused("400", &[(header::PROBLEM, problem::PARAMETER_MISSING), (header::PARAMETER, "store")]);
        assert!(missing.is(400, "parameter-missing"), "{missing:?}");
        assert_eq!(missing.into_json()["parameter"], "store");
        for (code, status, told) in [
            (problem::QUERY_TOO_LONG, 504, "query-too-long"),
            (problem::ANSWER_TOO_LARGE, 422, "answer-too-large"),
            (problem::QUERY_REFUSED, 422, "query-refused"),
            (problem::BUSY, 503, "busy"),
            (problem::UNAVAILABLE, 503, "queries-unavailable"),
            (problem::NOT_REACHED, 504, "position-not-reached"),
            (problem::OF_ANOTHER_GENERATION, 409, "position-of-another-generation"),
            ("of another release", 500, "view-failed"),
        ] {
            assert!(refused("1", &[(header::PROBLEM, code)]).is(status, told), "{code}");
        }
        let nobody = refusal(AskError::NoResponders { subject: "query.retail._queries".to_owned() });
        assert!(nobody.is(503, "queries-unavailable"));
        let off = refusal(AskError::NoResponders { subject: STATEMENT_SUBJECT.to_owned() });
        assert!(off.is(403, "statements-off"));
    }
}
