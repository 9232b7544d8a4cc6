//! `GET /commands/{context}/{aggregate}/{command}`: a form for any command. `POST` sends it, waits for its outcome, and leads to the aggregate
//! with the position of the change, so that the next page shows it.
//!
//! Each form has a unique name, which becomes the idempotency key: sent twice, it takes effect once.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Request, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use millstream_domain::decider::AggregateType;
use serde_json::Value;
use ulid::Ulid;

use super::{
    Pages, address,
    api::{Given, Refusal},
    form::{self, Field, Filled},
    layout::{Frame, page},
    page_request::Visit,
    session::{self, TOKEN_FIELD},
    value_text::{capital, label},
};
use crate::{
    openapi::commands::{id_form, offered},
    problem::{Code, Problem},
    whole_number::whole_number,
};

/// Fields of a form that are not fields of the command.
const ID: &str = "aggregate-id";
const ONCE: &str = "once";
const VERSION: &str = "seen-version";
const ADD: &str = "add";

/// A form for a command.
pub(super) struct CommandForm {
    pub(super) name: &'static str,
    pub(super) label: String,
    pub(super) to: String,
    pub(super) id: String,
    pub(super) id_says: String,
    pub(super) id_error: String,
    /// Whether the id has to be entered.
    pub(super) asks_id: bool,
    pub(super) once: String,
    pub(super) version: String,
    pub(super) fields: String,
}

impl CommandForm {
    /// An empty form for a command to the aggregate `id`.
    pub(super) fn new(
        pages: &Pages,
        aggregate: &dyn AggregateType,
        command: &'static str,
        id: &str,
        filled: &Filled,
    ) -> Self {
        let fields = pages.fields(aggregate, command);
        Self {
            name: command,
            label: label(command),
            to: address::path(&["commands", aggregate.context(), aggregate.aggregate(), command]),
            id: id.to_owned(),
            id_says: id_hint(aggregate),
            id_error: String::new(),
            asks_id: id.is_empty(),
            once: Ulid::generate().to_string(),
            version: String::new(),
            fields: form::html(fields, command, filled),
        }
    }
}

/// How the ids of an aggregate are written: its refusal of a wrong id, without the part about the wrong id.
pub(super) fn id_hint(aggregate: &dyn AggregateType) -> String {
    let says = id_form(aggregate).unwrap_or_default();
    capital(says.rsplit_once("; ").map_or(says.as_str(), |(_, hint)| hint))
}

#[derive(Template)]
#[template(path = "pages/give.html")]
struct Give<'a> {
    frame: Frame<'a>,
    context: &'a str,
    aggregate: &'a str,
    form: CommandForm,
    refusal: Option<Refusal>,
}

/// The form.
pub(super) async fn get(
    visit: Visit,
    parts: Result<Path<[String; 3]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(parts) = parts?;
    let known = Known::find(&visit, &parts)?;
    let values = visit.parameters().iter().filter(|(name, _)| name != "id").cloned().collect();
    let form = CommandForm::new(
        &visit.pages,
        known.aggregate,
        known.command,
        visit.parameter("id"),
        &Filled { values, ..Filled::default() },
    );
    known.page(StatusCode::OK, form, None)
}

/// Sends the command.
pub(super) async fn post(
    State(pages): State<Arc<Pages>>,
    visit: Visit,
    parts: Result<Path<[String; 3]>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Path(parts) = parts?;
    let posted = session::posted(&pages, request).await?;
    let known = Known::find(&visit, &parts)?;
    let field =
        |name: &str| posted.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.as_str());
    let (id, add) = (field(ID).trim(), field(ADD).to_owned());
    let own = [TOKEN_FIELD, ID, ONCE, VERSION, ADD];
    let values = posted.iter().filter(|(name, _)| !own.contains(&name.as_str())).cloned().collect();
    let mut filled = Filled { values, add, ..Filled::default() };
    let fields = pages.fields(known.aggregate, known.command);
    let again = |filled: &Filled, id_error: &str| {
        let mut form = CommandForm::new(&visit.pages, known.aggregate, known.command, id, filled);
        field(VERSION).clone_into(&mut form.version);
        form.asks_id = true;
        id_error.clone_into(&mut form.id_error);
        form
    };
    if !filled.add.is_empty() {
        return known.page(StatusCode::OK, again(&filled, ""), None);
    }
    let body = form::body(fields, &mut filled);
    let id_error = if id.is_empty() { "Fill this in." } else { "" };
    if !filled.errors.is_empty() || id.is_empty() {
        return known.page(StatusCode::UNPROCESSABLE_ENTITY, again(&filled, id_error), None);
    }
    let [context, aggregate, command] = parts.each_ref().map(String::as_str);
    let once = if field(ONCE).is_empty() { Ulid::generate().to_string() } else { field(ONCE).to_owned() };
    let given = Given {
        address: [context, aggregate, id, command],
        body: body.to_string(),
        once: &once,
        version: whole_number(field(VERSION)),
    };
    match visit.send(given).await {
        Ok((StatusCode::ACCEPTED, answer)) => {
            let shown = answer.shown();
            let to = address::path(&["sent", &shown.text("command_id")]);
            let position = shown.text("command_position");
            Ok(Redirect::to(&address::with(&to, &[("position", &position), ("context", context)]))
                .into_response())
        }
        Ok((_, answer)) => {
            let reply: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let version = reply.get("version").and_then(Value::as_u64).map(|version| version.to_string());
            let to = address::path(&["aggregates", context, aggregate, id]);
            let parameters = [
                ("position", answer.position.as_str()),
                ("done", command),
                ("version", version.as_deref().unwrap_or_default()),
            ];
            Ok(Redirect::to(&address::with(&to, &parameters)).into_response())
        }
        // After such an answer it is not known whether the command is stored. If this form is sent again, it is the same command.
        Err(refusal) if refusal.status.is_server_error() => {
            let again = |filled: &Filled, id_error: &str| {
                let mut form = again(filled, id_error);
                once.clone_into(&mut form.once);
                form
            };
            refused(&known, again, fields, filled, refusal)
        }
        Err(refusal) => refused(&known, again, fields, filled, refusal),
    }
}

/// The form again, with each error at the field that it is about.
fn refused(
    known: &Known<'_>,
    again: impl Fn(&Filled, &str) -> CommandForm,
    fields: &[Field],
    mut filled: Filled,
    refusal: Refusal,
) -> Result<Response, Problem> {
    let code = Code(refusal.code.clone().into());
    let id_malformed = format!("{}-id-malformed", known.aggregate.aggregate());
    if refusal.code == "address-malformed" || refusal.code == id_malformed {
        return known.page(refusal.status, again(&filled, &refusal.detail), None);
    }
    if let Some(path) = named(fields, &refusal) {
        filled.errors.insert(path, refusal.detail.clone());
    }
    let mut page = known.page(refusal.status, again(&filled, ""), Some(refusal))?;
    // The audit log has it in the form of a refused request.
    page.extensions_mut().insert(code);
    Ok(page)
}

/// The field that a refusal is about, if its code or sentence names exactly one field.
fn named(fields: &[Field], refusal: &Refusal) -> Option<String> {
    let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let group = |path: String| path.split(".0.").next().map(str::to_owned);
    let all = form::paths(fields);
    let quoted = |name: &str| refusal.detail.contains(&format!("`{name}`"));
    let begins = |name: &str| {
        refusal.code.strip_prefix(&name.replace('_', "-")).is_some_and(|rest| rest.starts_with('-'))
    };
    let found = all
        .iter()
        .find(|path| quoted(&leaf(path)))
        .or_else(|| all.iter().filter(|path| begins(&leaf(path))).max_by_key(|path| leaf(path).len()));
    found.cloned().and_then(group)
}

/// An existing command that the key grants for some aggregate.
struct Known<'a> {
    visit: &'a Visit,
    aggregate: &'a dyn AggregateType,
    command: &'static str,
}

impl<'a> Known<'a> {
    fn find(visit: &'a Visit, [context, aggregate, command]: &[String; 3]) -> Result<Self, Problem> {
        if !visit.principal.may_give(context, aggregate, command) {
            let detail =
                format!("{context}.{aggregate}.{command} is not granted to {}", visit.principal.name());
            return Err(Problem::new(StatusCode::FORBIDDEN, "command-not-granted", detail));
        }
        let unknown = |code: &'static str| {
            Problem::new(
                StatusCode::NOT_FOUND,
                code,
                format!("there is no command {context}.{aggregate}.{command}"),
            )
        };
        let found = visit.pages.commands.aggregates.get(context, aggregate);
        let aggregate = found.ok_or_else(|| unknown("aggregate-unknown"))?.as_ref();
        let command =
            offered(aggregate).find(|name| *name == command).ok_or_else(|| unknown("command-unknown"))?;
        Ok(Self { visit, aggregate, command })
    }

    fn page(
        &self,
        status: StatusCode,
        form: CommandForm,
        refusal: Option<Refusal>,
    ) -> Result<Response, Problem> {
        let frame = Frame::new(self.visit);
        let (context, aggregate) = (self.aggregate.context(), self.aggregate.aggregate());
        page(status, &Give { frame, context, aggregate, form, refusal })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_shown_at_the_field_that_it_names() {
        let text = || json!({ "type": "string" });
        let lines =
            json!({ "type": "array", "items": { "type": "object", "properties": { "sku": text() } } });
        let fields = form::fields(&json!({ "type": "object", "properties": {
            "amount": text(), "unit_price": text(), "lines": lines } }));
        for (code, detail, expected) in [
            ("amount-too-large", "no", Some("amount")),
            ("unit-price-negative", "no", Some("unit_price")),
            ("body-malformed", "missing field `amount` at line 1", Some("amount")),
            ("sku-not-allowed", "no", Some("lines")),
            ("lines-empty", "no", Some("lines")),
            ("order-not-placed", "no", None),
        ] {
            let refusal = Refusal {
                status: StatusCode::CONFLICT,
                code: code.to_owned(),
                detail: detail.to_owned(),
                parameter: String::new(),
            };
            assert_eq!(named(&fields, &refusal).as_deref(), expected, "{code}");
        }
    }
}
