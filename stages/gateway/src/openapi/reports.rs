//! Two paths for each report: a row with its revisions and differences, and lists, both as JSON and as CSV.

use serde_json::{Map, Value, json};

use super::{
    Described,
    parts::{header, not_modified, parameter, schema, with},
    problems::{Door, referenced},
    views::{HEADERS, page_of},
};
use crate::config::KnownReport;

/// Parameters of lists of rows.
const LIST_PARAMETERS: [&str; 7] = ["prefix", "from", "to", "limit", "reverse", "cursor", "revision"];
/// Parameters of a row. Those of lists have a meaning if several revisions or lines are wanted.
const ROW_PARAMETERS: [&str; 5] = ["revision", "differences", "limit", "reverse", "cursor"];

/// Adds all reports.
pub(super) fn describe(described: &Described<'_>, paths: &mut Map<String, Value>) {
    for (address, report) in addresses(described) {
        let path = format!("/v1/reports/{address}");
        let list = operation(described, address, report, Door::Reports);
        paths.insert(path.clone(), json!({ "get": list }));
        let get = operation(described, address, report, Door::Report);
        paths.insert(format!("{path}/{{date}}/{{key}}"), json!({ "get": get }));
    }
}

/// Each report once, under the shorter of its names.
pub(crate) fn addresses<'a>(
    described: &'a Described<'_>,
) -> impl Iterator<Item = (&'a str, &'a KnownReport)> {
    let reports = &described.parts.reports;
    let is_shorter = |address: &str, report: &KnownReport| {
        let first = reports.get(&report.name).is_some_and(|first| first.context == report.context);
        first == (address == report.name)
    };
    let all = reports.iter().filter(move |(address, report)| is_shorter(address, report));
    all.map(|(address, report)| (address.as_str(), report))
}

fn operation(described: &Described<'_>, address: &str, report: &KnownReport, door: Door) -> Value {
    let is_list = door == Door::Reports;
    let row = |view: &str| schema(&format!("{}.{view}.row", report.context));
    let [current, revisions, differences] = [report.name.clone(), report.revisions(), report.differences()];
    let body = if is_list {
        page_of(&[row(&current), row(&revisions)])
    } else {
        let pages = [page_of(&[row(&revisions)]), page_of(&[row(&differences)])];
        json!({ "anyOf": [row(&current), row(&revisions), pages[0], pages[1]] })
    };
    let headers = json!({
        "ETag": header("ETag"),
        "Millstream-Position": header("Millstream-Position"),
        "Link": header("Link"),
        "Vary": header("Vary"),
    });
    let answer = json!({
        "description": "As the client prefers it (`Accept`)",
        "headers": headers,
        "content": {
            "application/json": { "schema": body },
            "text/csv": { "schema": { "type": "string", "description": "RFC 4180, with a line of names" } },
        },
    });
    let mut responses = referenced(described, door);
    responses.insert("200".to_owned(), answer);
    responses.insert("304".to_owned(), not_modified());
    let mut parameters: Vec<Value> = HEADERS.map(parameter).into();
    let (operation, summary) = if is_list {
        parameters.extend(LIST_PARAMETERS.map(parameter));
        ("list", "Rows of the report")
    } else {
        parameters.extend(["date", "key"].map(part_of_the_key));
        parameters.extend(ROW_PARAMETERS.map(parameter));
        ("get", "A row of the report")
    };
    let operation = json!({
        "operationId": format!("reports.{address}.{operation}"),
        "tags": [report.context],
        "summary": format!("{summary} {address}"),
        "parameters": parameters,
        "responses": responses,
    });
    let description = "`limit`, `reverse` and `cursor` are for `revision=all` and for `differences`, of which one is asked for at a time.";
    if is_list { operation } else { with(operation, "description", json!(description)) }
}

fn part_of_the_key(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
}
