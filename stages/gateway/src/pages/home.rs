//! `GET /`: how far everything has come, from commands to rows, as a chain of streams and their readers, with links to all other pages.
//!
//! It only uses what the gateway may read in any case: the states of streams, the last record of OUTCOMES, and the position of each view.
//! Numbers of the whole system are shown to everybody who may read everybody's outcomes. Deliberately absent: processes, which `millstream
//! doctor` checks.

use std::time::Duration;

use askama::Template;
use axum::{http::StatusCode, response::Response};
use futures::future::join_all;
use jiff::Timestamp;
use millstream_contract::{
    api_key::LetterAction,
    outcome::OutcomeRecord,
    position::StreamPosition,
    stream_names::{AUDIT, COMMANDS, DEAD_LETTERS, EVENTS, OUTCOMES, REPORTS, TIMERS},
    subject::QUERY_PREFIX,
};
use millstream_jetstream::broker::{Broker as _, StreamState};
use serde_json::json;

use super::{
    address,
    layout::{Frame, page},
    page_request::Visit,
    streams::{self, Stream, grouped, span},
};
use crate::{problem::Problem, views::ask_once};

/// A view that has not answered within this time counts as not answering.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// No key has this prefix, so a query for such rows returns only a position.
const NO_KEY: &str = "\u{10ffff}";
/// What a view says that has stopped at a message which it cannot apply.
const HALTED: &str = " halted at ";
/// The streams beside the chain of commands, events and outcomes.
const OTHER_STREAMS: [&str; 4] = [DEAD_LETTERS, TIMERS, REPORTS, AUDIT];

#[derive(Template)]
#[template(path = "pages/home.html")]
struct Home<'a> {
    frame: Frame<'a>,
    pipeline: Option<Pipeline>,
    views: Vec<View<'a>>,
    /// How many of them have reached the end of their stream.
    current: usize,
    /// How many have stopped.
    halted: usize,
}

struct Pipeline {
    commands: Stream,
    waiting: Option<u64>,
    events: Stream,
    outcomes: Stream,
    others: Vec<Stream>,
    /// Whether the user may look at dead letters.
    with_letters: bool,
}

struct View<'a> {
    context: &'a str,
    name: &'a str,
    to: String,
    position: String,
    lag: Option<u64>,
    /// For how long the first message that it has not applied has been there.
    behind_for: String,
    is_halted: bool,
    why: String,
}

/// The page.
pub(super) async fn get(visit: Visit) -> Result<Response, Problem> {
    let _place = visit.pages.commands.places_for_overviews.take(visit.principal.name())?;
    let may_see = visit.pages.contexts.iter().all(|context| visit.principal.may_list(context, "command", ""));
    let broker = &visit.pages.commands.broker;
    let (events, outcomes) = futures::join!(streams::state(broker, EVENTS), streams::state(broker, OUTCOMES));
    let ends = [&events, &outcomes].map(|state| state.as_ref().map_or(0, |state| state.last_sequence));
    let known = visit.pages.commands.views.known.iter();
    let granted = known.filter(|(context, name)| visit.principal.may_ask(context, name));
    let views = join_all(granted.map(|(context, name)| view(&visit, context, name, ends))).await;
    let pipeline = if may_see { Some(pipeline(&visit, events, outcomes).await) } else { None };
    let current = views.iter().filter(|view| view.lag == Some(0)).count();
    let halted = views.iter().filter(|view| view.is_halted).count();
    page(StatusCode::OK, &Home { frame: Frame::new(&visit).refreshing(), pipeline, views, current, halted })
}

async fn pipeline(
    visit: &Visit,
    events: Result<StreamState, String>,
    outcomes: Result<StreamState, String>,
) -> Pipeline {
    let broker = &visit.pages.commands.broker;
    let commands = async {
        let state = streams::state(broker, COMMANDS).await;
        let rate = streams::rate(broker, COMMANDS, &state).await;
        (state, rate)
    };
    let ((state, rate), decided, rate_of_events, others) = futures::join!(
        commands,
        decided(visit),
        streams::rate(broker, EVENTS, &events),
        join_all(
            OTHER_STREAMS.map(|name| async move { Stream::new(name, &streams::state(broker, name).await) })
        ),
    );
    let waiting =
        state.as_ref().ok().zip(decided).map(|(state, decided)| state.last_sequence.saturating_sub(decided));
    Pipeline {
        commands: Stream { rate, ..Stream::new(COMMANDS, &state) },
        waiting,
        events: Stream { rate: rate_of_events, ..Stream::new(EVENTS, &events) },
        outcomes: Stream::new(OUTCOMES, &outcomes),
        others,
        with_letters: visit.principal.may_touch_some_letter(LetterAction::Read),
    }
}

/// The position up to which COMMANDS is decided.
async fn decided(visit: &Visit) -> Option<u64> {
    let last = visit.pages.commands.broker.last(OUTCOMES, "out.>").await.ok()?;
    last.map_or(Some(0), |message| OutcomeRecord::from_stored(&message).ok().map(|record| record.through))
}

async fn view<'a>(visit: &Visit, context: &'a str, name: &'a str, [events, outcomes]: [u64; 2]) -> View<'a> {
    let broker = &visit.pages.commands.broker;
    let subject = format!("{QUERY_PREFIX}.{context}.{name}.list");
    let body = json!({ "prefix": NO_KEY, "limit": 1 }).to_string().into();
    let asked = tokio::time::timeout(ANSWER_WAIT, ask_once(broker, &subject, body, None)).await;
    let (position, why) = match asked {
        Ok(Ok(answer)) => {
            (answer.position.and_then(|position| position.parse::<StreamPosition>().ok()), String::new())
        }
        Ok(Err(error)) => (None, super::api::Refusal::from(Problem::from(error)).detail),
        Err(_) => (None, "It does not answer.".to_owned()),
    };
    let (stream, end) = match visit.pages.commands.views.stream_of(name) {
        OUTCOMES => (OUTCOMES, outcomes),
        _ => (EVENTS, events),
    };
    let lag = position.as_ref().map(|position| end.saturating_sub(position.sequence));
    let behind_for = match &position {
        Some(position) if position.sequence < end => waiting_for(visit, stream, position.sequence + 1).await,
        _ => String::new(),
    };
    View {
        context,
        name,
        to: address::path(&["views", context, name]),
        lag,
        behind_for,
        position: position.map(|position| grouped(position.sequence)).unwrap_or_default(),
        is_halted: why.contains(HALTED),
        why,
    }
}

/// For how long a message has been there; empty if it is not there any more.
async fn waiting_for(visit: &Visit, stream: &str, sequence: u64) -> String {
    let Ok(Some(message)) = visit.pages.commands.broker.get(stream, sequence).await else {
        return String::new();
    };
    let waited = Timestamp::now().duration_since(message.stored_at);
    span(waited.as_secs().try_into().unwrap_or_default())
}
