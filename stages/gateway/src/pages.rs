//! The pages for people, rendered from what the API answers. They work without JavaScript, and contain no word of any application.
//!
//! In reading order: `page_request` is who asks for which page; `session` lets browsers in; `api` asks for what the pages show, through the
//! functions that answer the API, so that a page shows nothing that its key may not read. `layout` is what all pages share, and `assets` their
//! style and script. `address` makes links between pages, `value_text` writes values, `chart` draws figures, and `form` makes forms for
//! commands. Each of the other files is one page or a part of one (`report_chart` is the chart on the page of a report's row).
//! Deliberately absent: state, and any way to a row, a history or a command that is not the API's.

mod address;
mod aggregate;
mod api;
mod assets;
mod chart;
mod command_page;
mod context;
mod dead_letter;
mod dead_letters;
mod event;
mod export;
mod figure;
mod form;
mod home;
mod layout;
mod page_request;
mod queries;
mod query;
mod query_chart;
mod report;
mod report_chart;
mod report_list;
mod row;
mod rows;
mod sent_command;
mod session;
mod sign_in;
mod streams;
mod value_text;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use millstream_domain::{
    application::{Application, DefaultSettings, Model},
    decider::AggregateType,
    projection::Projection,
};

pub(crate) use self::session::{around, is_of_ours, is_page};
use self::{assets::Assets, form::Field};
use crate::{
    commands::Commands,
    config::KnownReport,
    guard::{self, Guard},
    live,
    openapi::commands::{body, offered},
    problem::Problem,
};

/// The paths of pages. All other paths belong to the API.
const PLACES: [&str; 14] = [
    "aggregates",
    "assets",
    "commands",
    "contexts",
    "dead-letters",
    "events",
    "export",
    "live",
    "queries",
    "reports",
    "sent",
    "sign-in",
    "sign-out",
    "views",
];

/// What all pages share.
pub(crate) struct Pages {
    commands: Arc<Commands>,
    guard: Arc<Guard>,
    /// The application's name, version and purpose.
    name: &'static str,
    version: &'static str,
    about: &'static str,
    contexts: BTreeSet<String>,
    /// Makes the ledger of a report, by its context and its name.
    ledgers: Ledgers,
    /// The fields of commands, by context, aggregate and command. Their types are examined once.
    fields: BTreeMap<[&'static str; 3], Vec<Field>>,
    assets: Assets,
}

/// How a ledger is made, by its context and its name.
type Ledgers = fn(&str, &str) -> Option<Box<dyn Projection>>;

/// The ledger of a report of an application, with default settings. The gateway does not know the reporter's settings; if its own fold gives a
/// different figure than the reporter, the page says so.
fn ledger<A: Application>(context: &str, name: &str) -> Option<Box<dyn Projection>> {
    let reports = Model::of::<A>().ok()?.reports(&mut DefaultSettings::default());
    let mut ledgers = reports.into_iter().map(|report| report.ledger);
    ledgers.find(|ledger| ledger.context() == context && ledger.name() == name)
}

impl Pages {
    /// The pages of a gateway for this application.
    pub(crate) fn of<A: Application>(commands: &Arc<Commands>, guard: &Arc<Guard>) -> Self {
        let mut fields = BTreeMap::new();
        for aggregate in commands.aggregates.iter() {
            for command in offered(aggregate.as_ref()) {
                let id = [aggregate.context(), aggregate.aggregate(), command];
                fields.insert(id, form::fields(&body(aggregate.as_ref(), command)));
            }
        }
        Self {
            commands: Arc::clone(commands),
            guard: Arc::clone(guard),
            name: A::NAME,
            version: A::VERSION,
            about: A::ABOUT,
            contexts: commands.views.known.iter().map(|(context, _)| context.clone()).collect(),
            ledgers: ledger::<A>,
            fields,
            assets: Assets::new(),
        }
    }

    /// The fields of a command.
    fn fields(&self, aggregate: &dyn AggregateType, command: &'static str) -> &[Field] {
        self.fields.get(&[aggregate.context(), aggregate.aggregate(), command]).map_or(&[], Vec::as_slice)
    }

    /// A report by its name in addresses.
    ///
    /// # Errors
    /// A [`Problem`] when there is none.
    fn report(&self, name: &str) -> Result<&KnownReport, Problem> {
        self.commands.reports.get(name).ok_or_else(|| {
            let detail = format!("there is no report {name}");
            Problem::new(StatusCode::NOT_FOUND, "report-unknown", detail)
        })
    }

    /// The projection that folds a report.
    fn ledger(&self, report: &KnownReport) -> Option<Box<dyn Projection>> {
        (self.ledgers)(report.context, &report.name)
    }

    /// The reports by their names in addresses.
    fn reports(&self) -> impl Iterator<Item = (&str, &KnownReport)> {
        let all = &self.commands.reports;
        let named = all.iter().filter(|(name, report)| {
            // If two reports have the same name, the first one keeps it.
            !name.contains('.') || all.get(&report.name).is_some_and(|first| first.context != report.context)
        });
        named.map(|(name, report)| (name.as_str(), report))
    }
}

/// All pages that require a key.
pub(crate) fn router(pages: &Arc<Pages>) -> Router {
    Router::new()
        .route("/", get(home::get))
        .route("/contexts/{context}", get(context::get))
        .route("/aggregates/{context}/{aggregate}", get(aggregate::open))
        .route("/aggregates/{context}/{aggregate}/{id}", get(aggregate::get))
        .route("/commands/{context}/{aggregate}/{command}", get(command_page::get).post(command_page::post))
        .route("/sent/{command_id}", get(sent_command::get))
        .route("/events/{sequence}", get(event::get))
        .route("/dead-letters", get(dead_letters::get))
        .route("/dead-letters/{letter}", get(dead_letter::get))
        .route("/dead-letters/{letter}/retry", post(dead_letter::retry))
        .route("/dead-letters/{letter}/drop", post(dead_letter::drop_letter))
        .route("/reports/{report}", get(report_list::get))
        .route("/reports/{report}/{*key}", get(report::get))
        .route("/export/{report}", get(export::list))
        .route("/export/{report}/{*key}", get(export::row))
        .route("/queries", get(queries::get))
        .route("/queries/{context}/{name}", get(query::get))
        .route("/queries/{context}/{name}/csv", get(query::csv))
        .route("/views/{context}/{view}", get(rows::get))
        .route("/views/{context}/{view}/{*key}", get(row::get))
        .with_state(Arc::clone(pages))
        .merge(Router::new().route("/live", get(live::get)).with_state(Arc::clone(&pages.commands)))
        .route_layer(from_fn(session::tell_who))
}

/// Paths that anybody may read: the way to sign in, and the style of pages.
pub(crate) fn open_router(pages: &Arc<Pages>) -> Router {
    Router::new()
        .route("/sign-in", get(sign_in::get).post(sign_in::post))
        .route("/sign-out", post(sign_in::leave))
        .route("/assets/{name}", get(assets::get))
        .with_state(Arc::clone(pages))
        .layer(from_fn_with_state(Arc::clone(&pages.guard), guard::pass_anybody))
}
