//! The frame of all pages: links to other pages, the name of the user, and the look of a refusal.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use millstream_contract::api_key::LetterAction;

use super::{Pages, address, api::Refusal, page_request::Visit, session::FormToken};
use crate::{key_ring::Principal, problem::Problem};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// How often a page that is not told of changes asks for itself.
const REFRESH_SECONDS: u8 = 5;
/// How often a page does so whose address says that it should.
const REFRESH_ON_DEMAND_SECONDS: u8 = 10;

/// A link to another page.
pub(super) struct Link {
    pub(super) to: String,
    pub(super) name: String,
    /// Whether it leads to the current page or to one above it.
    pub(super) is_here: bool,
}

/// Links that belong together.
pub(super) struct Links {
    pub(super) name: &'static str,
    pub(super) links: Vec<Link>,
}

/// The content of a frame.
pub(super) struct Frame<'a> {
    pub(super) pages: &'a Pages,
    pub(super) navigation: Vec<Links>,
    /// The name of the user, if users have to sign in.
    pub(super) signed_in: Option<String>,
    pub(super) form_token: &'a str,
    /// What to watch while the page is open, as parameters of `/v1/live`.
    pub(super) live: String,
    /// The position of the page's content.
    pub(super) position: String,
    /// How many seconds an open page waits before it shows its parts anew; 0 if it does not.
    pub(super) every: u8,
    /// The same for a page whose address ends with `#live`, and of no other.
    pub(super) on_demand: u8,
}

impl<'a> Frame<'a> {
    /// The frame for a user who was let in.
    pub(super) fn new(visit: &'a Visit) -> Self {
        let form_token = visit.form_token.0.as_str();
        Self::of(&visit.pages, Some(&visit.principal), form_token, &visit.path)
    }

    /// The frame for an unknown user.
    pub(super) fn for_nobody(pages: &'a Pages, token: Option<&'a FormToken>) -> Self {
        Self::of(pages, None, token.map_or("", |token| token.0.as_str()), "")
    }

    fn of(pages: &'a Pages, principal: Option<&Principal>, form_token: &'a str, path: &str) -> Self {
        let signed_in = principal.filter(|_| !pages.guard.is_open()).map(|who| who.name().to_owned());
        let navigation = principal.map(|who| pages.navigation(who, path)).unwrap_or_default();
        let (live, position) = (String::new(), String::new());
        Self { pages, navigation, signed_in, form_token, live, position, every: 0, on_demand: 0 }
    }

    /// The same, for a page that refreshes when one of these changes. Each is `watch=…` or `list=…` with its parts.
    pub(super) fn watching(mut self, watched: &[(&str, String)], position: &str) -> Self {
        let watched: Vec<_> = watched.iter().map(|(kind, of)| (*kind, of.as_str())).collect();
        self.live = serde_urlencoded::to_string(watched).unwrap_or_default();
        position.clone_into(&mut self.position);
        self
    }
}

impl Frame<'_> {
    /// The same, for a page that shows its parts anew every few seconds, because nobody tells when they change.
    pub(super) fn refreshing(self) -> Self {
        Self { every: REFRESH_SECONDS, ..self }
    }

    /// The same, for a page that does so only if the user wants it: what it shows may be dear.
    pub(super) fn refreshing_on_demand(self) -> Self {
        Self { on_demand: REFRESH_ON_DEMAND_SECONDS, ..self }
    }
}

impl Pages {
    /// The links that a user may follow.
    fn navigation(&self, principal: &Principal, path: &str) -> Vec<Links> {
        let link = |to: String, name: &str| {
            let below = path.strip_prefix(to.as_str()).is_some_and(|rest| rest.starts_with('/'));
            let is_here = path == to || (to != "/" && below);
            Link { to, name: name.to_owned(), is_here }
        };
        let mut system = vec![link("/".to_owned(), "Overview")];
        if principal.may_touch_some_letter(LetterAction::Read) {
            system.push(link("/dead-letters".to_owned(), "Dead letters"));
        }
        if principal.may_ask_queries() {
            system.push(link("/queries".to_owned(), "Queries"));
        }
        let reports = self.reports().filter(|(_, report)| {
            [report.name.clone(), report.revisions()]
                .iter()
                .any(|view| principal.may_ask(report.context, view))
        });
        let reports = reports.map(|(name, _)| link(address::path(&["reports", name]), name)).collect();
        let contexts = self.contexts.iter().filter(|context| self.has_something(principal, context));
        let contexts = contexts.map(|context| link(address::path(&["contexts", context]), context)).collect();
        let all = [
            Links { name: "System", links: system },
            Links { name: "Reports", links: reports },
            Links { name: "Contexts", links: contexts },
        ];
        all.into_iter().filter(|links| !links.links.is_empty()).collect()
    }

    fn has_something(&self, principal: &Principal, context: &str) -> bool {
        let mut views = self.commands.views.known.iter().filter(|(of, _)| of == context);
        views.any(|(_, view)| principal.may_ask(context, view))
            || self.commands.aggregates.iter().filter(|aggregate| aggregate.context() == context).any(
                |aggregate| {
                    let mut commands = aggregate.command_names().iter();
                    commands.any(|command| principal.may_give(context, aggregate.aggregate(), command))
                },
            )
    }
}

#[derive(Template)]
#[template(path = "pages/refused.html")]
struct Refused<'a> {
    frame: Frame<'a>,
    title: &'static str,
    refusal: &'a Refusal,
}

#[derive(Template)]
#[template(path = "pages/go_on.html")]
struct GoOn<'a> {
    frame: Frame<'a>,
}

/// A page as an answer.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Result<Response, Problem> {
    let html = template
        .render()
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "view-failed", error.to_string()))?;
    Ok((status, [(header::CONTENT_TYPE, HTML)], html).into_response())
}

/// A refusal as a page.
pub(super) fn refused(
    pages: &Pages,
    principal: Option<&Principal>,
    token: &FormToken,
    refusal: &Refusal,
) -> Response {
    let title = match refusal.status.as_u16() {
        401 => "Not signed in",
        403 => "Not granted",
        404 => "Not there",
        429 => "Too many requests",
        503 | 504 => "Not available now",
        400..=499 => "Not understood",
        _ => "Something failed",
    };
    let frame = Frame::of(pages, principal, &token.0, "");
    let answer = page(refusal.status, &Refused { frame, title, refusal });
    answer.unwrap_or_else(|problem| problem.into_response())
}

/// A page that requests its own address again.
pub(super) fn go_on(pages: &Pages) -> Response {
    let answer = page(StatusCode::OK, &GoOn { frame: Frame::for_nobody(pages, None) });
    answer.unwrap_or_else(|problem| problem.into_response())
}
