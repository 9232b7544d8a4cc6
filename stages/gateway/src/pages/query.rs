//! `GET /queries/{context}/{name}`: a form for a configured query, and its answer as a table; with `/csv`, the answer as a file. All state is
//! in the address; an empty field is not sent.

use std::collections::BTreeSet;

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use millstream_contract::configured_query::ParameterDescription;
use millstream_values::report_table::cell;
use serde_json::{Map, Value};

use super::{
    address,
    api::Refusal,
    export::as_file,
    layout::{Frame, page},
    page_request::Visit,
    query_chart::{Chart, Glance, glance},
    value_text::{escape, label, time},
};
use crate::{
    configured_queries::{Offered, Table},
    problem::Problem,
    queries::not_granted,
};

const JSON: &str = "application/json";
const CSV: &str = "text/csv";

#[derive(Template)]
#[template(path = "pages/query.html")]
struct QueryPage<'a> {
    frame: Frame<'a>,
    context: &'a str,
    title: &'a str,
    description: &'a str,
    fields: Vec<Field>,
    /// Why there is no answer, if the reason is not a field's value.
    refusal: Option<Refusal>,
    answer: Option<Shown>,
    csv: String,
}

/// A parameter in the form.
struct Field {
    name: String,
    label: String,
    kind: &'static str,
    value: String,
    required: bool,
    says: String,
    error: String,
    /// The values to choose from; any value if empty.
    choices: Vec<Choice>,
}

struct Choice {
    value: String,
    label: String,
    is_chosen: bool,
}

/// The answer.
struct Shown {
    columns: Vec<Column>,
    /// A chart of one of the columns.
    chart: Option<Chart>,
    /// The markup of each cell, and whether it is a number.
    rows: Vec<Vec<(String, bool)>>,
    /// The number of rows, if there were more.
    cut: String,
}

struct Column {
    label: String,
    is_number: bool,
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    parts: Result<Path<[String; 2]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([context, name]) = parts?;
    let Offered { query, granted } = offered(&visit, &context, &name).await?;
    let given = given(&visit);
    let is_given = |name: &str| given.iter().any(|(found, _)| *found == name);
    let is_complete = query.parameters.iter().all(|each| {
        !each.required
            || is_given(&each.name)
            || granted.get(&each.name).is_some_and(|values| values.len() == 1)
    });
    let asked = match is_complete {
        true => Some(visit.query(&context, &name, &given, JSON).await),
        false => None,
    };
    let (mut answer, mut refusal) = (None, None);
    match asked {
        Some(Ok(found)) => answer = Some(shown(&Table::read(&found.body)?)),
        Some(Err(refused)) if refused.status == StatusCode::FORBIDDEN => return Err(refused.into()),
        Some(Err(refused)) => refusal = Some(refused),
        None => {}
    }
    let of_field = |name: &str| refusal.as_ref().filter(|refusal| refusal.parameter == name);
    let fields: Vec<Field> = query
        .parameters
        .iter()
        .map(|parameter| {
            let error = of_field(&parameter.name).map(|refusal| refusal.detail.clone());
            field(parameter, visit.parameter(&parameter.name), granted.get(&parameter.name), error)
        })
        .collect();
    let status = refusal.as_ref().map_or(StatusCode::OK, |refusal| refusal.status);
    let is_told_at_a_field = fields.iter().any(|field| !field.error.is_empty());
    let csv = address::with(&address::path(&["queries", &context, &name, "csv"]), &given);
    let frame = Frame::new(&visit);
    let query = QueryPage {
        frame: if answer.is_some() { frame.refreshing_on_demand() } else { frame },
        context: &context,
        title: &query.title,
        description: &query.description,
        fields,
        refusal: refusal.filter(|_| !is_told_at_a_field),
        answer,
        csv,
    };
    page(status, &query)
}

/// The answer as a file.
pub(super) async fn csv(
    visit: Visit,
    parts: Result<Path<[String; 2]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([context, name]) = parts?;
    let answer = visit.query_as_it_is(&context, &name, &given(&visit), CSV).await?;
    Ok(as_file(answer, &format!("{context}-{name}")))
}

async fn offered(visit: &Visit, context: &str, name: &str) -> Result<Offered, Problem> {
    let refused = || not_granted(&visit.principal, &format!("{context}.{name}"), "the query");
    if !visit.principal.may_ask_query(context, name) {
        return Err(refused());
    }
    let query = visit.pages.commands.description(context, name).await?;
    visit.principal.offers(query).ok_or_else(refused)
}

fn given(visit: &Visit) -> Vec<(&str, &str)> {
    let all = visit.parameters().iter().filter(|(_, value)| !value.is_empty());
    all.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn field(
    parameter: &ParameterDescription,
    given: &str,
    granted: Option<&BTreeSet<String>>,
    error: Option<String>,
) -> Field {
    let default = cell(&parameter.default);
    let value = if given.is_empty() { default } else { given.to_owned() };
    let values: Vec<String> = match (granted, parameter.kind.as_str()) {
        (Some(granted), _) => granted.iter().cloned().collect(),
        (None, "boolean") => ["true", "false"].map(str::to_owned).to_vec(),
        _ => Vec::new(),
    };
    let nothing = (!values.is_empty() && granted.is_none() && !parameter.required).then(String::new);
    let choices = nothing.into_iter().chain(values).map(|choice| {
        let label = match choice.as_str() {
            "" => "any".to_owned(),
            "true" => "yes".to_owned(),
            "false" => "no".to_owned(),
            other => other.to_owned(),
        };
        Choice { is_chosen: choice == value, value: choice, label }
    });
    let form = match parameter.kind.as_str() {
        "time" => "such as 2012-01-31T12:00:00Z",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "",
    };
    let says = [parameter.description.as_str(), form].into_iter().filter(|part| !part.is_empty());
    Field {
        name: parameter.name.clone(),
        label: label(&parameter.name),
        kind: if parameter.kind == "date" { "date" } else { "text" },
        required: parameter.required,
        says: says.collect::<Vec<_>>().join(", "),
        error: error.unwrap_or_default(),
        choices: choices.collect(),
        value,
    }
}

fn shown(table: &Table) -> Shown {
    let is_number = |column: &String| {
        let mut found =
            table.rows.iter().filter_map(|row| row.get(column)).filter(|value| !value.is_null()).peekable();
        found.peek().is_some() && found.all(Value::is_number)
    };
    let columns: Vec<Column> =
        table.columns.iter().map(|name| Column { label: label(name), is_number: is_number(name) }).collect();
    let (chart, bars) = match glance(table) {
        Some(Glance::Chart(chart)) => (Some(chart), None),
        Some(Glance::Bars(column, bars)) => (None, Some((column, bars))),
        None => (None, None),
    };
    let row = |(number, row): (usize, &Map<String, Value>)| {
        let cells = table.columns.iter().zip(&columns).enumerate().map(|(index, (name, column))| {
            let text = table.text(row, name);
            // A number is not a time, whatever it looks like.
            let markup = if column.is_number { None } else { time(&text) };
            let bar = bars
                .as_ref()
                .filter(|(shown, _)| *shown == index)
                .and_then(|(_, bars)| bars.get(number)?.as_deref());
            (markup.unwrap_or_else(|| escape(&text)) + bar.unwrap_or_default(), column.is_number)
        });
        cells.collect()
    };
    Shown {
        rows: table.rows.iter().enumerate().map(row).collect(),
        chart,
        cut: if table.cut { table.rows.len().to_string() } else { String::new() },
        columns,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameter(kind: &str, required: bool, default: Value) -> ParameterDescription {
        let (name, description) = ("sold_on".to_owned(), "the <day>".to_owned());
        ParameterDescription { name, kind: kind.to_owned(), required, default, description }
    }

    #[test]
    fn a_field_has_what_is_given_or_else_the_default() {
        let day = parameter("date", false, json!("2012-01-31"));
        assert_eq!(field(&day, "", None, None).value, "2012-01-31");
        let given = field(&day, "2012-02-01", None, Some("why".to_owned()));
        assert_eq!(
            (given.value.as_str(), given.kind, given.label.as_str(), given.error.as_str()),
            ("2012-02-01", "date", "Sold on", "why")
        );
        let most = field(&parameter("integer", true, Value::Null), "", None, None);
        assert_eq!(
            (most.value.as_str(), most.says.as_str(), most.choices.len()),
            ("", "the <day>, a whole number", 0)
        );
    }

    #[test]
    fn what_is_granted_alone_is_chosen_among() {
        let granted = BTreeSet::from(["1".to_owned(), "2".to_owned()]);
        let store = field(&parameter("text", false, Value::Null), "2", Some(&granted), None);
        let choices: Vec<_> =
            store.choices.iter().map(|choice| (choice.value.as_str(), choice.is_chosen)).collect();
        assert_eq!(choices, [("1", false), ("2", true)]);
        let truth = field(&parameter("boolean", false, Value::Null), "", None, None);
        let labels: Vec<_> =
            truth.choices.iter().map(|choice| (choice.label.as_str(), choice.is_chosen)).collect();
        assert_eq!(labels, [("any", true), ("yes", false), ("no", false)]);
    }

    #[test]
    fn numbers_stand_to_the_right_and_texts_are_no_markup() {
        let table = Table::read(
            br#"{"columns":["name","amount","currency","at"],"money":{"amount":"currency"},"cut":true,"rows":[
                {"name":"<b>","amount":1250,"currency":"USD","at":"2012-01-31T12:00:00Z"},{"name":null,"amount":null,"currency":null,"at":null}]}"#,
        );
        let shown = shown(&table.unwrap());
        assert_eq!(
            shown.columns.iter().map(|column| column.is_number).collect::<Vec<_>>(),
            [false, true, false, false]
        );
        assert_eq!(
            (shown.rows[0][0].0.as_str(), shown.rows[0][1].0.as_str(), shown.cut.as_str()),
            ("&lt;b&gt;", "12.50", "2")
        );
        assert!(shown.rows[0][3].0.starts_with("<time "), "{}", shown.rows[0][3].0);
        assert_eq!(shown.rows[1][1].0, "");
    }
}
