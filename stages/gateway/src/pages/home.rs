//! `GET /`: how far everything has come, from commands to rows, as a chain of streams and their readers, with links to all other pages.
//!
//! It only uses what the gateway may read in any case: the states of streams, the last record of OUTCOMES, and the position of each view.
//! Numbers of the whole system are shown to everybody who may read everybody's outcomes. Deliberately absent: processes, which `millstream
//! doctor` checks.

use std::time::Duration;

use askama::Template;
use axum::{http::StatusCode, response::Response};
use futures::future::join_all;
use millstream_contract::{
    outcome::OutcomeRecord,
    position::StreamPosition,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
    subject::QUERY_PREFIX,
};
use millstream_jetstream::broker::{Broker as _, CROWDED, StreamState};
use serde_json::json;

use super::{
    address, chart,
    layout::{Frame, page},
    page_request::Visit,
};
use crate::{problem::Problem, views::ask_once};

/// A view that has not answered within this time counts as not answering.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// No key has this prefix, so a query for such rows returns only a position.
const NO_KEY: &str = "\u{10ffff}";

#[derive(Template)]
#[template(path = "pages/home.html")]
struct Home<'a> {
    frame: Frame<'a>,
    pipeline: Option<Pipeline>,
    views: Vec<View<'a>>,
    /// How many of them have reached the end of their stream.
    current: usize,
}

struct Pipeline {
    commands: Stream,
    waiting: Option<u64>,
    events: Stream,
    outcomes: Stream,
}

struct Stream {
    last: String,
    held: String,
    fill: String,
    meter: String,
    is_crowded: bool,
    /// Why it is not known.
    why: String,
}

struct View<'a> {
    context: &'a str,
    name: &'a str,
    to: String,
    position: String,
    lag: Option<u64>,
    why: String,
}

/// The page.
pub(super) async fn get(visit: Visit) -> Result<Response, Problem> {
    let may_see = visit.pages.contexts.iter().all(|context| visit.principal.may_list(context, "command", ""));
    let broker = &visit.pages.commands.broker;
    let states = [COMMANDS, EVENTS, OUTCOMES]
        .map(|name| async move { broker.state(name).await.map_err(|error| error.to_string()) });
    let [commands, events, outcomes] = states;
    let (commands, events, outcomes, decided) = futures::join!(commands, events, outcomes, async {
        if may_see { decided(&visit).await } else { None }
    });
    let ends = [&events, &outcomes].map(|state| state.as_ref().map_or(0, |state| state.last_sequence));
    let known = visit.pages.commands.views.known.iter();
    let granted = known.filter(|(context, name)| visit.principal.may_ask(context, name));
    let views = join_all(granted.map(|(context, name)| view(&visit, context, name, ends))).await;
    let waiting = commands
        .as_ref()
        .ok()
        .zip(decided)
        .map(|(state, decided)| state.last_sequence.saturating_sub(decided));
    let pipeline = may_see.then(|| Pipeline {
        commands: stream(commands),
        waiting,
        events: stream(events),
        outcomes: stream(outcomes),
    });
    let current = views.iter().filter(|view| view.lag == Some(0)).count();
    page(StatusCode::OK, &Home { frame: Frame::new(&visit), pipeline, views, current })
}

/// The position up to which COMMANDS is decided.
async fn decided(visit: &Visit) -> Option<u64> {
    let last = visit.pages.commands.broker.last(OUTCOMES, "out.>").await.ok()?;
    last.map_or(Some(0), |message| OutcomeRecord::from_stored(&message).ok().map(|record| record.through))
}

async fn view<'a>(visit: &Visit, context: &'a str, name: &'a str, [events, outcomes]: [u64; 2]) -> View<'a> {
    let subject = format!("{QUERY_PREFIX}.{context}.{name}.list");
    let body = json!({ "prefix": NO_KEY, "limit": 1 }).to_string().into();
    let asked =
        tokio::time::timeout(ANSWER_WAIT, ask_once(&visit.pages.commands.broker, &subject, body, None)).await;
    let (position, why) = match asked {
        Ok(Ok(answer)) => {
            (answer.position.and_then(|position| position.parse::<StreamPosition>().ok()), String::new())
        }
        Ok(Err(error)) => (None, super::api::Refusal::from(Problem::from(error)).detail),
        Err(_) => (None, "It does not answer.".to_owned()),
    };
    let end = if visit.pages.commands.views.stream_of(name) == OUTCOMES { outcomes } else { events };
    View {
        context,
        name,
        to: address::path(&["views", context, name]),
        lag: position.as_ref().map(|position| end.saturating_sub(position.sequence)),
        position: position.map(|position| grouped(position.sequence)).unwrap_or_default(),
        why,
    }
}

fn stream(state: Result<StreamState, String>) -> Stream {
    let state = match state {
        Ok(state) => state,
        Err(why) => {
            let [last, held, fill, meter] = [(); 4].map(|()| String::new());
            return Stream { last, held, fill, meter, is_crowded: false, why };
        }
    };
    let ratio = state.usage.ratio();
    let thousandths = (ratio * 1_000.0) as u64;
    Stream {
        last: grouped(state.last_sequence),
        held: format!("{} messages, {}", grouped(state.usage.messages), size(state.usage.bytes)),
        fill: format!("{}.{} % full", thousandths / 10, thousandths % 10),
        meter: chart::meter(thousandths),
        is_crowded: ratio > CROWDED,
        why: String::new(),
    }
}

/// A number with a narrow space between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes / 1_024),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes / 1_048_576),
        _ => format!("{} GiB", bytes / 1_073_741_824),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!([1_023, 2_048, 3 << 20, 5 << 30].map(size), ["1023 B", "2 KiB", "3 MiB", "5 GiB"]);
    }
}
