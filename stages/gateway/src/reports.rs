//! `GET /v1/reports/{report}/{key}` and `GET /v1/reports/{report}`: reports as documents, as JSON or CSV.
//!
//! A report has three views: current rows, all revisions, and the lines by which a revision differs from the one before. A key grants exactly
//! as much here as it grants of these views. Deliberately absent: reports as of a moment, because they would have to be folded from the events;
//! the views do not have them.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use millstream_domain::report::{Column, ColumnKind};
use millstream_values::report_table::CURRENCY_COLUMN;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    commands::Commands,
    config::KnownReport,
    key_ring::Principal,
    media_type::{self, Form},
    problem::Problem,
    queries::{Wanted, current, freshness, not_granted},
    report_document::{self, Page},
    views::{Freshness, Operation, ViewAnswer},
    whole_number::{self, whole_number},
};

/// The rows on a page of CSV unless the client says otherwise: the most that a view allows, because a spreadsheet does not ask for further
/// pages.
const CSV_ROWS_DEFAULT: u32 = 10_000;

/// Which revision: one, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
enum Revision {
    All,
    Number(u32),
}

impl TryFrom<String> for Revision {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match whole_number(&text) {
            Some(number) if number > 0 => Ok(Self::Number(number)),
            _ if text == "all" => Ok(Self::All),
            _ => Err(format!("{text:?} is no revision; it is a number from 1 on, or all")),
        }
    }
}

impl From<Revision> for String {
    fn from(revision: Revision) -> Self {
        match revision {
            Revision::All => "all".to_owned(),
            Revision::Number(number) => number.to_string(),
        }
    }
}

/// The parameters of a report request. Not all of them have a meaning everywhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number::parameter")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reverse: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
    /// The revision whose differences from the one before are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Revision>,
}

impl Asked {
    /// Parameters without a meaning are refused, because the client expects an effect from them.
    fn refuse(&self, names: &[&'static str], why: &str) -> Result<(), Problem> {
        let given = json!(self);
        match names.iter().find(|name| given.get(**name).is_some()) {
            Some(name) => Err(malformed(format!("{name} {why}"))),
            None => Ok(()),
        }
    }

    fn wanted(&self, prefix: Option<String>, form: Form) -> Wanted {
        Wanted {
            prefix,
            from: self.from.clone(),
            to: self.to.clone(),
            limit: self.limit.or((form == Form::Csv).then_some(CSV_ROWS_DEFAULT)),
            reverse: self.reverse,
            cursor: self.cursor.clone(),
        }
    }
}

/// A report's row, one of its revisions, all of them, or the differences of one.
pub(crate) async fn get(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    parts: Result<Path<[String; 2]>, PathRejection>,
    query: Result<Query<Asked>, QueryRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path([name, key]) = parts?;
    let request = Request::new(&commands, &principal, &name, &headers, &uri)?;
    let Query(asked) = query.map_err(|error| malformed(error.body_text()))?;
    asked.refuse(&["prefix", "from", "to"], "is for lists; the address has the key")?;
    let report = request.report;
    let no_list = || asked.refuse(&["limit", "reverse", "cursor"], "is for lists, and this is one row");
    match (asked.revision, asked.differences) {
        (Some(_), Some(_)) => Err(malformed("revision and differences are asked for one at a time")),
        (None, None) => {
            no_list()?;
            request.row(&report.name, &key).await
        }
        (Some(Revision::Number(number)), None) => {
            no_list()?;
            request.row(&report.revisions(), &revision_key(&key, number)).await
        }
        (Some(Revision::All), None) => request.revisions(&key, asked).await,
        (None, Some(Revision::Number(number))) => {
            request.differences(&revision_key(&key, number), asked).await
        }
        (None, Some(Revision::All)) => {
            Err(malformed("differences are those of one revision; give its number"))
        }
    }
}

/// A page of a report's rows, of one revision, or of all revisions.
pub(crate) async fn list(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<Asked>, QueryRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    let request = Request::new(&commands, &principal, &name, &headers, &uri)?;
    let Query(asked) = query.map_err(|error| malformed(error.body_text()))?;
    asked.refuse(&["differences"], "are those of one row; name its key in the address")?;
    let (view, number) = match asked.revision {
        None => (request.report.name.clone(), None),
        Some(Revision::All) => (request.report.revisions(), None),
        Some(Revision::Number(number)) => (request.report.revisions(), Some(number)),
    };
    request.list(&view, asked.wanted(asked.prefix.clone(), request.form), asked, number).await
}

/// A request whose headers are valid.
struct Request<'a> {
    commands: &'a Commands,
    principal: &'a Principal,
    report: &'a KnownReport,
    headers: &'a HeaderMap,
    /// The name as the client wrote it, for links.
    path: &'a str,
    form: Form,
    freshness: Freshness,
}

impl<'a> Request<'a> {
    fn new(
        commands: &'a Commands,
        principal: &'a Principal,
        name: &str,
        headers: &'a HeaderMap,
        uri: &'a Uri,
    ) -> Result<Self, Problem> {
        let report = commands.reports.get(name).ok_or_else(|| {
            // A client that may not read any report of that name is not told whether it exists.
            if principal.may_list("", name, "") {
                let detail = format!("there is no report {name}");
                Problem::new(StatusCode::NOT_FOUND, "report-unknown", detail)
            } else {
                not_granted(principal, name, "this")
            }
        })?;
        let form = media_type::preferred(headers)?;
        let freshness = freshness(headers, commands, principal)?;
        Ok(Self { commands, principal, report, headers, path: uri.path(), form, freshness })
    }

    async fn row(&self, view: &str, key: &str) -> Result<Response, Problem> {
        let ViewAnswer { mut body, position } = self.ask_row(view, key).await?;
        if self.form == Form::Csv {
            body = report_document::csv(self.report.columns, &[report_document::row(&body)?])?;
        }
        Ok(self.answer(ViewAnswer { body, position }, None))
    }

    /// A page of a view. Of revisions, only those with the given `number`.
    async fn list(
        &self,
        view: &str,
        wanted: Wanted,
        asked: Asked,
        number: Option<u32>,
    ) -> Result<Response, Problem> {
        let (mut page, mut answer) = self.ask_page(view, &wanted).await?;
        if let Some(number) = number {
            page.keep_keys_that_end_with(&revision_key("", number))?;
            answer.body = page.to_json();
        }
        self.page(&page, answer, asked)
    }

    /// A page of the revisions of a key.
    async fn revisions(&self, key: &str, asked: Asked) -> Result<Response, Problem> {
        let wanted = asked.wanted(Some(format!("{key}#")), self.form);
        let (page, answer) = self.ask_page(&self.report.revisions(), &wanted).await?;
        self.refuse_none_of(&page, &revision_key(key, 1)).await?;
        self.page(&page, answer, asked)
    }

    /// The lines by which the revision of a key differs from the one before.
    async fn differences(&self, revision_key: &str, asked: Asked) -> Result<Response, Problem> {
        let wanted = asked.wanted(Some(format!("{revision_key}/")), self.form);
        let (page, mut answer) = self.ask_page(&self.report.differences(), &wanted).await?;
        self.refuse_none_of(&page, revision_key).await?;
        let next = self.next(&page, asked);
        if self.form == Form::Csv {
            let currency = self.currency(revision_key).await?;
            answer.body = report_document::differences_csv(self.report.columns, page.rows()?, &currency)?;
        }
        Ok(self.answer(answer, next))
    }

    /// A page without rows may belong to a revision that does not exist. Whoever may read the page may know that.
    async fn refuse_none_of(&self, page: &Page, revision_key: &str) -> Result<(), Problem> {
        if page.is_empty() {
            self.ask(&self.report.revisions(), Operation::Get, &json!({ "key": revision_key })).await?;
        }
        Ok(())
    }

    fn page(&self, page: &Page, mut answer: ViewAnswer, asked: Asked) -> Result<Response, Problem> {
        if self.form == Form::Csv {
            answer.body = report_document::csv(self.report.columns, &page.rows()?)?;
        }
        Ok(self.answer(answer, self.next(page, asked)))
    }

    /// The currency of the amounts in a revision. Its lines do not contain the currency.
    async fn currency(&self, revision_key: &str) -> Result<Value, Problem> {
        let has = |wanted: fn(&Column) -> bool| self.report.columns.iter().any(wanted);
        if !has(|column| column.kind == ColumnKind::Amount) || !has(|column| column.name == CURRENCY_COLUMN) {
            return Ok(Value::Null);
        }
        let answer = self.ask_row(&self.report.revisions(), revision_key).await?;
        let mut row = report_document::row(&answer.body)?;
        Ok(row.value.get_mut(CURRENCY_COLUMN).map(Value::take).unwrap_or_default())
    }

    async fn ask_row(&self, view: &str, key: &str) -> Result<ViewAnswer, Problem> {
        if !self.principal.may_read(self.report.context, view, key) {
            return Err(not_granted(self.principal, view, "this row"));
        }
        self.ask(view, Operation::Get, &json!({ "key": key })).await
    }

    async fn ask_page(&self, view: &str, wanted: &Wanted) -> Result<(Page, ViewAnswer), Problem> {
        let prefix = wanted.prefix.as_deref().unwrap_or_default();
        if !self.principal.may_list(self.report.context, view, prefix) {
            return Err(not_granted(self.principal, view, "a list of this prefix"));
        }
        let answer = self.ask(view, Operation::List, &json!(wanted)).await?;
        Ok((Page::read(&answer.body)?, answer))
    }

    async fn ask(&self, view: &str, operation: Operation, body: &Value) -> Result<ViewAnswer, Problem> {
        self.commands.views.ask([self.report.context, view], operation, body, &self.freshness).await
    }

    fn next(&self, page: &Page, asked: Asked) -> Option<String> {
        let cursor = Some(page.cursor()?.to_owned());
        let query = serde_urlencoded::to_string(Asked { cursor, ..asked }).ok()?;
        Some(format!("<{}?{query}>; rel=\"next\"", self.path))
    }

    fn answer(&self, answer: ViewAnswer, next: Option<String>) -> Response {
        media_type::of_form(current(self.headers, answer, next), self.form)
    }
}

/// The key of a revision, as the ledger writes it.
fn revision_key(key: &str, number: u32) -> String {
    format!("{key}#{number:06}")
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::malformed("query-malformed", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_a_number_or_all() {
        let read = |query: &str| serde_urlencoded::from_str::<Asked>(query).map(|asked| asked.revision);
        assert_eq!(read("revision=2").unwrap(), Some(Revision::Number(2)));
        assert_eq!(read("revision=all").unwrap(), Some(Revision::All));
        assert_eq!(read("").unwrap(), None);
        for wrong in [
            "revision=0",
            "revision=01",
            "revision=%2B1",
            "limit=%2B1",
            "revision=-1",
            "revision=",
            "revision=ALL",
            "revision=4294967296",
            "as_of=3",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_next_page_is_asked_for_in_the_same_way() {
        let asked: Asked = serde_urlencoded::from_str("revision=2&limit=3&prefix=%C3%A4%26").unwrap();
        let next = Asked { cursor: Some("31".to_owned()), ..asked };
        let query = serde_urlencoded::to_string(next).unwrap();
        assert_eq!(query, "prefix=%C3%A4%26&limit=3&cursor=31&revision=2");
    }
}
