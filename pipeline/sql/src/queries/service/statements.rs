//! Answers `sql.ask`: a statement that no file has (ad-hoc SQL), with values for its parameters. It has the limits of configured queries, and
//! shares their places.

use std::collections::BTreeMap;

use millstream_contract::{configured_query::StatementQuestion, error_text::bounded};
use millstream_jetstream::nats_broker::service::Request;
use serde_json::{Value as Json, json};

use super::{
    super::{
        answer_cache::Shown,
        header::{ArgumentError, ParameterKind, ROWS_DEFAULT, ROWS_MAX},
        library::check_names,
        reader::{Answer, Argument, AskError},
        refusal::Refusal,
        text::StatementText,
    },
    REQUEST_BYTES_MAX, Shared, client,
};
use crate::table::Value;

impl Shared {
    pub(super) async fn answer_statement(&self, request: &Request) {
        let answered = self.statement_answer(request).await;
        self.send_shown(request, answered).await;
    }

    async fn statement_answer(&self, request: &Request) -> Result<Shown, Refusal> {
        let message = &request.message;
        let StatementQuestion { statement, parameters, rows } = question(&message.payload)?;
        let rows = rows_of(rows)?;
        let statement = StatementText::of_contexts(&statement, &self.contexts);
        let statement = statement.map_err(|error| Refusal::from(AskError::Refused(error.to_string())))?;
        let arguments = arguments(&statement, &parameters)?;
        let position = self.awaited(message).await?;
        let answer = self.ask(client(message), rows, move |reader, limits| {
            let answer = reader.ask(&statement, &arguments, limits)?;
            check_names(&answer.columns).map_err(AskError::Refused)?;
            Ok(answer)
        });
        let answer = answer.await?;
        let at = answer.position.clone();
        self.shown(body_of(answer), at, position.as_ref())
    }
}

fn question(body: &[u8]) -> Result<StatementQuestion, Refusal> {
    if body.len() > REQUEST_BYTES_MAX {
        let status = format!("body: {} bytes; a statement has at most {REQUEST_BYTES_MAX}", body.len());
        return Err(Refusal::malformed(status));
    }
    StatementQuestion::read(body).map_err(|error| Refusal::malformed(format!("body: {error}")))
}

fn rows_of(wanted: Option<usize>) -> Result<usize, Refusal> {
    let rows = wanted.unwrap_or(ROWS_DEFAULT);
    if (1..=ROWS_MAX).contains(&rows) {
        return Ok(rows);
    }
    Err(Refusal::malformed(format!("rows is a number from 1 to {ROWS_MAX}")))
}

/// A value for each parameter of the statement, and for nothing else. What a parameter takes is what is given.
fn arguments(
    statement: &StatementText,
    given: &BTreeMap<String, Json>,
) -> Result<Vec<Argument>, ArgumentError> {
    let names = statement.parameters();
    ArgumentError::check_names(&names, given)?;
    let argument = |name: &&str| {
        let given = given.get(*name);
        let given = given.ok_or_else(|| ArgumentError::Missing { name: (*name).to_owned(), kind: KINDS })?;
        let (kind, value) = typed(given).ok_or_else(|| ArgumentError::Kind {
            name: (*name).to_owned(),
            given: bounded(&given.to_string()).into_owned(),
            kind: KINDS,
        })?;
        Ok(Argument { name: (*name).to_owned(), kind, value })
    };
    names.iter().map(argument).collect()
}

/// What a parameter of a statement takes, in words.
const KINDS: &str = "text, number, boolean or null";

fn typed(given: &Json) -> Option<(ParameterKind, Value)> {
    Some(match given {
        Json::Null => (ParameterKind::Text, Value::Null),
        Json::Bool(truth) => (ParameterKind::Boolean, Value::Boolean(*truth)),
        Json::String(text) => (ParameterKind::Text, Value::Text(text.clone())),
        Json::Number(number) => match number.as_i64() {
            Some(number) => (ParameterKind::Integer, Value::Integer(number)),
            None => (ParameterKind::Number, Value::Real(number.as_f64()?)),
        },
        Json::Array(_) | Json::Object(_) => return None,
    })
}

fn body_of(answer: Answer) -> Vec<u8> {
    let Answer { columns, rows, is_cut, .. } = answer;
    let body = json!({ "columns": columns, "rows": rows, "cut": is_cut });
    serde_json::to_vec(&body).expect("JSON values can be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(statement: &str, parameters: Json) -> Result<Vec<Argument>, ArgumentError> {
        let statement = StatementText::of_contexts(statement, &["retail".to_owned()]).unwrap();
        arguments(&statement, &serde_json::from_value(parameters).unwrap())
    }

    #[test]
    fn a_parameter_takes_what_is_given() {
        let statement = "SELECT :a, :b, :c, :d, :e";
        let read = given(statement, json!({ "a": "x", "b": 7, "c": 7.5, "d": true, "e": null })).unwrap();
        let kinds: Vec<_> = read.iter().map(|argument| argument.kind).collect();
        use ParameterKind::{Boolean, Integer, Number, Text};
        assert_eq!(kinds, [Text, Integer, Number, Boolean, Text]);
        assert_eq!(read.last().map(|argument| &argument.value), Some(&Value::Null));
        let large = given("SELECT :a", json!({ "a": u64::MAX })).unwrap();
        assert_eq!(large.first().map(|argument| argument.kind), Some(Number));
    }

    #[test]
    fn each_parameter_has_a_value_and_each_value_a_parameter() {
        for (statement, parameters, said) in [
            ("SELECT :store", json!({}), "store: this parameter must be given; it takes text, number"),
            ("SELECT :store", json!({ "store": ["2506"] }), "store: [\"2506\"] is no text, number"),
            (
                "SELECT :store",
                json!({ "store": "1", "day": 1 }),
                "day: there is no such parameter; there are store",
            ),
            ("SELECT ':store'", json!({ "store": "1" }), "store: there is no such parameter; there are none"),
        ] {
            let error = given(statement, parameters).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_request_is_a_record_with_known_fields() {
        for body in [
            "",
            "[]",
            "[\"SELECT 1\"]",
            "{}",
            "{\"statement\":\"SELECT 1\",\"limit\":5}",
            "{\"statement\":1}",
            "{\"statement\":\"SELECT 1\",\"rows\":-1}",
            "{\"statement\":\"SELECT 1\",\"rows\":1.5}",
        ] {
            assert!(question(body.as_bytes()).is_err(), "{body}");
        }
        let read = question(b" {\"statement\":\"SELECT 1\"}").unwrap();
        assert_eq!((read.statement.as_str(), read.rows), ("SELECT 1", None));
        assert!(rows_of(Some(0)).is_err() && rows_of(Some(ROWS_MAX + 1)).is_err());
        assert_eq!(rows_of(None), Ok(ROWS_DEFAULT));
    }
}
